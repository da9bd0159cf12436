"""Requests of MCP 1.x that are read by their method are what the SDK reads, and what it refuses is refused alike."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from mcp import types
from pydantic import ValidationError

from elf_automations.instrumentation.mcp.reading import ByMethod, reading
from matrix.stacks import MCP

NOT_THERE = object()
METHODS = [
    "ping", "initialize", "completion/complete", "logging/setLevel", "prompts/get", "prompts/list", "resources/list",
    "resources/templates/list", "resources/read", "resources/subscribe", "resources/unsubscribe", "tools/call",
    "tools/list", "tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "sampling/createMessage", "roots/list",
    "elicitation/create", "no/such", "", None, 7, NOT_THERE,
]  # fmt: skip
PARAMS = [
    NOT_THERE, None, {}, [], "text",
    {"name": "greet", "arguments": {"name": "Ada"}},
    {"name": "greet", "arguments": {"name": "Ada"}, "_meta": {"traceparent": "00-1-2-01", "baggage": "a=b"}},
    {"name": "greet", "arguments": None, "_meta": {"progressToken": 3, "traceparent": None}, "more": [1]},
    {"name": 7}, {"name": "greet", "_meta": "no mapping"}, {"_meta": {"progressToken": {}}},
    {"uri": "file:///a", "_meta": {"x": {"y": 1}}}, {"uri": "no uri"}, {"level": "info"}, {"level": "loud"},
    {"cursor": "next"}, {"cursor": 1}, {"taskId": "t1"},
    {"ref": {"type": "ref/prompt", "name": "p"}, "argument": {"name": "a", "value": "b"}},
    {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}},
    {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 5},
]  # fmt: skip


def read(union: Any, message: Any) -> tuple[Any, ...]:
    try:
        made = union.model_validate(message)
    except ValidationError as error:
        return "refused", str(error)
    return type(made), type(made.root), made, repr(made), made.model_dump(by_alias=True, mode="json")


@pytest.mark.parametrize("union", ["ClientRequest", "ServerRequest"])
def test_a_message_is_read_as_the_sdk_reads_it(union):
    plain = getattr(types, union)
    by_method = reading(plain)
    if by_method is None:  # 2.x reads by method itself
        assert MCP > 1
        return
    assert isinstance(by_method, ByMethod)
    for method, params in product(METHODS, PARAMS):
        said = {"method": method, "params": params, "jsonrpc": "2.0", "id": 1}
        message = {name: value for name, value in said.items() if value is not NOT_THERE}
        assert read(by_method, message) == read(plain, message), message
    assert read(by_method, "no message") == read(plain, "no message")
    assert by_method.__name__ == plain.__name__


def test_what_is_not_told_apart_by_method_is_left_alone():
    assert reading(types.JSONRPCMessage) is None
    assert reading(int) is None
