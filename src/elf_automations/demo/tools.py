"""The demo's MCP servers: `crm-tools` over streamable HTTP, `notes-tools` over stdio (`python -m` this module)."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from elf_automations.pipeline import configure

CRM: Final = "crm-tools"
NOTES: Final = "notes-tools"
_PRICES: Final = {"starter": 490, "team": 1900, "fleet": 8400}


def quiet() -> None:
    """Keep the neighbours' logs out of the demo's output; ours stay."""
    logging.getLogger().setLevel(logging.CRITICAL)
    logging.getLogger("elf_automations").setLevel(logging.WARNING)
    logging.getLogger("elf_exporters").setLevel(logging.WARNING)


def crm_tools() -> MCPServer:
    """Return the CRM server: prices, customers, a report that takes its time."""
    server = MCPServer(CRM, log_level="CRITICAL")

    @server.tool()
    def lookup_price(plan: str) -> str:
        """Return the yearly price of a plan."""
        if plan not in _PRICES:
            message = f"no plan is called {plan!r}"
            raise ToolError(message)
        return f"{_PRICES[plan]} EUR"

    @server.tool()
    async def search_customers(query: str) -> str:
        """Return the customers whose name holds the query."""
        await asyncio.sleep(0.01)
        return f"3 customers match {query!r}"

    @server.tool()
    async def yearly_report(seconds: float) -> str:
        """Return the report of the year, which takes a while."""
        await asyncio.sleep(seconds)
        return "the year was good"

    return server


def notes_tools() -> MCPServer:
    """Return the notes server, which runs as a process of its own."""
    server = MCPServer(NOTES, log_level="CRITICAL")
    notes: dict[str, str] = {"welcome": "Call back on Monday."}

    @server.tool()
    def read_note(title: str) -> str:
        """Return a note."""
        if title not in notes:
            message = f"no note is called {title!r}"
            raise ToolError(message)
        return notes[title]

    @server.tool()
    def write_note(title: str, text: str) -> str:
        """Keep a note."""
        notes[title] = text
        return "kept"

    return server


def main() -> None:
    """Serve the notes over stdio, recording the server's side of each call."""
    telemetry = configure()
    server = notes_tools()
    quiet()
    try:
        server.run("stdio")
    finally:
        telemetry.shutdown()


if __name__ == "__main__":
    main()
