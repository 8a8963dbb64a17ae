"""A server of the matrix: Python SDK 2.x (mcp), both eras; stdio, where the opening decides, or Streamable HTTP at
http://127.0.0.1:PORT/mcp.

    DEPS/py2/bin/python server-py2.py [--http PORT]

The tools are those described at the head of server-ts1.mjs. In the modern era `sample` and `elicit` answer with
`input_required`, carry a requestState and insist on getting the same one back; in the legacy era they send a request
to the client.
"""

import sys
import warnings

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourceUpdated

# Logging and sampling are deprecated in the modern era; they are here to be tested.
warnings.simplefilter("ignore")

WATCHED = "test://watched"
MODERN = "2026-07-28"
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

cancelled: set[str] = set()
subscribed: set[str] = set()
bus = InMemorySubscriptionBus()


async def list_tools(_context, _params):
    return types.ListToolsResult(
        tools=[
            types.Tool(
                name=name,
                description=description,
                input_schema={"type": "object", "properties": properties, "required": list(properties)},
            )
            for name, (description, properties) in TOOLS.items()
        ]
    )


async def call_tool(context, params):
    try:
        result = await work(params.name, params.arguments or {}, context, params)
    except Exception as error:
        return types.CallToolResult(content=[types.TextContent(text=str(error) or repr(error))], is_error=True)
    if isinstance(result, types.InputRequiredResult):
        return result
    return types.CallToolResult(content=[types.TextContent(text=result)])


async def work(name, args, context, params):
    session = context.session
    modern = context.protocol_version >= MODERN
    match name:
        case "echo":
            return args["text"]
        case "progress":
            for step in range(1, args["steps"] + 1):
                await session.report_progress(step, args["steps"])
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
            messages = [types.SamplingMessage(role="user", content=types.TextContent(text=args["prompt"]))]
            if modern:
                asked = types.CreateMessageRequestParams(messages=messages, max_tokens=100)
                result = ask(params, args["prompt"], types.CreateMessageRequest(params=asked))
            else:
                result = await session.create_message(messages, max_tokens=100)
            return result if isinstance(result, types.InputRequiredResult) else result.content.text
        case "elicit":
            if modern:
                asked = types.ElicitRequestFormParams(message=args["message"], requested_schema=NAME_FORM)
                result = ask(params, args["message"], types.ElicitRequest(params=asked))
            else:
                result = await session.elicit_form(args["message"], NAME_FORM)
            if isinstance(result, types.InputRequiredResult):
                return result
            return f"{result.action} {(result.content or {}).get('name', '')}"
        case "touch":
            await bus.publish(ResourceUpdated(uri=WATCHED))
            if modern:
                return "sent"
            if WATCHED not in subscribed:
                return "nobody subscribed"
            await session.send_resource_updated(WATCHED)
            return "sent"
        case "log":
            await session.send_log_message("info", args["text"], related_request_id=context.request_id)
            return "logged"
    raise ValueError(f"no such tool: {name}")


def ask(params, question, request):
    """The client's answer if this call brings it, else the result that asks for it."""
    # A state that shows whether somebody on the way took it apart and put it together again.
    state = f'{{"question": "{question}",  "ü€\\u0041" :1.0}}'
    got = (params.input_responses or {}).get("asked")
    if got is None:
        return types.InputRequiredResult(input_requests={"asked": request}, request_state=state)
    if params.request_state != state:
        raise ValueError(f"requestState came back as {params.request_state}")
    return got


async def list_resources(_context, _params):
    return types.ListResourcesResult(resources=[types.Resource(name="watched", uri=WATCHED, mime_type="text/plain")])


async def read_resource(_context, _params):
    content = types.TextResourceContents(uri=WATCHED, mime_type="text/plain", text="watched")
    return types.ReadResourceResult(contents=[content])


async def subscribe(_context, params):
    subscribed.add(str(params.uri))
    return types.EmptyResult()


async def unsubscribe(_context, params):
    subscribed.discard(str(params.uri))
    return types.EmptyResult()


async def set_logging_level(_context, _params):
    return types.EmptyResult()


server = Server(
    "py2",
    version="1.0.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_resources=list_resources,
    on_read_resource=read_resource,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
    on_subscriptions_listen=ListenHandler(bus),
    on_set_logging_level=set_logging_level,
)


async def main():
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    if sys.argv[1:2] == ["--http"]:
        import uvicorn

        app = server.streamable_http_app()
        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", timeout_graceful_shutdown=1)
    else:
        anyio.run(main)
