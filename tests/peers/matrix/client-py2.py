"""A client of the matrix: Python SDK 2.x (mcp); both eras.

    DEPS/py2/bin/python client-py2.py --transport http|sse|ws --url URL --era legacy|modern|auto
                                      --mode Shared|PerSession --server NAME
    DEPS/py2/bin/python client-py2.py --era legacy|modern|auto --mode PerSession --server NAME
                                      --stdio COMMAND ARGUMENT...

The other options, the steps and the exit status are those told at the head of client-ts1.mjs. The era is what the SDK
is told: legacy sends `initialize`, modern speaks 2026-07-28 without asking, auto asks with `server/discover` and falls
back on `initialize`. This SDK has no WebSocket transport (that is a skipped step), and HTTP+SSE is of the legacy era.
"""

import argparse
import asyncio
import json
import os
import secrets
import sys
import threading
import time
import warnings
from contextlib import AsyncExitStack, asynccontextmanager

import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.sse import sse_client

# Logging, sampling and resources/subscribe are deprecated in the modern era; here they are to be tested.
warnings.simplefilter("ignore")

WATCHED = "test://watched"
TOOLS = {"echo", "elicit", "log", "progress", "sample", "slow", "touch", "was_cancelled"}
TIMEOUT = 10
MODERN = "2026-07-28"


