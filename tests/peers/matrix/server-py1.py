"""A server of the matrix: Python SDK 1.x (mcp), legacy era only; stdio, or Streamable HTTP at http://127.0.0.1:PORT/mcp.

    DEPS/py1/bin/python server-py1.py [--http PORT]

The tools are those described at the head of server-ts1.mjs.
"""

import contextlib
import sys

import anyio
from mcp import types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from pydantic import AnyUrl

WATCHED = "test://watched"
STRING = {"type": "string"}
NUMBER = {"type": "number"}
NAME_FORM = {"type": "object", "properties": {"name": STRING}, "required": ["name"]}
TOOLS = {
    "echo": ("Gives the text back.", {"text": STRING}),
    "progress": ("Reports progress.", {"steps": {"type": "integer"}, "ms": NUMBER}),
    "slow": ("Waits.", {"ms": NUMBER, "key": STRING}),
    "was_cancelled": ("Tells whether a slow call was cancelled.", {"key": STRING}),
    "sample": ("Asks the client's model.", {"prompt": STRING}),
    "elicit": ("Asks the user for a name.", {"message": STRING}),
    "touch": ("Says that test://watched changed.", {}),
    "log": ("Logs the text.", {"text": STRING}),
}

server = Server("py1", version="1.0.0")
cancelled: set[str] = set()
subscribed: set[str] = set()


@server.list_tools()
async def list_tools():
    return [
        types.Tool(
            name=name,
            description=description,
            inputSchema={"type": "object", "properties": properties, "required": list(properties)},
        )
        for name, (description, properties) in TOOLS.items()
    ]


@server.call_tool()
async def call_tool(name, args):
    return [types.TextContent(type="text", text=await work(name, args, server.request_context))]


async def work(name, args, context):
    session = context.session
    match name:
        case "echo":
            return args["text"]
        case "progress":
            token = context.meta.progressToken if context.meta else None
            for step in range(1, args["steps"] + 1):
                if token is not None:
                    await session.send_progress_notification(token, step, args["steps"])
                await anyio.sleep(args["ms"] / 1000)
            return "done"
        case "slow":
            try:
                await anyio.sleep(args["ms"] / 1000)
            except anyio.get_cancelled_exc_class():
                cancelled.add(args["key"])
                raise
            return "waited"
        case "was_cancelled":
            return "yes" if args["key"] in cancelled else "no"
        case "sample":
            content = types.TextContent(type="text", text=args["prompt"])
            messages = [types.SamplingMessage(role="user", content=content)]
            return (await session.create_message(messages, max_tokens=100)).content.text
        case "elicit":
            result = await session.elicit_form(args["message"], NAME_FORM)
            return f"{result.action} {(result.content or {}).get('name', '')}"
        case "touch":
            if WATCHED not in subscribed:
                return "nobody subscribed"
            await session.send_resource_updated(AnyUrl(WATCHED))
            return "sent"
        case "log":
            await session.send_log_message("info", args["text"])
            return "logged"
    raise ValueError(f"no such tool: {name}")


@server.list_resources()
async def list_resources():
    return [types.Resource(name="watched", uri=AnyUrl(WATCHED), mimeType="text/plain")]


@server.read_resource()
async def read_resource(_uri):
    return "watched"


@server.subscribe_resource()
async def subscribe(uri):
    subscribed.add(str(uri))


@server.unsubscribe_resource()
async def unsubscribe(uri):
    subscribed.discard(str(uri))


@server.set_logging_level()
async def set_logging_level(_level):
    pass


def honest(made):
    # The SDK says False here whatever is registered.
    made.capabilities.resources.subscribe = True
    return made


plain_options = server.create_initialization_options
server.create_initialization_options = lambda *args, **more: honest(plain_options(*args, **more))


def serve_http(port):
    import uvicorn
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
    from starlette.applications import Starlette
    from starlette.routing import Mount

    manager = StreamableHTTPSessionManager(app=server)

    @contextlib.asynccontextmanager
    async def lifespan(_app):
        async with manager.run():
            yield

    app = Starlette(routes=[Mount("/mcp", app=manager.handle_request)], lifespan=lifespan)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


async def main():
    options = server.create_initialization_options()
    async with stdio_server() as (read, write):
        await server.run(read, write, options)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--http"]:
        serve_http(int(sys.argv[2]))
    else:
        anyio.run(main)
