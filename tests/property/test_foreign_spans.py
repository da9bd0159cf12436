"""Nothing a foreign library puts on its spans breaks the mapping, and what it puts there of content stays there."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from elf_automations.model import SpanKind, StatusCode, settle
from elf_automations.model.protocols.mcp_dialects import CONVENTION, DIALECTS
from records import span

SECRET = "what the tool was asked"
LIBRARIES = {"somebody-elses": CONVENTION, **DIALECTS}
NAMES = sorted(
    {
        name
        for dialect in LIBRARIES.values()
        for name in (
            *dialect.methods,
            *dialect.tools,
            *dialect.servers,
            *dialect.callers,
            *dialect.error_codes,
            *dialect.error_messages,
            *dialect.http_statuses,
            *dialect.internal,
            *dialect.relays,
            *dialect.kept,
        )
    }
    | {"error.type", "gen_ai.usage.input_tokens", "gen_ai.response.model", "jsonrpc.request.id", "elf.caller.span_id"}
)
CONTENT = sorted({name for dialect in LIBRARIES.values() for name in (dialect.request, dialect.response) if name})
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.text(max_size=5))
SPAN_NAMES = st.sampled_from(
    [
        "tools/call x",
        "MCP send tools/list",
        "x.tool",
        "tools/call.mcp",
        "MCP request: prompts/get",
        "mcp tools/call",
        "",
    ]
) | st.text(max_size=30)


# The first priced call loads the price list.
@settings(deadline=None)
@given(
    st.sampled_from(sorted(LIBRARIES)),
    SPAN_NAMES,
    st.sampled_from(SpanKind),
    st.sampled_from(StatusCode),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.dictionaries(st.sampled_from(CONTENT), VALUES),
)
def test_whatever_the_attributes_are_there_is_at_most_one_row(scope, name, kind, status, said, content):
    one = span(1, name, kind, {"mcp.method.name": "tools/call", **said, **content}, scope_name=scope, status=status)
    assert len(settle([one]).rows) <= 1


DEEP = st.recursive(
    st.just(SECRET) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@given(
    st.sampled_from(sorted(LIBRARIES)), st.sampled_from(CONTENT), DEEP, st.sampled_from(["tools/call", "prompts/get"])
)
def test_content_never_becomes_part_of_a_row(scope, attribute, arguments, method):
    message = json.dumps({"method": method, "params": {"name": "x", "arguments": arguments}})
    for text in (message, message[:-3]):
        said = {"mcp.method.name": method, "rpc.method": method, attribute: text}
        for name in ("x.tool", f"MCP request: {method} x", f"{method}.mcp", f"{method} x"):
            rows = settle([span(1, name, SpanKind.CLIENT, said, scope_name=scope)]).rows
            assert SECRET not in repr(rows)


def test_arguments_nested_as_deep_as_can_be_cost_only_their_size():
    deep = '{"params":{"name":"x","arguments":' + "[" * 1000 + "]" * 1000 + "}}"
    (row,) = settle(
        [span(1, "MCP request: tools/call", SpanKind.INTERNAL, {"request": deep}, scope_name="logfire.mcp")]
    ).rows
    assert (row.tool_name, row.payload_size_bytes) == ("x", None)
