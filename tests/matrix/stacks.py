"""The MCP stacks that the environment at hand can run; each is a server library, a client library and an era."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def _major(distribution: str) -> int:
    try:
        return int(version(distribution).partition(".")[0])
    except PackageNotFoundError:
        return 0


MCP, FASTMCP = _major("mcp"), _major("fastmcp")

STACKS: list[str] = {
    (1, 0): ["mcp-1"],
    (1, 3): ["fastmcp-3"],
    (2, 0): ["mcp-2-modern", "mcp-2-legacy"],
    (2, 4): ["mcp-2-modern", "mcp-2-legacy", "fastmcp-4-modern", "fastmcp-4-legacy"],
}[MCP, FASTMCP]
TRANSPORTS = ["stdio", "http"]
