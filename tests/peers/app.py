"""Clients as people have them: calls one tool of an MCP server with a framework, and prints what it answers.

    target/test-deps/apps2/bin/python app.py fastmcp|pydantic-ai|shim TRANSPORT URL TOOL
    target/test-deps/apps1/bin/python app.py langchain|mcp-use TRANSPORT URL TOOL

With one argument more, `again`, it then prints a line, waits for one on its standard input, and calls the tool once more.

TRANSPORT is http or sse. TOOL takes a `message` and answers "Echo: MESSAGE". With `shim`, URL is the
command of a program that is a server on its standard streams, as words that are separated by spaces.
"""

import asyncio
import sys

HELLO = {"message": "hello"}


async def twice(call):
    """What a call answers; with `again`, what a second one answers, which may take three tries."""
    answer = await call()
    if sys.argv[5:] != ["again"]:
        return answer
    print(answer, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for tries in range(1, 4):
        try:
            return f"{await asyncio.wait_for(call(), 10)} again, {tries}"
        except Exception as error:
            why = error
    return f"no more: {type(why).__name__}: {why}"



async def fastmcp(transport, url, tool):
    from fastmcp import Client
    from fastmcp.client.transports import SSETransport, StreamableHttpTransport

    kind = {"http": StreamableHttpTransport, "sse": SSETransport}[transport]
    async with Client(kind(url)) as client:
        assert tool in [one.name for one in await client.list_tools()]

        async def call():
            return (await client.call_tool(tool, HELLO)).content[0].text

        return await twice(call)


async def pydantic_ai(transport, url, tool):
    from fastmcp.client.transports import SSETransport, StreamableHttpTransport
    from pydantic_ai.mcp import MCPToolset

    kind = {"http": StreamableHttpTransport, "sse": SSETransport}[transport]
    async with MCPToolset(kind(url)) as tools:
        assert tool in [one.name for one in await tools.list_tools()]
        return await twice(lambda: tools.direct_call_tool(tool, HELLO))


async def langchain(transport, url, tool):
    from langchain_mcp_adapters.client import MultiServerMCPClient

    kind = {"http": "streamable_http", "sse": "sse"}[transport]
    tools = await MultiServerMCPClient({"it": {"transport": kind, "url": url}}).get_tools()
    [found] = [one for one in tools if one.name == tool]
    return await twice(lambda: found.ainvoke(HELLO))


async def mcp_use(_transport, url, tool):
    from mcp_use import MCPClient

    client = MCPClient.from_dict({"mcpServers": {"it": {"url": url}}})
    session = await client.create_session("it")
    assert tool in [one.name for one in await session.list_tools()]

    async def call():
        return (await session.call_tool(tool, HELLO)).content[0].text

    answer = await twice(call)
    await client.close_all_sessions()
    return answer


async def shim(_transport, command, tool):
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    program, *args = command.split()
    async with Client(StdioTransport(program, args)) as client:
        assert tool in [one.name for one in await client.list_tools()]
        return (await client.call_tool(tool, HELLO)).content[0].text


ALL = {"fastmcp": fastmcp, "pydantic-ai": pydantic_ai, "langchain": langchain, "mcp-use": mcp_use, "shim": shim}
print(asyncio.run(ALL[sys.argv[1]](*sys.argv[2:5])))
