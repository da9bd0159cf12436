"""n8n's own spans become true rows: one an execution, one a step that reaches outside, nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from elf_automations.conventions import elf, n8n
from elf_automations.instrumentation.n8n import event_outcome, record_execution
from elf_automations.model import (
    Call,
    Communication,
    SpanRecord,
    StatusCode,
    recognise,
    settle,
)
from elf_automations.model.from_sdk import SdkSpans
from elf_automations.model.n8n_nodes import capabilities, reaches_outside, short_type
from n8n_spans import FIXTURES, captured

WORDS = (
    "source_id", "source_type", "target_id", "target_type", "operation", "status", "workflow_id", "workflow_name",
    "workflow_node", "error_message", "error_code", "observed_by", "counted",
)  # fmt: skip


def said(row: Communication) -> dict[str, Any]:
    """What a row says, without the columns that are empty and without times and ids."""
    columns = asdict(row)
    return {name: columns[name] for name in WORDS if columns[name] is not None}


def execution(**attributes: Any) -> SpanRecord:
    named = {f"n8n.{name.replace('__', '.')}": value for name, value in attributes.items()}
    return SpanRecord(
        trace_id=b"t" * 16, span_id=b"s" * 8, name="workflow.execute", start_ns=10**18, end_ns=10**18 + 5_000_000,
        status=StatusCode.OK, attributes={n8n.N8N_WORKFLOW_ID: "wf_1", **named}, scope_name="n8n-workflow",
    )  # fmt: skip


def test_a_successful_execution_is_one_row_and_its_http_call_another() -> None:
    settled = settle(captured("otlp_success"))
    assert [said(row) for row in settled.rows] == [
        {
            "source_id": "h3Success0000001", "source_type": "workflow", "target_id": "httpRequest",
            "target_type": "external", "operation": "workflow_step", "status": "success",
            "workflow_id": "h3Success0000001", "workflow_name": "H3 order intake", "workflow_node": "Call inventory",
            "observed_by": "internal", "counted": True,
        },
        {
            "source_id": "n8n-h3", "source_type": "service", "target_id": "h3Success0000001",
            "target_type": "workflow", "operation": "workflow_execution", "status": "success",
            "workflow_id": "h3Success0000001", "workflow_name": "H3 order intake", "observed_by": "internal",
            "counted": True,
        },
    ]  # fmt: skip
    run = settled.rows[1]
    assert (run.protocol, run.duration_ms, run.parent_span_id) == ("n8n", 165.808196, "34da64a1ba82b0e8")
    assert (run.metadata["execution_id"], run.metadata["execution_mode"]) == ("7", "webhook")


def test_an_execution_makes_its_workflow_known_to_the_registry() -> None:
    found = {(item.entity_type, item.entity_id): item for item in settle(captured("otlp_success")).entities}
    workflow = found["n8n_workflow", "h3Success0000001"]
    assert (workflow.entity_name, workflow.deployment_type, workflow.observed, workflow.calls) == (
        "H3 order intake", "n8n", True, 2,
    )  # fmt: skip


def test_a_failure_keeps_the_text_of_the_exception_and_the_error_workflow_is_its_own_execution() -> None:
    rows = settle(captured("otlp_failure_with_error_workflow")).rows
    text = "The service was not able to process your request"
    assert [
        (row.operation, row.workflow_node or row.workflow_name, row.status, row.error_message, row.error_code)
        for row in rows
    ] == [
        ("workflow_step", "Charge card", "error", text, "NodeApiError"),
        ("workflow_execution", "H3 billing (fails)", "error", text, "NodeApiError"),
        ("workflow_step", "Report", "success", None, None),
        ("workflow_execution", "H3 error handler", "success", None, None),
    ]


def test_a_cut_off_execution_is_cancelled_although_its_span_says_ok() -> None:
    rows = settle(captured("otlp_execution_timeout")).rows
    assert [(row.operation, row.status) for row in rows] == [
        ("workflow_step", "cancelled"),
        ("workflow_execution", "cancelled"),
    ]


@pytest.mark.parametrize(
    ("status", "expected"),
    [("success", "success"), ("error", "error"), ("crashed", "error"), ("canceled", "cancelled"), (None, "success")],
)
def test_n8n_s_status_wins_over_the_span_status(status: str | None, expected: str) -> None:
    call = recognise(execution(execution__status=status))
    assert isinstance(call, Call)
    assert call.outcome.status == expected


@pytest.mark.parametrize("status", ["waiting", "running", "new"])
def test_a_pause_is_kept_and_does_not_count(status: str) -> None:
    """Wait and resume of one execution is one call: the run that ends."""
    (row,) = settle([execution(execution__status=status)]).rows
    assert (row.counted, row.status, row.metadata["execution_status"]) == (False, "success", status)


def test_a_step_names_its_workflow_when_the_span_does() -> None:
    span = captured("otlp_success")[2]
    assert span.attributes["n8n.node.name"] == "Call inventory"
    span = SpanRecord(
        trace_id=span.trace_id, span_id=span.span_id, name=span.name, start_ns=span.start_ns, end_ns=span.end_ns,
        attributes={**span.attributes, "n8n.workflow.id": "wf_1", "n8n.workflow.name": "Intake"},
        scope_name=span.scope_name, resource=span.resource,
    )  # fmt: skip
    call = recognise(span)
    assert isinstance(call, Call)
    assert (call.source.id, call.source.type, call.details.workflow_name) == ("wf_1", "workflow", "Intake")


def test_a_call_recorded_by_hand_says_everything_itself() -> None:
    span = SpanRecord(
        trace_id=b"t" * 16, span_id=b"s" * 8, name="workflow_step Send Welcome", start_ns=10**18, end_ns=10**18,
        attributes={
            elf.ELF_PROTOCOL: "n8n", elf.ELF_OBSERVED_BY: "manual", elf.ELF_OPERATION: "workflow_step",
            elf.ELF_SOURCE_ID: "wf_001", elf.ELF_SOURCE_TYPE: "workflow", elf.ELF_TARGET_ID: "sendgrid",
            elf.ELF_TARGET_TYPE: "external", elf.ELF_WORKFLOW_ID: "wf_001", elf.ELF_WORKFLOW_NAME: "Onboarding",
            elf.ELF_WORKFLOW_NODE: "Send Welcome", elf.ELF_OUTCOME: "timeout", elf.ELF_ERROR_MESSAGE: "gave up",
            elf.ELF_DURATION_MS: 12.5,
        },
    )  # fmt: skip
    settled = settle([span])
    assert [said(row) for row in settled.rows] == [
        {
            "source_id": "wf_001", "source_type": "workflow", "target_id": "sendgrid", "target_type": "external",
            "operation": "workflow_step", "status": "timeout", "workflow_id": "wf_001", "workflow_name": "Onboarding",
            "workflow_node": "Send Welcome", "error_message": "gave up", "observed_by": "manual",
            "counted": True,
        }
    ]  # fmt: skip
    assert settled.rows[0].duration_ms == 12.5
    assert not [item for item in settled.entities if item.observed]


def test_spans_of_others_are_left_to_others() -> None:
    assert (
        recognise(SpanRecord(trace_id=b"t" * 16, span_id=b"s" * 8, name="node.execute", start_ns=1, end_ns=2)) is None
    )


@pytest.mark.parametrize(
    ("node_type", "outside"),
    [
        ("n8n-nodes-base.httpRequest", True),
        ("n8n-nodes-base.postgres", True),
        ("@n8n/n8n-nodes-langchain.openAi", True),
        ("n8n-nodes-community.somethingNew", True),
        ("http", True),
        ("n8n-nodes-base.set", False),
        ("n8n-nodes-base.if", False),
        ("n8n-nodes-base.code", False),
        ("n8n-nodes-base.webhook", False),
        ("n8n-nodes-base.respondToWebhook", False),
        ("n8n-nodes-base.slackTrigger", False),
        ("n8n-nodes-base.executeWorkflow", False),
        ("@n8n/n8n-nodes-langchain.outputParserStructured", False),
    ],
)
def test_only_nodes_that_call_somebody_count(node_type: str, outside: bool) -> None:
    assert reaches_outside(node_type) is outside


def test_capabilities_are_words_a_person_would_search_for() -> None:
    types = [
        "n8n-nodes-base.webhook", "http", "email", "n8n-nodes-base.httpRequest", "n8n-nodes-base.postgres",
        "n8n-nodes-base.slack", "n8n-nodes-base.scheduleTrigger", "n8n-nodes-base.code", "n8n-nodes-base.if",
        "@n8n/n8n-nodes-langchain.lmChatOpenAi", "@n8n/n8n-nodes-langchain.mcpClientTool", "",
    ]  # fmt: skip
    assert capabilities(types) == [
        "ai_integration", "custom_code", "database_access", "email_send", "http_request", "if", "mcp_integration",
        "scheduled_trigger", "slack_integration", "webhook_trigger",
    ]  # fmt: skip
    assert short_type("n8n-nodes-base.httpRequest") == "httpRequest"


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    """A real SDK provider that keeps what it exports."""
    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    yield provider, kept
    provider.shutdown()


def events(name: str) -> list[dict[str, Any]]:
    found = json.loads((FIXTURES / "events.json").read_text())["events"]
    return [event for event in found if event["event"] == name]


def test_an_event_gives_the_rows_that_the_native_export_would_give(
    spans: tuple[TracerProvider, InMemorySpanExporter],
) -> None:
    provider, kept = spans
    recorded = [
        record_execution(event["workflow"], event["execution"], tracer_provider=provider)
        for event in events("workflow.executed")
    ]
    sdk = SdkSpans()
    rows = settle([record for span in kept.get_finished_spans() if (record := sdk.record(span))]).rows
    assert recorded == [True, True, True]
    assert [(said(row), row.duration_ms, row.timestamp.isoformat()) for row in rows[:2]] == [
        (
            {
                "source_id": "UdJNdcvN0qWi08nT", "source_type": "workflow", "target_id": "httpRequest",
                "target_type": "external", "operation": "workflow_step", "status": "success",
                "workflow_id": "UdJNdcvN0qWi08nT", "workflow_name": "H3 guide", "workflow_node": "Call inventory",
                "observed_by": "internal", "counted": True,
            },
            11.0,
            "2026-11-22T07:14:28.905000+00:00",
        ),
        (
            {
                "source_id": "n8n", "source_type": "service", "target_id": "UdJNdcvN0qWi08nT",
                "target_type": "workflow", "operation": "workflow_execution", "status": "success",
                "workflow_id": "UdJNdcvN0qWi08nT", "workflow_name": "H3 guide", "observed_by": "internal",
                "counted": True,
            },
            110.0,
            "2026-11-22T07:14:28.816000+00:00",
        ),
    ]  # fmt: skip
    text = "The service was not able to process your request"
    assert [(row.operation, row.status, row.error_message, row.error_code) for row in rows[2:4]] == [
        ("workflow_step", "error", text, None),
        ("workflow_execution", "error", text, "NodeApiError"),
    ]
    assert rows[0].trace_id == rows[1].trace_id != rows[2].trace_id


def test_an_event_without_times_has_no_duration(spans: tuple[TracerProvider, InMemorySpanExporter]) -> None:
    provider, kept = spans
    assert record_execution({"id": "wf_1"}, {"status": "success"}, tracer_provider=provider)
    record = SdkSpans().record(kept.get_finished_spans()[0])
    assert record is not None
    assert settle([record]).rows[0].duration_ms is None


@pytest.mark.parametrize(
    "odd",
    [
        {"status": 7, "startedAt": "yesterday", "nodes": "none", "error": 3},
        {"status": "success", "startedAt": float("nan"), "nodes": [None, {"type": 1}, {"name": ["x"]}]},
        {"status": "success", "startedAt": "9999-12-31T23:59:59Z", "stoppedAt": "0001-01-01T00:00:00Z"},
    ],
)
def test_an_odd_event_breaks_nothing(
    odd: dict[str, Any], spans: tuple[TracerProvider, InMemorySpanExporter], caplog: pytest.LogCaptureFixture
) -> None:
    provider, _ = spans
    record_execution({"id": "wf_1", "nodes": [7]}, odd, tracer_provider=provider)
    assert not caplog.records


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"status": "error", "error": {"message": "m", "httpCode": "ECONNABORTED"}}, "timeout", "ECONNABORTED"),
        (
            {"status": "error", "error": {"message": "m", "messages": ["timeout of 800ms exceeded"]}},
            "timeout",
            "timeout",
        ),
        ({"status": "error", "error": {"name": "NodeApiError", "message": "boom"}}, "error", "NodeApiError"),
        ({"status": "crashed"}, "error", None),
        ({"status": "canceled", "error": {"name": "ManualExecutionCancelledError"}}, "cancelled", None),
        ({"error": "boom"}, "error", None),
        ({}, "success", None),
    ],
)
def test_how_an_event_says_its_end(told: dict[str, Any], status: str, code: str | None) -> None:
    outcome = event_outcome(told)
    assert outcome is not None
    assert (outcome.status, outcome.error_code) == (status, code)


def test_a_waiting_execution_has_no_end_yet() -> None:
    assert event_outcome({"status": "waiting"}) is None
