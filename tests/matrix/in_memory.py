"""Client and server of a stack in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from matrix.client import Caller


@asynccontextmanager
async def linked(stack: str, server: Any) -> AsyncIterator[tuple[Caller, Any]]:
    """Connect to a server of the stack; yield the caller and the SDK session below it."""
    if stack == "mcp-1":
        from mcp.shared.memory import create_connected_server_and_client_session

        async with create_connected_server_and_client_session(server) as session:
            yield Caller(session, stack), session
        return
    if stack.startswith("fastmcp"):
        from fastmcp import Client
    else:
        from mcp import Client
    eras = {} if stack == "fastmcp-3" else {"mode": "legacy" if stack.endswith("legacy") else "auto"}
    async with Client(server, **eras) as client:
        yield Caller(client, stack), client.session
