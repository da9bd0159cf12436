"""What the demo itself knows it did: calls and outcomes, to hold the rows against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable
from typing import Any, Literal, TypeAlias

from mcp.shared.exceptions import MCPError

Expected: TypeAlias = Literal["success", "error", "timeout", "cancelled"]

PROTOCOLS = ("mcp", "a2a", "n8n")
STATUSES = ("success", "error", "timeout", "cancelled")


class Ledger:
    """Counts calls by protocol and status as the caller saw them end."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def note(self, protocol: str, status: str) -> None:
        """Count one call."""
        self._counts[protocol, status] += 1

    def by_protocol(self) -> dict[str, int]:
        """Return the calls of each protocol."""
        return {name: sum(n for (p, _), n in self._counts.items() if p == name) for name in PROTOCOLS}

    def by_status(self) -> dict[str, int]:
        """Return the calls of each status."""
        return {name: sum(n for (_, s), n in self._counts.items() if s == name) for name in STATUSES}

    async def tool_call(self, call: Awaitable[Any]) -> Any:
        """Await an MCP tool call and count it by its flag or its exception; an exception ends here."""
        try:
            result = await call
        except MCPError as error:
            self.note("mcp", "timeout" if "timed out" in str(error) else "error")
            return None
        self.note("mcp", "error" if result.is_error else "success")
        return result
