"""Executions of n8n whose spans come apart: pauses, sub-workflows, targets that only the registry knows, all nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from inline_snapshot import snapshot
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import set_span_in_context

from asking import asked
from command import run as command
from elf_automations.model import SpanKind, SpanRecord, settle
from elf_automations.storage.writer import PostgresWriter
from elf_exporters import CommunicationTelemetryExporter
from n8n_spans import captured, node, run
from otlp import as_json, request_of
from records import START_NS, span
from sink_process import sink

_SETTLE = "select settle_communications_if_due(p_wait => true)"
_KINDS = [
    ("Webhook", "n8n-nodes-base.webhook"),
    ("Shape", "n8n-nodes-base.set"),
    ("Call", "n8n-nodes-base.httpRequest"),
    ("Refund", "n8n-nodes-base.executeWorkflow"),
]


@pytest.fixture
def writer(database_url: str) -> Iterator[PostgresWriter]:
    made = PostgresWriter(database_url)
    yield made
    made.close()


def _store(writer: PostgresWriter, *spans: SpanRecord) -> None:
    settled = settle(spans)
    writer.write(settled.rows, settled.entities, retry=False)


def test_wait_and_resume_is_one_execution(database_url: str, writer: PostgresWriter) -> None:
    """Days may lie between, and the steps before and after know whose they are; who started it started the whole."""
    day = 86_400_000_000_000
    began = int(datetime.now(UTC).timestamp()) * 1_000_000_000 - 12 * day
    state = {"trace_state": "elf=team:sales-team"}
    waits = run(1, "approval", "waiting", parent=9, start_ns=began, **state)
    ends = run(3, "approval", parent=1, link=1, start_ns=began + 11 * day)
    _store(writer, ends)
    _store(writer, node(4, 3, "Tell", start_ns=began + 11 * day))
    asked(database_url, _SETTLE)
    assert asked(database_url, "select source_id from communication_telemetry where span_id like '%3'") == [("n8n",)]
    _store(writer, node(2, 1, "Ask", start_ns=began))
    _store(writer, waits)
    asked(database_url, _SETTLE)
    assert asked(
        database_url,
        "select right(span_id, 1), operation, source_id, source_type, workflow_id, workflow_name, workflow_node, "
        "counted, metadata ->> 'execution_id', metadata ->> 'execution_status', metadata ->> 'resumed' "
        "from communication_telemetry order by span_id",
    ) == snapshot(
        [
            (
                "1",
                "workflow_execution",
                "sales-team",
                "team",
                "approval",
                "Approval",
                None,
                False,
                "7",
                "waiting",
                None,
            ),
            ("2", "workflow_step", "approval", "workflow", "approval", "Approval", "Ask", True, "7", None, None),
            ("3", "workflow_execution", "sales-team", "team", "approval", "Approval", None, True, "7", None, "true"),
            ("4", "workflow_step", "approval", "workflow", "approval", "Approval", "Tell", True, "7", None, None),
        ]
    )


def test_an_execution_that_never_resumed_is_no_call(database_url: str, writer: PostgresWriter) -> None:
    _store(writer, run(1, "approval", "waiting"), node(2, 1, "Ask"))
    asked(database_url, _SETTLE)
    counted = "select operation, workflow_id from communication_telemetry where counted"
    assert asked(database_url, counted) == [("workflow_step", "approval")]


def test_a_sub_workflow_was_called_by_the_workflow_above_it(database_url: str, writer: PostgresWriter) -> None:
    """Although it inherits the trace state that names who called the first of them."""
    state = {"trace_state": "elf=team:sales-team,h3=1"}
    _store(writer, node(5, 3, "Bank"))
    _store(writer, run(3, "refunds", parent=1, execution="8", mode="integrated", **state))
    _store(writer, node(2, 1, "Refund", "n8n-nodes-base.executeWorkflow"))
    _store(writer, run(1, "billing", parent=9, **state))
    asked(database_url, _SETTLE)
    assert asked(
        database_url,
        "select operation, source_type, source_id, target_id, workflow_node, counted, metadata ->> 'execution_id', "
        "metadata ->> 'parent_execution_id' from communication_telemetry order by span_id",
    ) == snapshot(
        [
            ("workflow_execution", "team", "sales-team", "billing", None, True, "7", None),
            ("workflow_step", "workflow", "billing", "n8n", "Refund", False, "7", None),
            ("workflow_execution", "workflow", "billing", "refunds", None, True, "8", "7"),
            ("workflow_step", "workflow", "refunds", "httpRequest", "Bank", True, "8", None),
        ]
    )


def test_a_step_went_where_its_workflow_says(database_url: str, writer: PostgresWriter) -> None:
    """The export does not say whom a node calls; the registry does for those whose workflow was registered with it."""
    asked(
        database_url,
        "select register_entity(p_entity_id => 'billing', p_entity_type => 'n8n_workflow', p_entity_name => 'Billing', "
        """p_registered_by => 'n8n', p_metadata => '{"node_targets": {"Charge": "api.bank.example", "Odd": 7}}')""",
    )
    spans = [run(1, "billing"), node(2, 1, "Charge"), node(3, 1, "Other"), node(4, 1, "Odd")]
    for one in [*spans, *spans]:
        _store(writer, one)
        asked(database_url, _SETTLE)
    targets = (
        "select workflow_node, target_id, target_type from communication_telemetry where workflow_node is not null"
    )
    assert asked(database_url, f"{targets} order by 1") == [
        ("Charge", "api.bank.example", "external"),
        ("Odd", "7", "external"),
        ("Other", "httpRequest", "external"),
    ]


@pytest.mark.parametrize("first", ["n8n", "agent"])
def test_an_http_server_s_span_in_between_hides_nobody(database_url: str, writer: PostgresWriter, first: str) -> None:
    """Web frameworks are instrumented too, and their spans make no rows."""
    said = {"a2a.method.name": "SendMessage", "gen_ai.agent.name": "pricing-team"}
    agent = [
        span(3, "POST /rpc", SpanKind.SERVER, parent=2),
        span(4, "SendMessage", SpanKind.SERVER, said, parent=3),
    ]
    n8n = [run(1, "quotes"), node(2, 1, "Ask")]
    for batch in [n8n, agent] if first == "n8n" else [agent, n8n]:
        _store(writer, *batch)
        asked(database_url, _SETTLE)
    ends = "select operation, source_id, target_id from communication_telemetry order by span_id"
    assert asked(database_url, ends) == [
        ("workflow_execution", "n8n", "quotes"),
        ("workflow_step", "quotes", "pricing-team"),
        ("send_task", "quotes", "pricing-team"),
    ]


def test_an_execution_told_before_its_row_came_counts_once(database_url: str, writer: PostgresWriter) -> None:
    """A hook tells it at once, n8n's export some seconds later; and the row knows better how it ended."""
    asked(database_url, "select register_entity('billing', 'n8n_workflow', 'Billing', 'n8n')")
    for number, status in (("7", "timeout"), ("8", "success"), ("9", "success")):
        asked(database_url, f"select record_workflow_execution('billing', '{number}', '{status}')")
    activity = "select activity_count, error_count from unified_registry where entity_id = 'billing'"
    assert asked(database_url, activity) == [(3, 1)]
    _store(writer, run(1, "billing", "error"), run(3, "billing", execution="8"))
    asked(database_url, _SETTLE)
    assert asked(database_url, activity) == [(3, 1)]
    asked(database_url, "select record_workflow_execution('billing', '7', 'timeout')")
    _store(writer, run(1, "billing", "error"))
    asked(database_url, _SETTLE)
    assert asked(database_url, "select settle_communications('-infinity')") == [(0,)]
    assert asked(database_url, activity) == [(3, 1)]


