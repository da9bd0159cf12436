"""A tools/list counts when an application asked for it, and not when a library looked something up for itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elf_automations.model import ResourceRecord, SpanKind, StatusCode, settle
from records import START_NS, recorded, span, tool_call

CLIENT, SERVER, INTERNAL = SpanKind.CLIENT, SpanKind.SERVER, SpanKind.INTERNAL
FIXTURES = Path(__file__).parents[1] / "fixtures" / "mcp"
SDK = "mcp-python-sdk"
MS = 1_000_000


def call(number: int, at_ms: float, **fields: Any):
    """The native client span of a tools/call that takes 5 ms; `sent` is its request id."""
    attributes = {"jsonrpc.request.id": str(fields.pop("sent"))} if "sent" in fields else {}
    start = START_NS + int(at_ms * MS)
    fields = {"scope_name": SDK, "start_ns": start, "end_ns": start + 5 * MS, "attributes": attributes, **fields}
    return tool_call(number, CLIENT, **fields)


def listing(number: int, at_ms: float, kind: SpanKind = CLIENT, **fields: Any):
    attributes = {"mcp.method.name": "tools/list"}
    if "sent" in fields:
        attributes["jsonrpc.request.id"] = str(fields.pop("sent"))
    attributes |= fields.pop("attributes", {})
    start = START_NS + int(at_ms * MS)
    fields = {"scope_name": SDK, "start_ns": start, "end_ns": start + 3 * MS, **fields}
    return span(number, "MCP send tools/list" if kind is CLIENT else "tools/list", kind, attributes, **fields)


def counted(*spans) -> list[str]:
    return [row.operation for row in settle(spans).rows if row.counted]


def test_the_clients_check_of_a_result_is_nobodys_call_and_neither_is_its_servers_half():
    spans = [call(1, 0, sent=2), listing(2, 6, sent=3), listing(3, 7, SERVER, parent=2)]
    assert [row.operation for row in settle(spans).rows] == ["tool_call"]


def test_a_listing_counts_when_the_tools_were_known_before():
    assert counted(listing(1, 0, sent=2), call(2, 10, sent=3), listing(3, 16, sent=4)) == [
        "tool_list",
        "tool_call",
        "tool_list",
    ]


def test_each_connection_checks_for_itself():
    """Request ids begin anew with a connection, so a low one was not sent on the one that listed."""
    assert counted(listing(1, 0, sent=8), call(2, 10, sent=2), listing(3, 16, sent=3)) == ["tool_list", "tool_call"]


def test_a_listing_counts_when_it_cannot_be_a_check():
    failed = {"status": StatusCode.ERROR, "status_message": "no"}
    elsewhere = ResourceRecord({"service.name": "other", "service.instance.id": "o-1"})
    for listed in (
        [call(1, 0), listing(2, 60)],  # long after
        [call(1, 0, **failed), listing(2, 6)],  # a failure has no result to check
        [call(1, 0), listing(2, 6, resource=elsewhere)],
        [call(1, 0), listing(2, 6, parent=9)],  # made by other work
        [call(1, 0), listing(2, 2)],  # while the call still ran
        [call(1, 0), listing(2, 6, attributes={"elf.outcome": "success"})],  # ours would have said so
        [call(1, 0), listing(2, 6, scope_name="fastmcp")],  # FastMCP checks inside its own span
    ):
        assert counted(*listed) == ["tool_call", "tool_list"]


def test_what_a_library_lists_inside_a_calls_own_span_is_no_call():
    outer = call(1, 0, scope_name="fastmcp", end_ns=START_NS + 30 * MS)
    inner = call(2, 1, parent=1)
    check, answered = listing(3, 8, parent=1), listing(4, 9, SERVER, parent=3)
    lookup = listing(5, 2, SERVER, parent=2, scope_name="fastmcp")
    assert {row.operation for row in settle([outer, inner, check, answered, lookup]).rows} == {"tool_call"}


def test_what_a_handler_lists_is_a_call():
    server = tool_call(2, SERVER, parent=1)
    assert counted(tool_call(1, CLIENT), server, listing(3, 1, parent=2)) == ["tool_call", "tool_list"]


def test_a_servers_listing_without_a_parent_counts_unless_fastmcp_made_it():
    assert counted(listing(1, 0, SERVER)) == ["tool_list"]
    assert settle([listing(1, 0, SERVER, scope_name="fastmcp")]).rows == ()
    ours = {"elf.outcome": "success", "elf.source.id": "cursor"}
    assert counted(listing(1, 0, SERVER, scope_name="fastmcp", attributes=ours)) == ["tool_list"]


def test_one_http_request_carries_one_request():
    """With an HTTP span around it, a FastMCP server's lookup has a parent: the request of the call."""
    request = span(1, "POST /mcp", SERVER, {"http.request.method": "POST"})
    served = tool_call(2, SERVER, parent=1, scope_name="fastmcp")
    lookup = listing(3, 0, SERVER, parent=1, scope_name="fastmcp")
    assert counted(request, served, lookup) == ["tool_call"]
    other = span(4, "POST /mcp", SERVER, {"http.request.method": "POST"})
    assert counted(request, served, other, listing(3, 0, SERVER, parent=4, scope_name="fastmcp")) == [
        "tool_call",
        "tool_list",
    ]


