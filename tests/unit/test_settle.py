"""One logical call is counted once, with its true outcome, whoever instrumented it."""

from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from datetime import UTC, datetime
from uuid import UUID

from inline_snapshot import snapshot

from elf_automations.model import ResourceRecord, SpanKind, SpanRecord, StatusCode, settle
from records import START_NS, span, tool_call

CLIENT, SERVER, INTERNAL = SpanKind.CLIENT, SpanKind.SERVER, SpanKind.INTERNAL
ELF_TARGET = {"elf.target.id": "weather-tools", "elf.target.type": "mcp"}


def counted(*spans):
    return [row for row in settle(spans).rows if row.counted]


def test_a_call_becomes_this_row():
    call = tool_call(
        1,
        CLIENT,
        attributes={**ELF_TARGET, "elf.payload.size": 17, "jsonrpc.request.id": "3", "network.transport": "tcp"},
        resource=ResourceRecord({"service.name": "planner", "service.instance.id": "i-1", "elf.entity.id": "planner"}),
    )
    (row,) = settle([call]).rows
    assert asdict(row) == snapshot(
        {
            "id": UUID("f623a564-eb01-5fd6-0000-000000000001"),
            "timestamp": datetime(2026, 11, 22, 6, 48, 52, 220785, tzinfo=UTC),
            "protocol": "mcp",
            "source_id": "planner",
            "source_type": "service",
            "target_id": "weather-tools",
            "target_type": "mcp",
            "operation": "tool_call",
            "duration_ms": 5.25,
            "status": "success",
            "tool_name": "get_weather",
            "tool_category": None,
            "task_description": None,
            "capabilities_required": None,
            "message_type": None,
            "workflow_id": None,
            "workflow_name": None,
            "workflow_node": None,
            "payload_size_bytes": 17,
            "tokens_used": None,
            "estimated_cost": None,
            "error_message": None,
            "error_code": None,
            "correlation_id": "61a33238829efb19f623a564eb015fd6",
            "parent_correlation_id": None,
            "metadata": {"transport": "tcp", "jsonrpc_request_id": "3", "outcome_derived": True},
            "trace_id": "61a33238829efb19f623a564eb015fd6",
            "span_id": "0000000000000001",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner",
            "service_instance_id": "i-1",
        }
    )


def test_both_sides_of_a_call_count_once_and_the_servers_error_wins():
    client = tool_call(1, CLIENT)
    server = tool_call(
        2, SERVER, parent=1, status=StatusCode.ERROR, attributes={"error.type": "tool_error"}, status_message="no city"
    )
    (row,) = counted(client, server)
    assert (row.observed_by, row.status, row.error_code, row.error_message) == (
        "client",
        "error",
        "tool_error",
        "no city",
    )


def test_a_client_that_does_not_say_how_a_call_ended_believes_the_server_that_it_was_cancelled():
    silent, stated = tool_call(1, CLIENT), tool_call(1, CLIENT, attributes={"elf.outcome": "success"})
    server = tool_call(3, SERVER, parent=1, attributes={"elf.outcome": "cancelled"})
    assert [row.status for row in counted(silent, server)] == ["cancelled"]
    # It had its answer before the server noticed that it was to stop.
    assert [row.status for row in counted(stated, server)] == ["success"]
    # So had the one that the application's client called through.
    inner = tool_call(2, CLIENT, parent=1, attributes={"elf.outcome": "success"})
    assert [row.status for row in counted(silent, inner, replace(server, parent_span_id=inner.span_id))] == ["success"]
    failed = tool_call(4, SERVER, parent=1, status=StatusCode.ERROR, attributes={"error.type": "-32603"})
    assert [row.status for row in counted(silent, server, failed)] == ["error"]


def test_layers_of_client_spans_are_one_call_even_with_foreign_spans_between():
    outer = tool_call(1, CLIENT, scope_name="fastmcp")
    http = span(2, "POST", CLIENT, {"http.request.method": "POST"}, parent=1)
    inner = tool_call(3, CLIENT, parent=2, scope_name="mcp-python-sdk")
    server = tool_call(4, SERVER, parent=3)
    assert [row.span_id[-1] for row in counted(outer, http, inner, server)] == ["1"]
    assert len(settle([outer, http, inner, server]).rows) == 3


def test_a_call_made_inside_a_handler_is_another_call():
    client = tool_call(1, CLIENT)
    server = tool_call(2, SERVER, parent=1)
    nested = tool_call(3, CLIENT, parent=2)
    assert [row.span_id[-1] for row in counted(client, server, nested)] == ["1", "3"]