def test_the_steps_of_an_execution_of_days_know_their_workflow(database_url: str, writer: PostgresWriter) -> None:
    """Each day is a partition of its own, and n8n tells a step when it ends, long before its execution."""
    day = 86_400_000_000_000
    began = int(datetime.now(UTC).timestamp()) * 1_000_000_000 - 6 * day
    for step in range(5):
        _store(writer, node(2 + step, 1, f"Step {step}", start_ns=began + step * day))
    asked(database_url, "select ensure_telemetry_partitions(1)")
    asked(database_url, _SETTLE)
    _store(writer, run(1, "billing", start_ns=began, end_ns=began + 5 * day))
    asked(database_url, _SETTLE)
    steps = "select count(*) from communication_telemetry where operation = 'workflow_step' and workflow_id = 'billing'"
    assert asked(database_url, steps) == [(5,)]


@pytest.mark.parametrize(
    ("limit", "ends"),
    [
        ("2", ("timeout", "n8n stopped the execution at its limit of 2 s", "timeout")),
        ("2.5", ("cancelled", None, None)),
        ("-1", ("cancelled", None, None)),
        ('"2"', ("cancelled", None, None)),
    ],
)
def test_what_ran_into_its_limit_timed_out(
    database_url: str, writer: PostgresWriter, limit: str, ends: tuple[str | None, ...]
) -> None:
    """n8n exports it like an execution that somebody stopped; the registry knows the limit of the workflow."""
    asked(
        database_url,
        "select register_entity(p_entity_id => 'h3Timeout0000001', p_entity_type => 'n8n_workflow', "
        f"""p_entity_name => 'Slow', p_registered_by => 'n8n', p_metadata => '{{"execution_timeout": {limit}}}')""",
    )
    for one in captured("otlp_execution_timeout"):
        _store(writer, one)
    asked(database_url, _SETTLE)
    said = "select status, error_message, error_code from communication_telemetry order by timestamp"
    assert asked(database_url, said) == [ends, (ends[0], "the execution ended while this node ran", None)]
    failed = "select sum(error_count) from unified_registry"
    # The step's and the execution's own.
    assert asked(database_url, failed) == [(2 if ends[0] == "timeout" else 0,)]
    assert asked(database_url, "select settle_communications('-infinity')") == [(0,)]


