"""AgentGateway: what it received and what it sent on are one call, with its target, end, tokens and cost."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import yaml
from inline_snapshot import snapshot

from elf_automations.conventions import elf
from elf_automations.model import SpanKind, settle
from records import START_NS, recorded, span, tool_call

SPANS = recorded(Path(__file__).parents[1] / "fixtures" / "mcp" / "agentgateway.json")
GATEWAY = {"scope_name": "agentgateway"}


def counted():
    return sorted((row for row in settle(SPANS).rows if row.counted), key=lambda row: row.timestamp)


def test_each_call_through_the_gateway_is_one_counted_row():
    said = [
        (row.tool_name or row.operation, row.status, row.error_code, row.source_id, row.target_id) for row in counted()
    ]
    assert said == snapshot(
        [
            ("tool_list", "success", None, "unknown", "agentgateway"),
            ("get_weather", "success", None, "marketing-team", "weather"),
            ("nope", "error", "-32602", "unknown", "weather"),
            ("slow_report", "timeout", "-32001", "unknown", "weather"),
            ("get_weather", "error", "403", "unknown", "weather"),
            ("slow_report", "timeout", "504", "unknown", "weather"),
            ("summarize", "success", None, "unknown", "weather"),
            ("prompt_get", "success", None, "unknown", "weather"),
            ("resource_read", "success", None, "unknown", "weather"),
            ("weather_broken_lookup", "error", "tool_error", "sales-team", "agentgateway"),
        ]
    )


def test_tokens_and_cost_of_a_call_are_taken_once():
    (row,) = [row for row in counted() if row.tokens_used]
    assert asdict(row) == snapshot(
        {
            "id": UUID("00000000-0000-0009-0000-00000000000f"),
            "timestamp": datetime(2026, 11, 22, hour=6, minute=46, second=41, microsecond=500000, tzinfo=UTC),
            "protocol": "mcp",
            "source_id": "unknown",
            "source_type": "mcp_client",
            "target_id": "weather",
            "target_type": "mcp",
            "operation": "tool_call",
            "duration_ms": 700.0,
            "status": "success",
            "tool_name": "summarize",
            "tool_category": None,
            "task_description": None,
            "capabilities_required": None,
            "message_type": None,
            "workflow_id": None,
            "workflow_name": None,
            "workflow_node": None,
            "payload_size_bytes": None,
            "tokens_used": 1100,
            "estimated_cost": Decimal("0.0042"),
            "error_message": None,
            "error_code": None,
            "correlation_id": "000000005e7700000000000000000009",
            "parent_correlation_id": None,
            "metadata": {
                "gateway": "default/gateway",
                "route": "default/tools",
                "endpoint": "127.0.0.1:8000",
                "http_status": 200,
                "outcome_derived": True,
            },
            "trace_id": "000000005e7700000000000000000009",
            "span_id": "000000000000000f",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "agentgateway",
            "service_instance_id": "agentgateway-1",
        }
    )


def test_the_upstream_server_corrects_what_the_gateway_calls_a_success():
    (row,) = [row for row in counted() if row.source_id == "sales-team"]
    assert (row.observed_by, row.tool_name, row.status, row.error_code) == (
        "client",
        "weather_broken_lookup",
        "error",
        "tool_error",
    )
    layers = [one for one in settle(SPANS).rows if one.trace_id == row.trace_id and not one.counted]
    assert [(one.tool_name, one.target_id, one.observed_by) for one in layers] == [
        ("broken_lookup", "weather", "client"),
        ("broken_lookup", "weather", "client"),
        ("broken_lookup", "weather-service", "server"),
    ]


def test_models_and_policies_behind_the_gateway_are_no_mcp_calls():
    names = {one.name for one in SPANS if one.span_id.hex() not in {row.span_id for row in settle(SPANS).rows}}
    assert names == {
        "initialize",
        "initialize weather",
        "notifications/initialized",
        "POST /v1/*",
        "POST ext-authz",
        "POST",
    }


def test_an_agent_to_agent_call_through_the_gateway_is_no_mcp_call():
    said = {"protocol": "a2a", "a2a.method": "SendMessage", "a2a.response.outcome": "success", "http.status": 200}
    rows = settle([span(1, "POST /*", SpanKind.SERVER, said, **GATEWAY)]).rows
    assert {row.protocol for row in rows} <= {"a2a"}


def test_the_gateways_configuration_can_say_who_calls():
    said = {"elf.source.id": "marketing-team", "elf.source.type": "team", "elf.correlation.id": "order-7"}
    (row,) = settle([tool_call(1, SpanKind.SERVER, attributes={**said, "mcp.target": "crm"}, **GATEWAY)]).rows
    assert (row.source_id, row.source_type, row.target_id, row.correlation_id) == (
        "marketing-team",
        "team",
        "crm",
        "order-7",
    )


def test_the_example_configuration_states_what_a_row_can_say():
    config = yaml.safe_load((Path(__file__).parents[2] / "collector-config" / "agentgateway.yaml").read_text())
    tracing = config["frontendPolicies"]["tracing"]
    assert set(tracing["attributes"]) <= {value for name, value in vars(elf).items() if name.isupper()}
    assert tracing["randomSampling"] is True


def test_its_servers_are_registered_by_their_names():
    found = {(one.entity_type, one.entity_id, one.observed) for one in settle(SPANS).entities}
    assert {("mcp_server", "weather", True), ("mcp_server", "notes", True)} <= found


def test_a_tool_renamed_by_a_gateway_is_the_same_call_though_no_gateway_is_seen():
    """The baggage leads straight from the server to its caller's span."""
    caller = tool_call(1, SpanKind.CLIENT, "weather_get_weather", end_ns=START_NS + 9_000_000)
    server = tool_call(2, SpanKind.SERVER, attributes={"elf.caller.span_id": "0000000000000001"}, parent=9)
    assert [row.tool_name for row in settle([caller, server]).rows if row.counted] == ["weather_get_weather"]