def test_a_server_span_without_a_client_row_counts_itself():
    (row,) = counted(tool_call(2, SERVER, parent=1, attributes={**ELF_TARGET, "elf.source.id": "cursor"}))
    assert (row.source_id, row.source_type, row.target_id) == ("cursor", "mcp_client", "weather-tools")


def test_a_client_is_known_by_its_time_where_the_spans_of_http_between_came_apart():
    """A FastMCP server hangs below its HTTP request's span, and that below a span of the client that is not here."""
    here, there = (ResourceRecord({"service.name": name}) for name in ("planner", "tools"))

    def served(number, begin_ms, parent):
        """The span of a request at that time, and the server's of the call it carried."""
        at = {"start_ns": START_NS + begin_ms * 1_000_000, "end_ns": START_NS + (begin_ms + 4) * 1_000_000}
        request = span(number, "POST /mcp", SERVER, parent=parent, resource=there, **at)
        return [request, tool_call(number + 1, SERVER, parent=number, scope_name="fastmcp", resource=there, **at)]

    client = tool_call(1, CLIENT, start_ns=START_NS, end_ns=START_NS + 20_000_000, resource=here)
    assert [row.span_id[-1] for row in counted(client, *served(4, 5, 3))] == ["1"]
    # Later, without a caller, or of another tool.
    assert len(counted(client, *served(4, 19, 3))) == 2
    assert len(counted(client, *served(4, 5, None))) == 2
    assert (
        len(counted(replace(client, attributes={**client.attributes, "gen_ai.tool.name": "x"}), *served(4, 5, 3))) == 2
    )
    # The server that the client called asks another one for the same, and nobody instrumented how.
    hub = tool_call(2, SERVER, parent=1, start_ns=START_NS + 2_000_000, end_ns=START_NS + 18_000_000)
    assert [row.span_id[-1] for row in counted(client, hub, *served(4, 5, 3))] == ["1", "5"]


def test_a_call_recorded_by_hand_around_a_traced_one_is_one_call():
    def manual(number, duration_ms, end_ns):
        attributes = {
            "elf.observed_by": "manual",
            "elf.duration_ms": duration_ms,
            "elf.outcome": "success",
            "elf.source.id": "marketing-team",
            "elf.source.type": "team",
        }
        fields = {"start_ns": end_ns - int(duration_ms * 1e6), "end_ns": end_ns, "resource": here}
        return tool_call(number, CLIENT, attributes=attributes, **fields)

    here = ResourceRecord({"service.name": "gateway"})
    traced = [tool_call(n, CLIENT, start_ns=START_NS, end_ns=START_NS + 5_000_000, resource=here) for n in (1, 2)]
    by_hand = [manual(n, 6.0, START_NS + 5_500_000) for n in (3, 4)]
    later = manual(5, 6.0, START_NS + 90_000_000)
    assert [(row.observed_by, row.source_id) for row in counted(*traced, *by_hand, later)] == [
        ("manual", "marketing-team")
    ] * 3
    assert len(counted(*traced, by_hand[0])) == 2


def test_overlapping_records_by_hand_choose_alike_in_any_order():
    def call(number, begin_ms, end_ms, **attributes):
        times = {"start_ns": START_NS + begin_ms * 1_000_000, "end_ns": START_NS + end_ms * 1_000_000}
        return tool_call(number, CLIENT, attributes=attributes, resource=here, **times)

    here = ResourceRecord({"service.name": "gateway"})
    by_hand = {"elf.observed_by": "manual", "elf.outcome": "success"}
    first, second = call(1, 0, 5), call(2, 20, 25)
    narrow = call(3, -2, 8, **by_hand, **{"elf.duration_ms": 10.0})
    wide = call(4, -4, 30, **by_hand, **{"elf.duration_ms": 34.0})
    for spans in itertools.permutations((first, second, narrow, wide)):
        assert {row.span_id[-1] for row in counted(*spans)} == {"3", "4"}


def test_a_task_recorded_by_hand_around_a_traced_one_is_one_call():
    sent = span(
        1,
        "SendMessage",
        CLIENT,
        {"a2a.method.name": "SendMessage", "a2a.message.id": "m-1", "elf.target.id": "sales-team"},
    )
    record = {
        "a2a.method.name": "SendMessage",
        "elf.observed_by": "manual",
        "elf.duration_ms": 9.0,
        "elf.target.id": "sales-team",
        "elf.outcome": "success",
    }
    by_hand = span(2, "SendMessage", CLIENT, record, start_ns=START_NS - 1_000_000, end_ns=START_NS + 8_000_000)
    assert [row.observed_by for row in counted(sent, by_hand)] == ["manual"]


