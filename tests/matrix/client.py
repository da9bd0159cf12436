"""One face for the client libraries of the matrix."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any


@dataclass(frozen=True)
class Command:
    """A server to start and speak to over stdio."""

    program: str
    arguments: list[str]
    environment: Mapping[str, str]


class Caller:
    """What the behaviours need of a client."""

    def __init__(self, client: Any, stack: str) -> None:
        self._client = client
        self._stack = stack

    async def tool(
        self,
        name: str,
        arguments: dict[str, Any],
        patience: float | None = None,
        meta: dict[str, Any] | None = None,
    ) -> Any:
        if self._stack.startswith("fastmcp"):
            return await self._client.call_tool(name, arguments, timeout=patience, meta=meta)
        limit: Any = patience
        if patience is not None and self._stack == "mcp-1":
            limit = timedelta(seconds=patience)
        return await self._client.call_tool(name, arguments, read_timeout_seconds=limit, meta=meta)

    async def prompt(self, name: str, arguments: dict[str, str]) -> Any:
        return await self._client.get_prompt(name, arguments)

    async def resource(self, uri: str) -> Any:
        from pydantic import AnyUrl

        return await self._client.read_resource(AnyUrl(uri) if self._stack == "mcp-1" else uri)


@asynccontextmanager
async def connected(stack: str, target: str | Command) -> AsyncIterator[Caller]:
    """Connect with the stack's own client to a URL or a command."""
    async with AsyncExitStack() as opened:
        if stack.startswith("fastmcp"):
            yield Caller(await opened.enter_async_context(_fastmcp(stack, target)), stack)
        elif stack == "mcp-1":
            yield Caller(await _first(opened, target), stack)
        else:
            from mcp import Client, StdioServerParameters

            where: Any = target
            if isinstance(target, Command):
                where = StdioServerParameters(
                    command=target.program, args=target.arguments, env=dict(target.environment)
                )
            mode = "legacy" if stack.endswith("legacy") else "auto"
            yield Caller(await opened.enter_async_context(Client(where, mode=mode)), stack)


def _fastmcp(stack: str, target: str | Command) -> Any:
    from fastmcp import Client
    from fastmcp.client.transports import StdioTransport

    where: Any = target
    if isinstance(target, Command):
        where = StdioTransport(target.program, target.arguments, env=dict(target.environment), keep_alive=False)
    return Client(where, mode="legacy") if stack == "fastmcp-4-legacy" else Client(where)


async def _first(opened: AsyncExitStack, target: str | Command) -> Any:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client
    from mcp.client.streamable_http import streamable_http_client

    if isinstance(target, Command):
        where = StdioServerParameters(command=target.program, args=target.arguments, env=dict(target.environment))
        streams = await opened.enter_async_context(stdio_client(where))
    else:
        streams = await opened.enter_async_context(streamable_http_client(target))
    session = await opened.enter_async_context(ClientSession(streams[0], streams[1]))
    await session.initialize()
    return session
