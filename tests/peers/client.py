"""A real MCP client for the tests: the official Python SDK (1.x) over Streamable HTTP or WebSocket.

    target/test-deps/client/bin/python client.py URL [--transport http|ws] [--label X] [--calls N] [--in-flight K]
        [--timeout SECONDS] [--tool NAME [--args JSON] [--expect TEXT]]...
    ... --until-stdin-closes [--pause MS]
    ... --slow [--duration SECONDS] [--steps N]

Takes the arguments of client.mjs, checks the same and prints the same lines; they are described there.
"""

import argparse
import asyncio
import json
import logging
import os
import secrets
import sys
import threading
import warnings
from contextlib import asynccontextmanager
from datetime import timedelta

# The SDK calls both of these transports deprecated; they are what is tested here.
warnings.simplefilter("ignore", DeprecationWarning)

import mcp.client.websocket as sdk_websocket
import mcp.types as types
from mcp import ClientSession, McpError
from mcp.client.streamable_http import streamablehttp_client
from mcp.shared._httpx_utils import create_mcp_http_client

MANY_FAILURES = 20
ZONES = [
    "Asia/Tokyo", "Asia/Kolkata", "Europe/London", "Europe/Athens", "America/New_York", "America/Lima", "Africa/Lagos",
    "Africa/Nairobi", "Australia/Darwin", "Pacific/Auckland", "Pacific/Honolulu", "Asia/Kathmandu", "Atlantic/Azores",
]  # fmt: skip


class OfTool(argparse.Action):
    """--args and --expect belong to the --tool before them."""

    def __call__(self, parser, namespace, value, option=None):
        if not namespace.tool:
            parser.error(f"{option} before any --tool")
        if self.dest == "args":
            try:
                json.loads(value)
            except ValueError as error:
                parser.error(f"--args {value}: {error}")
        namespace.tool[-1][self.dest] = value


def options():
    parser = argparse.ArgumentParser(prog="client.py", allow_abbrev=False)
    parser.add_argument("url")
    parser.add_argument("--transport", choices=["http", "ws"])
    parser.add_argument("--label", default="client")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--in-flight", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--tool", action="append", default=[], type=lambda name: {"name": name, "args": "{}"})
    parser.add_argument("--args", action=OfTool)
    parser.add_argument("--expect", action=OfTool)
    parser.add_argument("--until-stdin-closes", action="store_true")
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--duration", type=float, default=5)
    parser.add_argument("--steps", type=int, default=5)
    chosen = parser.parse_args()
    chosen.transport = chosen.transport or ("ws" if chosen.url.startswith("ws") else "http")
    return chosen


o = options()


def emit(**line):
    print(json.dumps({"label": o.label, **line}, ensure_ascii=False, separators=(",", ":")), flush=True)


class Seen:
    """What the connection does besides answering, and what went wrong."""

    notifications: dict[str, int] = {}
    list_changed: dict[str, int] = {}
    transport_errors: list[str] = []
    lost = False
    closing = False
    deleted = None
    websocket = None
    ok = 0
    failures = 0
    in_a_row = 0
    first_failures: list[str] = []


def fail(what):
    Seen.failures += 1
    Seen.in_a_row += 1
    if len(Seen.first_failures) < 5:
        Seen.first_failures.append(what)


def says(error):
    """The text of an error, also of the groups that task groups make of them."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(says(one) for one in error.exceptions)
    code = f" {error.error.code}" if isinstance(error, McpError) else ""
    return f"{type(error).__name__}: {error}{code}"


# --- what is called ---------------------------------------------------------------------------------------------------


def moment(unique):
    """A minute of the day and a place, from the random part of the value: the nearest to unique that a clock allows."""
    random = int(unique[-12:], 16)
    minute = random % 1440
    zone = ZONES[random % len(ZONES)]
    return {"source_timezone": "Etc/UTC", "time": f"{minute // 60:02}:{minute % 60:02}", "target_timezone": zone}


def right_moment(text, unique):
    answer, asked = json.loads(text), moment(unique)
    same_time = f"T{asked['time']}:00" in answer["source"]["datetime"]
    return same_time and answer["target"]["timezone"] == asked["target_timezone"]


directory = ""

# Tool, arguments, and whether an answer is the one for this call.
KNOWN = [
    ("echo", lambda u: {"message": u}, lambda text, u: text == f"Echo: {u}"),
    ("convert_time", moment, right_moment),
    (
        "write_file",
        lambda u: {"path": f"{directory}/{u}.txt", "content": u},
        lambda text, u: text == f"Successfully wrote to {directory}/{u}.txt",
    ),
    (
        "create_entities",
        lambda u: {"entities": [{"name": u, "entityType": "test", "observations": [u]}]},
        lambda text, u: f'"name": "{u}"' in text,
    ),
    ("daa_agent_create", lambda u: {"id": u}, lambda text, u: f'"{u}"' in text),
]


def shown_as(names, tool):
    """The name as this endpoint shows it: on the bridge a server's name stands before it."""
    return next((name for name in names if name == tool or name.endswith(f"__{tool}")), None)