def test_chatter_and_listings_nobody_asked_for_are_no_rows():
    listing = span(1, "tools/list", CLIENT, {"mcp.method.name": "tools/list", "elf.implicit": True})
    answer = span(2, "tools/list", SERVER, {"mcp.method.name": "tools/list"}, parent=1)
    handshake = span(3, "MCP send initialize", CLIENT, {"mcp.method.name": "initialize"})
    note = span(4, "notifications/cancelled", SERVER, {"mcp.method.name": "notifications/cancelled"})
    assert settle([listing, answer, handshake, note]).rows == ()


def test_the_order_of_delivery_changes_nothing():
    spans = [tool_call(1, CLIENT), tool_call(2, CLIENT, parent=1), tool_call(3, SERVER, parent=2)]
    rows = {frozenset((r.id, r.counted, r.status) for r in settle(p).rows) for p in itertools.permutations(spans)}
    assert len(rows) == 1


def test_a_span_twice_in_a_batch_is_one_row_and_a_cycle_of_parents_ends():
    assert len(settle([tool_call(1, CLIENT), tool_call(1, CLIENT)]).rows) == 1
    assert len(settle([tool_call(1, CLIENT, parent=2), tool_call(2, CLIENT, parent=1)]).rows) == 2


def test_timeouts_are_told_from_errors_by_each_of_their_spellings():
    spellings = [
        {"attributes": {"error.type": "-32001"}},
        {"attributes": {"error.type": "408"}},
        {"attributes": {"error.type": "TimeoutError"}},
        {"status_message": "TimeoutError: "},
        {"status_message": "Request 'tools/call' timed out"},
    ]
    for number, fields in enumerate(spellings, 1):
        (row,) = settle([tool_call(number, CLIENT, status=StatusCode.ERROR, **fields)]).rows
        assert row.status == "timeout", fields


def test_activity_is_added_once_a_call_to_both_ends_in_sorted_order():
    resource = ResourceRecord({"elf.entity.id": "sales-team", "elf.entity.type": "team"})
    calls = [
        tool_call(1, CLIENT, attributes=ELF_TARGET, resource=resource),
        tool_call(2, CLIENT, attributes={**ELF_TARGET, "elf.outcome": "timeout"}, resource=resource),
    ]
    entities = settle(calls).entities
    assert [(e.entity_type, e.entity_id, e.observed, e.calls, e.errors) for e in entities] == [
        ("mcp_server", "weather-tools", True, 2, 1),
        ("team", "sales-team", True, 2, 1),
    ]


def test_a_client_that_a_server_asks_is_no_server():
    asked = {
        "elf.source.id": "weather-tools",
        "elf.source.type": "mcp",
        "elf.target.id": "cursor",
        "elf.target.type": "mcp_client",
        "elf.outcome": "success",
    }
    for number, method in enumerate(["sampling/createMessage", "elicitation/create", "roots/list"], 1):
        settled = settle([span(number, method, CLIENT, {"mcp.method.name": method, **asked})])
        assert [(row.target_id, row.target_type) for row in settled.rows] == [("cursor", "mcp_client")]
        assert {e.entity_type for e in settled.entities if e.entity_id == "cursor"} == {"mcp_client"}


def test_hostile_text_becomes_text_postgres_takes_and_secrets_do_not_survive_a_cut():
    hostile = "x" * 3990 + " Bearer sk-fake-000000000000000000000000"
    call = tool_call(
        1,
        CLIENT,
        "to\x00ol\ud800",
        attributes={"elf.outcome": "error", "elf.error.message": hostile, "elf.metadata": '{"a": {"b": [1, 2]}}'},
    )
    (row,) = settle([call]).rows
    assert row.tool_name == "to\ufffdol\ufffd"
    assert "sk-fake" not in (row.error_message or "")
    assert len(row.error_message or "") <= 4000
    assert row.metadata["a"] == {"b": [1, 2]}


def test_times_that_make_no_sense_give_no_duration():
    (row,) = settle([tool_call(1, CLIENT, start_ns=START_NS, end_ns=START_NS - 1)]).rows
    assert row.duration_ms is None


