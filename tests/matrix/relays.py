"""A server that answers by asking another one, and passes on the `_meta` it was asked with."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from matrix.client import connected
from matrix.in_memory import linked


def relay(stack: str, target: Any) -> Any:
    """Return a server of the stack whose `get_weather` is that of `target`, a URL or a server in memory."""
    if stack.startswith("fastmcp"):
        from fastmcp.server import create_proxy

        return create_proxy(target, name="relay")
    if stack == "mcp-1":
        from mcp.server.fastmcp import Context, FastMCP

        server: Any = FastMCP("relay", log_level="CRITICAL")
    else:
        from mcp.server.mcpserver import Context, MCPServer

        server = MCPServer("relay", log_level="CRITICAL")

    async def get_weather(city: str, context: Any) -> str:
        async with AsyncExitStack() as opened:
            if isinstance(target, str):
                caller = await opened.enter_async_context(connected(stack, target))
            else:
                caller, _ = await opened.enter_async_context(linked(stack, target))
            result = await caller.tool("get_weather", {"city": city}, meta=passed_on(context.request_context.meta))
            return result.content[0].text

    get_weather.__annotations__["context"] = Context
    server.tool()(get_weather)
    return server


def passed_on(meta: Any) -> dict[str, Any]:
    """Return what a request's `_meta` holds, but for what the SDK says of its own connection."""
    said = meta.model_dump(exclude_none=True) if hasattr(meta, "model_dump") else dict(meta or {})
    return {name: value for name, value in said.items() if not name.startswith("io.modelcontextprotocol/")}
