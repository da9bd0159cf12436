"""Whoever instrumented an MCP call, it is the same one row: captured spans of other people's libraries."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot

from elf_automations.model import Communication, settle
from records import recorded

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mcp"
UNCHANGED = {
    "tool_category": None,
    "task_description": None,
    "capabilities_required": None,
    "message_type": None,
    "workflow_id": None,
    "workflow_name": None,
    "workflow_node": None,
    "protocol": "mcp",
    "target_type": "mcp",
}


def rows(name: str) -> list[Communication]:
    return sorted(settle(recorded(FIXTURES / f"{name}.json")).rows, key=lambda row: (row.timestamp, row.span_id))


def counted(name: str) -> list[Communication]:
    return [row for row in rows(name) if row.counted]


def whole(row: Communication) -> dict[str, Any]:
    """Return all of a row but what is the same in every one of these, and what its ids repeat."""
    said = {name: value for name, value in asdict(row).items() if name not in {"id", "trace_id", "correlation_id"}}
    assert {name: said.pop(name) for name in UNCHANGED} == UNCHANGED
    assert (row.id.bytes[8:].hex(), row.correlation_id) == (row.span_id, row.trace_id)
    return said


# What the captured client did; how it ended is what each library lets us know.
DONE = ["get_weather", "broken_lookup", "slow_report", "slow_report", "nope", "get_weather"]
LAST = ["prompt_get", "resource_read", "resource_read", "tool_list"]
ENDS = ["success", "error", "timeout", "cancelled", "error", "error", "success", "success", "error", "success"]
# Only their own client knows that a caller gave up: these show it to nobody.
UNSEEN = [*ENDS[:3], "success", *ENDS[4:]]
# Traceloop's errors inside FastMCP are its application's: a timeout becomes an AttributeError, an error a None.
BROKEN = [*ENDS[:2], "error", "success", *ENDS[4:8], "success", "success"]


@pytest.mark.parametrize(
    ("name", "ends", "target"),
    [
        ("native_mcp2", UNSEEN, "weather-service"),
        ("fastmcp4_http", UNSEEN, "weather-tools"),
        ("fastmcp3", UNSEEN, "weather-tools"),
        ("traceloop_mcp1", ENDS, "unknown"),
        ("traceloop_fastmcp3", BROKEN, "weather-tools"),
        ("logfire_mcp1", ENDS, "weather-service"),
        ("openlit_mcp2", UNSEEN, "weather-service"),
    ],
)
def test_ten_calls_are_ten_counted_rows(name, ends, target):
    seen = counted(name)
    assert [row.tool_name or row.operation for row in seen] == [*DONE, *LAST]
    assert {row.operation for row in seen[: len(DONE)]} == {"tool_call"}
    assert [row.status for row in seen] == ends
    assert {(row.source_id, row.source_type, row.observed_by) for row in seen} == {
        ("planner-agent", "service", "client")
    }
    # What never reached the server, or came back to it without a context, has no server to name.
    assert {row.target_id for row in seen} <= {target, "unknown"}
    assert [row.target_id for row in seen[: len(DONE)]] == [target] * len(DONE)


def test_prompts_and_resources_are_named_wherever_the_name_is_to_be_found():
    for name in ("native_mcp2", "fastmcp4_http", "fastmcp3", "traceloop_mcp1", "logfire_mcp1"):
        asked = [row.metadata.get("prompt") or row.metadata.get("resource_uri") for row in counted(name)[len(DONE) :]]
        # The SDK's own spans do not say which resource.
        assert asked[0] == "brief", name
        assert asked[1:3] == ([None, None] if name == "native_mcp2" else ["cfg://app/main", "cfg://app/none"]), name


def test_content_of_messages_is_measured_and_not_kept():
    for name in ("traceloop_mcp1", "logfire_mcp1"):
        text = repr([asdict(row) for row in rows(name)])
        assert not any(content in text for content in ("Oslo", "sunny", "at last", "'rain'", "colour")), name
        assert [row.payload_size_bytes for row in counted(name)][:3] == [15, 12, 15]
    for name in ("fastmcp4_http", "fastmcp3", "traceloop_mcp1", "logfire_mcp1"):
        (refused,) = [row for row in counted(name) if "validation error" in (row.error_message or "")]
        assert "input_value=[REDACTED], input_type=" in (refused.error_message or ""), name


def test_a_mounted_and_a_proxied_tool_are_one_call_each():
    for name in ("fastmcp4_mounted", "fastmcp3_mounted"):
        seen = counted(name)
        assert [row.tool_name or row.operation for row in seen] == [
            "tool_list",
            "crm_lookup",
            "px_ping_it",
            "prompt_get",
        ]
        assert {row.target_id for row in seen[1:]} == {"front"}
        deeper = {(row.tool_name, row.target_id) for row in rows(name) if row.observed_by == "server"}
        assert {("lookup", "crm-tools"), ("ping_it", "proxied")} < deeper


def test_a_mounted_and_a_proxied_resource_are_one_read_each_whatever_each_server_calls_it():
    for name in ("fastmcp4_resources", "fastmcp3_resources"):
        seen = [(row.metadata["resource_uri"], row.status) for row in counted(name)]
        assert seen == [
            ("data://crm/today", "success"),
            ("data://crm/cities/oslo", "success"),
            ("data://px/today", "success"),
            ("data://px/cities/oslo", "success"),
            ("data://crm/cities/none", "error"),
            ("data://crm/cities/bergen", "success"),
        ]
        assert {(row.observed_by, row.target_id) for row in counted(name)} == {("client", "front")}
        deeper = {
            (row.metadata.get("resource_uri"), row.target_id) for row in rows(name) if row.observed_by == "server"
        }
        assert {("data://cities/oslo", "crm-tools"), ("data://cities/oslo", "proxied")} < deeper


def test_a_cancel_that_only_the_instrumented_server_saw_is_the_calls_end():
    ends = [("get_weather", "success"), ("slow_report", "cancelled"), ("get_weather", "success")]
    assert [(row.tool_name, row.status) for row in counted("cancelled_mcp2")] == ends


def test_the_spans_of_http_between_do_not_part_a_call():
    seen = counted("fastmcp4_http_traced")
    assert [row.tool_name for row in seen] == ["get_weather", "broken_lookup", "outlook", "outlook", "get_weather"]
    assert {(row.observed_by, row.target_id) for row in seen} == {("client", "weather-tools")}


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.json")))
def test_the_order_of_delivery_changes_nothing(name):
    spans = recorded(FIXTURES / f"{name}.json")
    forwards, backwards = (sorted(settle(order).rows, key=lambda row: row.id) for order in (spans, spans[::-1]))
    assert forwards == backwards


def test_a_call_of_the_sdk_becomes_this_row():
    assert whole(counted("native_mcp2")[1]) == snapshot(
        {
            "timestamp": datetime(2026, 11, 22, hour=6, minute=46, second=42, microsecond=359405, tzinfo=UTC),
            "source_id": "planner-agent",
            "source_type": "service",
            "target_id": "weather-service",
            "operation": "tool_call",
            "duration_ms": 8.589529,
            "status": "error",
            "tool_name": "broken_lookup",
            "payload_size_bytes": None,
            "tokens_used": None,
            "estimated_cost": None,
            "error_message": "tool_error",
            "error_code": "tool_error",
            "parent_correlation_id": None,
            "metadata": {"jsonrpc_request_id": "4", "target_guessed": True},
            "span_id": "0000000000000007",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner-agent",
            "service_instance_id": "planner-agent-1",
        }
    )


def test_a_call_of_fastmcp_becomes_this_row():
    assert whole(counted("fastmcp4_http")[2]) == snapshot(
        {
            "timestamp": datetime(2026, 11, 22, hour=6, minute=46, second=40, microsecond=241801, tzinfo=UTC),
            "source_id": "planner-agent",
            "source_type": "service",
            "target_id": "weather-tools",
            "operation": "tool_call",
            "duration_ms": 315.152647,
            "status": "timeout",
            "tool_name": "slow_report",
            "payload_size_bytes": None,
            "tokens_used": None,
            "estimated_cost": None,
            "error_message": "MCPError: Request 'tools/call' timed out",
            "error_code": "MCPError",
            "parent_correlation_id": None,
            "metadata": {},
            "span_id": "000000000000000d",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner-agent",
            "service_instance_id": "planner-agent-1",
        }
    )


def test_a_call_of_traceloop_becomes_this_row():
    assert whole(counted("traceloop_mcp1")[1]) == snapshot(
        {
            "timestamp": datetime(2026, 11, 22, hour=6, minute=46, second=40, microsecond=620924, tzinfo=UTC),
            "source_id": "planner-agent",
            "source_type": "service",
            "target_id": "unknown",
            "operation": "tool_call",
            "duration_ms": 2.432408,
            "status": "error",
            "tool_name": "broken_lookup",
            "payload_size_bytes": 12,
            "tokens_used": None,
            "estimated_cost": None,
            "error_message": "Error executing tool broken_lookup: no such key: k1",
            "error_code": "tool_error",
            "parent_correlation_id": None,
            "metadata": {},
            "span_id": "000000000000000b",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner-agent",
            "service_instance_id": "planner-agent-1",
        }
    )


def test_a_call_of_logfire_becomes_this_row():
    assert whole(counted("logfire_mcp1")[8]) == snapshot(
        {
            "timestamp": datetime(2026, 11, 22, hour=6, minute=46, second=42, microsecond=529263, tzinfo=UTC),
            "source_id": "planner-agent",
            "source_type": "service",
            "target_id": "weather-service",
            "operation": "resource_read",
            "duration_ms": 9.214106,
            "status": "error",
            "tool_name": None,
            "payload_size_bytes": None,
            "tokens_used": None,
            "estimated_cost": None,
            "error_message": "McpError: Unknown resource: cfg://app/none",
            "error_code": "0",
            "parent_correlation_id": None,
            "metadata": {"resource_uri": "cfg://app/none", "target_guessed": True},
            "span_id": "0000000000000014",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner-agent",
            "service_instance_id": "planner-agent-1",
        }
    )


def test_a_call_of_openlit_becomes_this_row():
    assert whole(counted("openlit_mcp2")[0]) == snapshot(
        {
            "timestamp": datetime(2026, 11, 22, hour=6, minute=46, second=41, microsecond=862704, tzinfo=UTC),
            "source_id": "planner-agent",
            "source_type": "service",
            "target_id": "weather-service",
            "operation": "tool_call",
            "duration_ms": 284.933317,
            "status": "success",
            "tool_name": "get_weather",
            "payload_size_bytes": None,
            "tokens_used": None,
            "estimated_cost": None,
            "error_message": None,
            "error_code": None,
            "parent_correlation_id": None,
            "metadata": {"response_size_bytes": 258, "target_guessed": True, "outcome_derived": True},
            "span_id": "0000000000000006",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner-agent",
            "service_instance_id": "planner-agent-1",
        }
    )