def test_a_row_learns_from_its_layers_what_its_own_library_does_not_say():
    here = ResourceRecord({"service.name": "planner", "service.instance.id": "p-1"})
    there = ResourceRecord({"service.name": "weather-service", "service.instance.id": "w-1"})
    outer = span(1, "mcp tools/call", CLIENT, scope_name="openlit.instrumentation.mcp", resource=here)
    said = {"elf.source.id": "sales-team", "elf.source.type": "team", "jsonrpc.request.id": "3"}
    failed = {
        "status": StatusCode.ERROR,
        "attributes": {"fastmcp.server.name": "weather-tools", "error.type": "-32602"},
    }
    inner = tool_call(2, CLIENT, parent=1, attributes=said, resource=here)
    server = tool_call(3, SERVER, parent=2, scope_name="fastmcp", resource=there, **failed)
    (row,) = counted(outer, inner, server)
    assert (row.source_id, row.source_type, row.target_id, row.tool_name) == (
        "sales-team",
        "team",
        "weather-tools",
        "get_weather",
    )
    assert (row.status, row.error_code) == ("error", "-32602")


def test_a_server_that_only_heard_of_its_caller_does_not_rename_it():
    client = tool_call(1, CLIENT, scope_name="mcp-python-sdk", resource=ResourceRecord({"service.name": "planner"}))
    heard = {"elf.source.id": "mcp", "elf.source.type": "mcp_client", **ELF_TARGET}
    (row,) = counted(client, tool_call(2, SERVER, parent=1, attributes=heard))
    assert (row.source_id, row.target_id) == ("planner", "weather-tools")


def test_a_named_target_is_kept_whatever_lies_below():
    client = tool_call(1, CLIENT, attributes=ELF_TARGET)
    server = tool_call(2, SERVER, parent=1, scope_name="fastmcp", attributes={"fastmcp.server.name": "another"})
    assert [row.target_id for row in counted(client, server)] == ["weather-tools"]


def test_the_protocols_number_is_a_better_code_than_the_name_of_a_class():
    failed = {"status": StatusCode.ERROR, "status_message": "MCPError: Unknown resource"}
    outer = tool_call(1, CLIENT, attributes={"error.type": "MCPError"}, scope_name="fastmcp", **failed)
    inner = tool_call(2, CLIENT, parent=1, attributes={"error.type": "-32602"}, scope_name="mcp-python-sdk", **failed)
    assert [row.error_code for row in counted(outer, inner)] == ["-32602"]


def test_the_text_of_an_error_is_the_one_that_says_what_failed():
    """Over HTTP+JSON the A2A SDK's server keeps to itself what an executor raised; some clients say no text at all."""

    def told(text: str, *layers: SpanRecord) -> list[tuple[str | None, str | None]]:
        client = failed_call(1, CLIENT, text, {"error.type": "500"} if text else {})
        return [(row.error_message, row.error_code) for row in counted(client, *layers)]

    cause = failed_call(3, SERVER, "no such city", {"error.type": "KeyError"}, parent=1)
    assert told("unknown exception", cause) == [("no such city", "500")]
    assert told("unknown exception", failed_call(2, CLIENT, "", parent=1), cause) == [("no such city", "500")]
    assert told("", cause) == [("no such city", None)]
    assert told("", failed_call(2, CLIENT, "unknown exception", parent=1)) == [(None, None)]
    silent = failed_call(2, CLIENT, "unknown exception", parent=1)
    assert [row.error_message for row in counted(tool_call(1, CLIENT), silent, cause)] == ["no such city"]
    # Who has a text of its own keeps it, and nobody loses what little it says.
    assert told("not found", cause) == [("not found", "500")]
    late = failed_call(3, SERVER, "timed out", {"error.type": "timeout"}, parent=1)
    assert told("unknown exception", late) == [("unknown exception", "500")]
    assert told("unknown exception", tool_call(3, SERVER, parent=1)) == [("unknown exception", "500")]


def failed_call(number: int, kind: SpanKind, text: str, said: dict[str, str] | None = None, parent: int | None = None):
    return tool_call(number, kind, parent=parent, status=StatusCode.ERROR, status_message=text, attributes=said or {})


def test_a_resource_that_names_itself_by_a_list_costs_no_rows():
    for odd in (["a", "b"], {"a": 1}):
        resource = ResourceRecord({"service.name": odd, "service.instance.id": odd})
        by_hand = tool_call(2, SpanKind.CLIENT, resource=resource, attributes={"elf.observed_by": "manual"})
        assert len(settle([tool_call(1, SpanKind.CLIENT, resource=resource), by_hand]).rows) == 2