def test_a_joint_listing_of_several_servers_is_one_call():
    asked, served = listing(1, 0, scope_name="fastmcp"), listing(2, 1, SERVER, parent=1, scope_name="fastmcp")
    backends = [listing(number, 2, parent=2, scope_name="fastmcp") for number in (3, 4)]
    assert counted(asked, served, *backends) == ["tool_list"]


def relay(number: int, **fields: Any):
    """A FastMCP server's span of a call whose tool is another server's."""
    passed = {"fastmcp.server.name": "front", "fastmcp.provider.type": "ProxyProvider"}
    attributes = passed | fields.pop("attributes", {})
    return tool_call(number, SERVER, attributes=attributes, start_ns=START_NS, scope_name="fastmcp", **fields)


def test_what_a_server_looks_up_to_pass_a_call_on_is_no_call():
    asked, backend = listing(3, 1, parent=2, scope_name="fastmcp"), listing(4, 2, SERVER, parent=3)
    assert counted(call(1, 0), relay(2, parent=1), asked, backend) == ["tool_call"]
    # The instrumented server's span is its own, and FastMCP writes on it what it knows.
    assert counted(call(1, 0), replace(relay(2, parent=1), scope_name="elf-automations.mcp"), asked) == ["tool_call"]
    unknown = tool_call(2, SERVER, parent=1, scope_name="fastmcp", attributes={"fastmcp.server.name": "front"})
    assert counted(call(1, 0), unknown, asked) == ["tool_call"]
    handled = relay(2, parent=1, attributes={"fastmcp.provider.type": "LocalProvider"})
    assert counted(call(1, 0), handled, asked, backend) == ["tool_call", "tool_list"]
    elsewhere = replace(asked, resource=ResourceRecord({"service.name": "other"}))
    assert counted(call(1, 0), relay(2, parent=1), elsewhere) == ["tool_call", "tool_list"]


def test_what_is_listed_for_a_listing_nobody_asked_for_is_no_call():
    implicit = {"attributes": {"elf.implicit": True}}
    for lookup in (listing(1, 0, SERVER, scope_name="fastmcp"), listing(1, 0, SERVER, **implicit)):
        asked = listing(2, 1, parent=1, scope_name="fastmcp")
        assert settle([lookup, asked, listing(3, 2, parent=2), listing(4, 2, SERVER, parent=3)]).rows == ()
        assert counted(lookup, call(2, 1, parent=1)) == ["tool_call"]
    handshake = span(1, "initialize", SERVER, {"mcp.method.name": "initialize"})
    assert counted(handshake, listing(2, 1, parent=1)) == ["tool_list"]


@pytest.mark.parametrize("name", ["fastmcp4_proxy", "fastmcp3_proxy"])
def test_the_calls_of_a_captured_proxy_are_those_of_its_client(name):
    rows = settle(recorded(FIXTURES / f"{name}.json")).rows
    asked = sorted((row for row in rows if row.counted and row.observed_by == "client"), key=lambda row: row.timestamp)
    assert [row.tool_name or row.operation for row in asked] == [
        *("px_ok", "px_ok", "survey", "tool_list", "px_nope", "prompt_get", "resource_read", "ok")
    ]