@pytest.mark.parametrize("way", ["exporter", "sink", "import"])
@pytest.mark.parametrize("nodes", ["external", "all"])
def test_all_nodes_on_request(
    database_url: str, way: str, nodes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What started an execution and what started another one never count as calls of it."""
    monkeypatch.setenv("ELF_N8N_NODES", nodes)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    _take(way, database_url, tmp_path)
    asked(database_url, _SETTLE)
    found = asked(
        database_url,
        "select workflow_node, source_id, target_id, counted from communication_telemetry order by timestamp",
    )
    everything = [
        (None, "n8n", "billing", True),
        ("Webhook", "billing", "n8n", False),
        ("Shape", "billing", "n8n", True),
        ("Call", "billing", "httpRequest", True),
        ("Refund", "billing", "n8n", False),
    ]
    assert found == (
        everything if nodes == "all" else [row for row in everything if row[0] not in {"Webhook", "Shape"}]
    )


@pytest.mark.parametrize("way", ["exporter", "sink", "import"])
@pytest.mark.parametrize("source", ["api", "events"])
def test_executions_from_another_source_are_no_rows_of_the_export_as_well(
    database_url: str, way: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", source)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    _take(way, database_url, tmp_path)
    assert asked(database_url, "select count(*) from communication_telemetry") == [(0,)]


def _take(way: str, database_url: str, folder: Path) -> None:
    """Give the spans of one execution to whom makes rows of them."""
    if way == "exporter":
        exporter = CommunicationTelemetryExporter(database_url=database_url)
        exporter.export(_made())
        exporter.shutdown()
    elif way == "sink":
        with sink(database_url) as running:
            assert httpx.post(running.traces, json=as_json(request_of(_made()))).status_code == 200
    else:
        (folder / "spans.json").write_text(json.dumps(as_json(request_of(_made()))))
        command(database_url, "import", str(folder / "spans.json"))


def _made() -> Sequence[ReadableSpan]:
    """The spans of one execution with a node of each kind, as an SDK makes them."""
    kept = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "n8n"}))
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("n8n-workflow")
    workflow = {"n8n.workflow.id": "billing", "n8n.execution.id": "7", "n8n.execution.status": "success"}
    execution = tracer.start_span("workflow.execute", attributes=workflow, start_time=START_NS)
    within = set_span_in_context(execution)
    for number, (name, kind) in enumerate(_KINDS, 1):
        said = {"n8n.node.name": name, "n8n.node.type": kind}
        step = tracer.start_span("node.execute", within, attributes=said, start_time=START_NS + number * 1_000_000)
        step.end(START_NS + number * 1_000_000 + 500_000)
    execution.end(START_NS + 10_000_000)
    return kept.get_finished_spans()
