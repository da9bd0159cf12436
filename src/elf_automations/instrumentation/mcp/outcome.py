"""How an MCP call ended, on either side: typed result, wire result or exception.

Source of the rules: MCP specification (`isError`), JSON-RPC codes of the SDK (-32001 is a request timeout),
and the convention's `tool_error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from mcp.shared.exceptions import MCPError

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.spans import CallSpan

REQUEST_TIMEOUT: Final = -32001
TOOL_ERROR: Final = "tool_error"
_MAX_TOOLS: Final = 100


def end_with_result(call: CallSpan, result: object) -> None:
    """End a span by the result of its call: a result flagged as a tool error is an error."""
    if result_is_error(result):
        call.fail(TOOL_ERROR, error_text(result), TOOL_ERROR)
        return
    tools = getattr(result, "tools", None)
    if isinstance(tools, list):
        names = [str(getattr(tool, "name", "")) for tool in cast("list[object]", tools)[:_MAX_TOOLS]]
        call.set({elf.ELF_TARGET_CAPABILITIES: names})
    call.succeed()


def end_with_error(call: CallSpan, error: BaseException) -> None:
    """End a span by the exception of its call: JSON-RPC code, timeout, cancellation or any other error."""
    if not isinstance(error, MCPError):
        call.fail_with(error)
        return
    code, message = str(error.error.code), error.error.message
    call.set({otel.RPC_RESPONSE_STATUS_CODE: code})
    if error.error.code == REQUEST_TIMEOUT:
        call.time_out(message, code)
    else:
        call.fail(code, message, code)


def result_is_error(result: object) -> bool:
    """Return whether a tool result, typed or as the wire's mapping, is flagged as an error."""
    if isinstance(result, Mapping):
        return cast("Mapping[str, Any]", result).get("isError") is True
    return getattr(result, "is_error", False) is True


def error_text(result: object) -> str | None:
    """Return the text of an error result's first text block."""
    content = (
        cast("Mapping[str, Any]", result).get("content")
        if isinstance(result, Mapping)
        else getattr(result, "content", None)
    )
    if not isinstance(content, list):
        return None
    for block in cast("list[object]", content):
        text = (
            cast("Mapping[str, Any]", block).get("text") if isinstance(block, Mapping) else getattr(block, "text", None)
        )
        if isinstance(text, str) and text:
            return text
    return None