def named_tool(tool):
    args = tool["args"]
    expect = tool.get("expect", "@UNIQUE@" if "@UNIQUE@" in args else "")
    return (
        tool["name"],
        lambda u: json.loads(args.replace("@UNIQUE@", u)),
        lambda text, u: expect.replace("@UNIQUE@", u) in text,
    )


async def plan(session, names):
    global directory
    if o.tool:
        return [named_tool(tool) for tool in o.tool]
    for tool, args, right in KNOWN:
        if shown := shown_as(names, tool):
            if tool == "write_file":
                answer = await session.call_tool(shown_as(names, "list_allowed_directories"), {})
                directory = text_of(answer).split("\n")[-1]
            return [(shown, args, right)]
    raise RuntimeError(f"none of the tools is known here, name one with --tool: {' '.join(names)}")


def text_of(result):
    return "\n".join(part.text for part in result.content if part.type == "text")


calls = 0


async def call(session, plans):
    global calls
    n = calls
    calls += 1
    tool, args, right = plans[n % len(plans)]
    unique = f"{o.label}-{n}-{secrets.token_hex(6)}"
    what = f"call {n} ({tool}, {unique})"
    try:
        result = await session.call_tool(tool, args(unique))
        text = text_of(result)
        if result.isError:
            fail(f"{what}: the tool says: {text[:300]}")
        elif not right(text, unique):
            fail(f"{what}: not its own answer: {text[:300]}")
        else:
            Seen.ok += 1
            Seen.in_a_row = 0
    except Exception as error:
        fail(f"{what}: {says(error)}")
        if not isinstance(error, McpError):
            Seen.lost = True  # the SDK's streams are closed: no further call can succeed


async def tool_names(session):
    names, cursor = [], None
    while True:
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=cursor) if cursor else None)
        names += [tool.name for tool in page.tools]
        cursor = page.nextCursor
        if not cursor:
            return names


# --- the connection ---------------------------------------------------------------------------------------------------


async def saw_response(response):
    if response.request.method == "DELETE":
        Seen.deleted = response.status_code


def http_client(**arguments):
    client = create_mcp_http_client(**arguments)
    client.event_hooks["response"].append(saw_response)
    return client


class RecordedConnect(sdk_websocket.ws_connect):
    """Keeps the connection, to see how it closes."""

    async def __aenter__(self):
        Seen.websocket = await super().__aenter__()
        return Seen.websocket


sdk_websocket.ws_connect = RecordedConnect


class Warned(logging.Handler):
    """What the SDK logs as a warning or worse is a transport error."""

    def emit(self, record):
        if not Seen.closing or "ermination" in record.getMessage():
            Seen.transport_errors.append(record.getMessage())


@asynccontextmanager
async def connection():
    if o.transport == "ws":
        async with sdk_websocket.websocket_client(o.url) as (read, write):
            yield read, write
    else:
        async with streamablehttp_client(o.url, httpx_client_factory=http_client) as (read, write, _):
            yield read, write


tasks = set()


class Listener:
    """Counts notifications, and as a real client would, asks for a list that has changed."""

    session = None

    async def __call__(self, message):
        if isinstance(message, Exception):
            Seen.transport_errors.append(says(message))
            return
        if not isinstance(message, types.ServerNotification):
            return
        method = message.root.method
        if method == "notifications/progress":
            return  # the session hands these to the call they belong to
        Seen.notifications[method] = Seen.notifications.get(method, 0) + 1
        if method.endswith("/list_changed"):
            of = method.split("/")[1]
            Seen.list_changed[of] = Seen.list_changed.get(of, 0) + 1
            if o.until_stdin_closes and not Seen.closing:
                # Not here: the session reads nothing further before this returns.
                task = asyncio.ensure_future(self.changed(of, Seen.list_changed[of]))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def changed(self, of, count):
        try:
            tools = {"tools": await tool_names(self.session)} if of == "tools" else {}
            emit(event="list_changed", of=of, count=count, **tools)
        except Exception as error:
            if not Seen.closing:
                fail(f"tools/list after list_changed: {says(error)}")


# --- the three modes --------------------------------------------------------------------------------------------------


async def plain(session, plans):
    begun = 0

    async def worker():
        nonlocal begun
        while begun < o.calls and not Seen.lost:
            begun += 1
            await call(session, plans)

    await asyncio.gather(*(worker() for _ in range(max(1, o.in_flight))))


