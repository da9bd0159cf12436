"""How an MCP call ended, on either side: typed result, wire result, JSON-RPC error or exception.

Source of the rules: the MCP specification (`isError`), the convention's `tool_error`, and the spellings of a timeout
found in SDKs: -32001 (2.x, TypeScript), 408 (1.x), `TimeoutError`, and any error that says "timed out". A call whose
caller gave up (task cancelled, `asyncio.timeout`, `notifications/cancelled`) is cancelled: nobody failed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from mcp.shared import exceptions

from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.spans import spoken
from elf_automations.model import Status

TOOL_ERROR: Final = "tool_error"
TIMEOUT: Final = "timeout"
_TIMEOUT_CODES: Final = frozenset({-32001, 408})
_TIMED_OUT: Final = re.compile(r"\btimed out\b", re.IGNORECASE)
_HEADER_MISMATCH: Final = -32020
# How a 1.x server answers a request that `notifications/cancelled` took back.
_CANCELLED_ANSWER: Final = (0, "Request cancelled")

# `McpError` in 1.x, `MCPError` in 2.x.
_PROTOCOL_ERROR: Final = cast(
    "type[Exception]", getattr(exceptions, "MCPError", None) or getattr(exceptions, "McpError", None) or ()
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended; `rpc_code` is the JSON-RPC error code, when there was one."""

    status: Status
    error_type: str | None = None
    message: str | None = None
    rpc_code: str | None = None


SUCCESS: Final = Ending("success")


def ending_of_result(result: object) -> Ending:
    """Return how a call with this result ended: one flagged as a tool error is an error."""
    if field(result, "isError", "is_error") is not True:
        return SUCCESS
    return Ending("error", TOOL_ERROR, _error_text(result))


def ending_of_error(error: BaseException) -> Ending:
    """Return how a call that ended with this exception ended."""
    if isinstance(error, _PROTOCOL_ERROR):
        data: Any = getattr(error, "error", None)
        return ending_of_code(getattr(data, "code", None), getattr(data, "message", None) or spoken(error))
    if not isinstance(error, Exception):
        return Ending("cancelled")
    message = spoken(error)
    if isinstance(error, TimeoutError) or _TIMED_OUT.search(message or ""):
        return Ending("timeout", TIMEOUT, message)
    return Ending("error", type(error).__qualname__, message)


def is_header_mismatch(error: BaseException) -> bool:
    """Return whether a server refused a request for the headers it came with, which its client may send again."""
    return isinstance(error, _PROTOCOL_ERROR) and getattr(error, "code", None) == _HEADER_MISMATCH


def ending_of_code(code: object, message: str | None) -> Ending:
    """Return how a call answered by this JSON-RPC error ended."""
    said = str(code) if code is not None else None
    if (code, message) == _CANCELLED_ANSWER:
        return Ending("cancelled", None, message, said)
    if code in _TIMEOUT_CODES or _TIMED_OUT.search(message or ""):
        return Ending("timeout", TIMEOUT, message, said)
    return Ending("error", said, message, said)


def _error_text(result: object) -> str | None:
    """Return the text of an error result's first text block."""
    content = field(result, "content")
    for block in cast("list[object]", content) if isinstance(content, list) else ():
        text = (
            cast("Mapping[str, Any]", block).get("text") if isinstance(block, Mapping) else getattr(block, "text", None)
        )
        if isinstance(text, str) and text:
            return text
    return None
