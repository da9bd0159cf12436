"""A server of the SDK whose tools ask their client, and a client that answers."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from matrix.stacks import MCP

if MCP == 1:
    from mcp import types
    from mcp.server.fastmcp import Context, FastMCP

    def _server() -> Any:
        return FastMCP("asking", log_level="CRITICAL")
else:
    import mcp_types as types
    from mcp.server.mcpserver import Context, MCPServer

    def _server() -> Any:
        return MCPServer("asking", log_level="CRITICAL")


def asking_tools() -> Any:
    """Return a server with a tool for each kind of request that goes to the client."""
    server = _server()

    @server.tool()
    async def sample(context: Context) -> str:
        said = types.SamplingMessage(role="user", content=types.TextContent(type="text", text="hi"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            answer = await context.session.create_message([said], max_tokens=5)
        return str(answer.content.text)

    @server.tool()
    async def look_around(context: Context) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return str(len((await context.session.list_roots()).roots))

    return server


@asynccontextmanager
async def answering(target: Any, answer: Callable[[], Any]) -> AsyncIterator[Any]:
    """Connect to a server in memory or at a URL; samples are made by `answer()`, roots are never told."""

    async def sampling(_: Any, __: Any) -> Any:
        return await answer()

    me = types.Implementation(name="answering", version="1")
    async with AsyncExitStack() as opened:
        if MCP > 1:
            from mcp import Client

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                client = Client(target, mode="legacy", sampling_callback=sampling, client_info=me)
            yield await opened.enter_async_context(client)
            return
        from mcp import ClientSession
        from mcp.client.streamable_http import streamable_http_client
        from mcp.shared.memory import create_connected_server_and_client_session

        if isinstance(target, str):
            streams = await opened.enter_async_context(streamable_http_client(target))
            session = ClientSession(streams[0], streams[1], sampling_callback=sampling, client_info=me)
            await opened.enter_async_context(session)
            await session.initialize()
        else:
            session = await opened.enter_async_context(
                create_connected_server_and_client_session(target, sampling_callback=sampling, client_info=me)
            )
        yield session


def sampled(text: str) -> Any:
    """Return what a model said."""
    return types.CreateMessageResult(role="assistant", content=types.TextContent(type="text", text=text), model="m")


def refused(text: str) -> Any:
    """Return what a client answers that does not want to."""
    return types.ErrorData(code=-1, message=text)