async def until_stdin_closes(session, plans):
    marks, closed, ready = [], False, False
    loop = asyncio.get_running_loop()

    def end():
        nonlocal closed
        closed = True

    def listen():
        rest = b""
        while piece := os.read(0, 4096):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                loop.call_soon_threadsafe(marks.append, line.decode())
        loop.call_soon_threadsafe(end)

    threading.Thread(target=listen, daemon=True).start()

    async def worker():
        nonlocal marks, ready
        while not closed and not Seen.lost and Seen.in_a_row < MANY_FAILURES:
            due, marks[:] = list(marks), []
            await call(session, plans)
            if not ready and Seen.ok > 0:
                ready = True
                emit(event="ready")
            for line in due:
                emit(event="mark", line=line, ok=Seen.ok, failures=Seen.failures)
            await asyncio.sleep(o.pause / 1000)

    await asyncio.gather(*(worker() for _ in range(max(1, o.in_flight))))
    if Seen.in_a_row >= MANY_FAILURES:
        fail(f"given up after {MANY_FAILURES} failures in a row")


async def slow(session, names):
    tool = o.tool[0]["name"] if o.tool else shown_as(names, "trigger-long-running-operation")
    progress = []

    async def on_progress(value, total, _message):
        progress.append(value)
        emit(event="progress", progress=whole(value), total=whole(total))

    emit(event="calling", tool=tool)
    try:
        result = await session.call_tool(
            tool, {"duration": whole(o.duration), "steps": o.steps}, progress_callback=on_progress
        )
        text = text_of(result)
        if result.isError or f"Duration: {whole(o.duration)} seconds, Steps: {o.steps}." not in text:
            fail(f"not its own answer: {text}")
        elif progress != list(range(1, o.steps + 1)):
            fail(f"progress was {progress}")
        else:
            Seen.ok += 1
        emit(event="result", text=text, progress=len(progress))
    except Exception as error:
        code = error.error.code if isinstance(error, McpError) else None
        message = error.error.message if isinstance(error, McpError) else says(error)
        emit(event="error", code=code, message=message, progress=len(progress))
        fail(says(error))


def whole(number):
    return int(number) if isinstance(number, float) and number.is_integer() else number


def how_closed():
    """None when the connection ended cleanly, else what was wrong."""
    if o.transport == "http":
        return None if Seen.deleted in (200, 202, 204, 405) else f"closing: DELETE was answered {Seen.deleted}"
    code = Seen.websocket.close_code
    return None if code in (1000, 1001, 1005, 1012) else f"closing: WebSocket not closed cleanly: {code}"


async def main():
    logger = logging.getLogger("mcp")
    logger.setLevel(logging.WARNING)
    logger.addHandler(Warned())
    logger.propagate = False

    info = None
    tools = []
    listener = Listener()
    try:
        async with connection() as (read, write):
            async with ClientSession(
                read, write, read_timeout_seconds=timedelta(seconds=o.timeout), message_handler=listener
            ) as session:
                listener.session = session
                info = await session.initialize()
                tools = await tool_names(session)
                if o.slow:
                    await slow(session, tools)
                else:
                    await (until_stdin_closes if o.until_stdin_closes else plain)(session, await plan(session, tools))
                Seen.closing = True
    except Exception as error:
        if info is None:
            raise
        fail(f"the connection was lost: {says(error)}")
    else:
        if Seen.lost:
            fail(f"the connection was lost {Seen.websocket.close_code if Seen.websocket else ''}")
    close_error = how_closed()
    # A daemon that was told to stop may be gone when the slow call has its answer.
    if close_error and not o.slow:
        fail(close_error)
    if not o.until_stdin_closes and not o.slow:
        for error in Seen.transport_errors:
            fail(f"transport: {error}")
    emit(
        **({"event": "end"} if o.slow or o.until_stdin_closes else {}),
        transport=o.transport, protocol=info.protocolVersion,
        server=f"{info.serverInfo.name} {info.serverInfo.version}", tools=tools, ok=Seen.ok,
        failures=Seen.failures, first_failures=Seen.first_failures,
        list_changed=Seen.list_changed, notifications=Seen.notifications,
        transport_errors=Seen.transport_errors[:5],
        closed=close_error or (f"code {Seen.websocket.close_code}" if o.transport == "ws" else "ok"),
    )  # fmt: skip
    if Seen.failures:
        raise RuntimeError(f"{Seen.failures} failures: {'; '.join(Seen.first_failures)}")


try:
    asyncio.run(main())
except Exception as error:
    text = str(error) if isinstance(error, RuntimeError) else says(error)
    print(f"client.py {o.label}: {text}", file=sys.stderr)
    sys.stdout.flush()
    os._exit(1)
# A thread may still read stdin, and the interpreter would wait for it.
sys.stdout.flush()
os._exit(0)