def options():
    argv = sys.argv[1:]
    command = None
    if "--stdio" in argv:
        at = argv.index("--stdio")
        argv, command = argv[:at], argv[at + 1 :]
    parser = argparse.ArgumentParser(description="See the head of the file.")
    parser.add_argument("--transport", choices=["http", "sse", "ws"])
    parser.add_argument("--url")
    parser.add_argument("--era", choices=["legacy", "modern", "auto"], required=True)
    parser.add_argument("--mode", choices=["Shared", "PerSession"], required=True)
    parser.add_argument("--server", choices=["ts1", "ts2", "py1", "py2", "rmcp"], required=True)
    parser.add_argument("--interactive", choices=["works", "refused"])
    parser.add_argument("--log", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--deps", help="for the other clients")
    given = parser.parse_args(argv)
    given.command = command
    if command is None and not (given.transport and given.url):
        parser.error("--transport and --url, or --stdio, are needed")
    return given


o = options()
LEGACY_SERVER = o.server in ("ts1", "py1")


# --- the steps' frame ------------------------------------------------------------------------------------------------


class State:
    step = "connect"
    failed = False
    updates = 0
    logs: list[str] = []
    asked: dict[str, list[str]] = {"sample": [], "elicit": []}


def emit(**line):
    State.failed |= line.get("ok") is False
    print(json.dumps(line), flush=True)


def end():
    sys.stdout.flush()
    os._exit(1 if State.failed else 0)


def too_late():
    emit(step="all", ok=False, why="not done after 60 s")
    end()


class Wrong(Exception):
    """Something is not as it has to be."""


def check(right, why):
    if not right:
        raise Wrong(why)


def says(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Wrong):
        return str(error)
    code = f" ({error.error.code})" if isinstance(error, MCPError) else ""
    return f"{type(error).__name__}: {error}{code}"[:500]


async def step(name, work):
    State.step = name
    begun = time.monotonic()
    try:
        async with asyncio.timeout(20) as bound:
            more = await work()
        line = {"ok": True, **(more or {})}
    except Exception as error:
        line = {"ok": False, "why": "not done after 20 s" if bound.expired() else says(error)}
    emit(step=name, **line, ms=round((time.monotonic() - begun) * 1000))


def unique(what):
    return f"{what}-{secrets.token_hex(6)}"


async def until(seconds, what, holds):
    deadline = time.monotonic() + seconds
    while not await holds():
        check(time.monotonic() < deadline, f"{what}: not within {seconds} s")
        await asyncio.sleep(0.05)


# --- the connection --------------------------------------------------------------------------------------------------


async def on_sampling(_context, params):
    text = params.messages[0].content.text
    State.asked["sample"].append(text)
    content = types.TextContent(text=f"model: {text}")
    return types.CreateMessageResult(model="none", role="assistant", content=content)


async def on_elicitation(_context, params):
    State.asked["elicit"].append(params.message)
    return types.ElicitResult(action="accept", content={"name": f"name: {params.message}"})


async def on_log(params):
    State.logs.append(params.data)


async def on_message(message):
    if isinstance(message, types.ResourceUpdatedNotification):
        State.updates += str(message.params.uri) == WATCHED


def target():
    if o.command:
        return StdioServerParameters(command=o.command[0], args=o.command[1:], env=dict(os.environ))
    return sse_client(o.url) if o.transport == "sse" else o.url


def impossible():
    """What this SDK cannot do."""
    if o.transport == "ws":
        return "this SDK has no WebSocket transport"
    if o.transport == "sse" and o.era == "modern":
        return "HTTP+SSE is a transport of the legacy era"
    if o.command and o.era == "modern" and LEGACY_SERVER:
        return "the server is of the legacy era"
    return None


def text_of(result):
    return "\n".join(content.text for content in result.content)


class Steps:
    def __init__(self, client):
        self.client = client
        self.modern = client.protocol_version >= MODERN

    async def answer(self, tool, args, **more):
        """The text of a tool's answer; an error when the tool failed."""
        result = await self.client.call_tool(tool, args, **more)
        check(not result.is_error, f"{tool} says: {text_of(result)[:300]}")
        return text_of(result)

    async def list(self):
        names = {tool.name for tool in (await self.client.list_tools()).tools}
        check(TOOLS <= names, f"the tools are {' '.join(sorted(names))}")

    async def call(self):
        async def echo(text):
            got = await self.answer("echo", {"text": text})
            check(got == text, f"not its own answer: {len(got)} characters, {got[:80]!r}")

        for n in range(5):
            await echo(unique(f"one by one {n}"))
        await asyncio.gather(*(echo(unique(f"at once {n}")) for n in range(5)))
        # 200 kB with characters of one to four bytes, and some that line readers and JSON writers stumble over.
        piece = f'{unique("large")} äß€中🙂\u2028\u2029\u0085\t\r\n"\\/'
        await echo(piece * (200_000 // len(piece.encode()) + 1))

    async def progress(self):
        seen = []

        async def on_progress(value, total, _message):
            seen.append(f"{value:g}/{total:g}")

        text = await self.answer("progress", {"steps": 5, "ms": 80}, progress_callback=on_progress)
        check(text == "done", f"the answer is {text}")
        check(seen == ["1/5", "2/5", "3/5", "4/5", "5/5"], f"the progress was: {' '.join(seen)}")

    async def cancel(self):
        key = unique("cancelled")
        running = asyncio.create_task(self.client.call_tool("slow", {"ms": 30_000, "key": key}))
        try:
            await asyncio.sleep(0.2)
            check(await self.answer("was_cancelled", {"key": key}) == "no", "cancelled before it was")
            running.cancel()
            await asyncio.wait([running], timeout=5)
            check(running.cancelled(), f"the cancelled call ended with {running}")

            async def noticed():
                return await self.answer("was_cancelled", {"key": key}) == "yes"

            await until(5, "was_cancelled", noticed)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    @asynccontextmanager
    async def watching(self):
        """Subscribes as the era wants it."""
        if not self.modern:
            await self.client.subscribe_resource(WATCHED)
            yield
            await self.client.unsubscribe_resource(WATCHED)
            return

        async def hear(subscription):
            async for event in subscription:
                State.updates += event.uri == WATCHED

        async with self.client.listen(resource_subscriptions=[WATCHED]) as subscription:
            honored = subscription.honored.resource_subscriptions or []
            check(WATCHED in honored, f"honoured is only {honored}")
            hearing = asyncio.create_task(hear(subscription))
            try:
                yield
            finally:
                hearing.cancel()
                await asyncio.gather(hearing, return_exceptions=True)

    async def subscribe(self):
        async with self.watching():
            before = State.updates
            touched = await self.answer("touch", {})

            async def updated():
                return State.updates > before

            await until(5, f"the update (touch said: {touched})", updated)
        # Nothing tells when the server has noticed that a modern subscription ended.
        await asyncio.sleep(0.2 if self.modern else 0)
        after = State.updates
        await self.answer("touch", {})
        await asyncio.sleep(0.3)
        check(State.updates == after, "an update after unsubscribing")

    async def sample(self):
        return await self.interactive("sample", "prompt", "model: {}")

    async def elicit(self):
        return await self.interactive("elicit", "message", "accept name: {}")

    async def interactive(self, tool, parameter, expected):
        """One of the two tools that ask back; `expected` with the question in it is the right answer."""
        refused = o.interactive == "refused" if o.interactive else (
            LEGACY_SERVER if self.modern else o.mode == "Shared"
        )
        question = unique(tool)
        begun = time.monotonic()
        try:
            result = await self.client.call_tool(tool, {parameter: question})
        except MCPError as error:
            if not refused or time.monotonic() - begun > TIMEOUT - 0.5:
                raise
            check(question not in State.asked[tool], "refused, and yet the client was asked")
            return {"refused": says(error)[:200]}
        if refused:
            check(result.is_error, "it works, where it was to be refused")
            check(question not in State.asked[tool], "refused, and yet the client was asked")
            return {"refused": text_of(result)[:200]}
        check(not result.is_error, f"the tool says: {text_of(result)[:300]}")
        check(text_of(result) == expected.format(question), f"the answer is {text_of(result)}")
        check(State.asked[tool] == [question], f"the client was asked: {', '.join(State.asked[tool])}")

    async def log(self):
        text = unique("log")
        if self.modern:
            await self.answer("log", {"text": text}, meta={"io.modelcontextprotocol/logLevel": "info"})
        else:
            await self.client.set_logging_level("info")
            await self.answer("log", {"text": text})

        async def arrived():
            return text in State.logs

        await until(5, "the log message", arrived)


    async def again(self):
        """What the client does once nobody it knew is there any more, and another in its place."""
        emit(step="pause")
        await asyncio.to_thread(sys.stdin.readline)
        text, why = unique("again"), None
        for tries in range(1, 6):
            try:
                async with asyncio.timeout(3):
                    check(await self.answer("echo", {"text": text}) == text, "not its own answer")
                return {"tries": tries}
            except Exception as error:
                why = error
                # What opens again by itself takes its time.
                await asyncio.sleep(1.5)
        raise why


async def run(stack):
    steps = None

    async def connect():
        nonlocal steps
        client = Client(
            target(),
            mode=MODERN if o.era == "modern" else o.era,
            read_timeout_seconds=TIMEOUT,
            sampling_callback=on_sampling,
            elicitation_callback=on_elicitation,
            logging_callback=on_log,
            message_handler=on_message,
        )
        await stack.enter_async_context(client)
        # Without a handshake the server has not said its name.
        name = client.server_info and client.server_info.name
        check(name == o.server or (name is None and o.era == "modern"), f"this is {name}, not {o.server}")
        steps = Steps(client)
        return {"protocol": client.protocol_version, "era": "modern" if steps.modern else "legacy", "name": name}

    if impossible():
        emit(step="all", skipped=impossible())
        return
    await step("connect", connect)
    if steps and o.again:
        await step("list", steps.list)
        await step("again", steps.again)
    elif steps:
        for work in (steps.list, steps.call, steps.progress, steps.cancel, steps.subscribe, steps.sample, steps.elicit,
                     *([steps.log] if o.log else [])):  # fmt: skip
            await step(work.__name__, work)
        await step("close", stack.aclose)


async def main():
    try:
        async with AsyncExitStack() as stack:
            await run(stack)
    except BaseException as error:
        # A transport that breaks cancels the step; what broke shows when it is closed.
        if not State.failed:
            emit(step=State.step, ok=False, why=says(error))
    end()


watchdog = threading.Timer(60, too_late)
watchdog.daemon = True
watchdog.start()
asyncio.run(main())
