"""How an MCP call ended, in every spelling."""

from __future__ import annotations

import asyncio

import pytest
from mcp.shared.exceptions import MCPError

from elf_automations.instrumentation.mcp.outcome import Ending, ending_of_code, ending_of_error, ending_of_result


class EvasiveError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (MCPError(code=-32001, message="Request 'tools/call' timed out"), "timeout", "timeout"),
        (MCPError(code=408, message="Waited 2 seconds."), "timeout", "timeout"),
        (MCPError(code=-32000, message="Tool 'x' execution timed out after 1s"), "timeout", "timeout"),
        (TimeoutError(), "timeout", "timeout"),
        (OSError("read timed out"), "timeout", "timeout"),
        (asyncio.CancelledError(), "cancelled", None),
        (KeyboardInterrupt(), "cancelled", None),
        (MCPError(code=0, message="Request cancelled"), "cancelled", None),
        (MCPError(code=-32602, message="Unknown tool"), "error", "-32602"),
        (MCPError(code=-32000, message="Connection closed"), "error", "-32000"),
        (ValueError("no"), "error", "ValueError"),
        (EvasiveError(), "error", "EvasiveError"),
    ],
)
def test_an_exception_tells(error, status, error_type):
    ending = ending_of_error(error)
    assert (ending.status, ending.error_type) == (status, error_type)


@pytest.mark.parametrize(
    ("result", "ending"),
    [
        ({"content": [], "isError": False}, Ending("success")),
        (
            {"isError": True, "content": [{"type": "text", "text": "no station"}]},
            Ending("error", "tool_error", "no station"),
        ),
        ({"isError": "true"}, Ending("success")),
        ({"tools": []}, Ending("success")),
        (None, Ending("success")),
    ],
)
def test_a_result_tells(result, ending):
    assert ending_of_result(result) == ending


def test_a_code_is_said_as_text():
    assert ending_of_code(-32601, "Method not found") == Ending("error", "-32601", "Method not found", "-32601")
