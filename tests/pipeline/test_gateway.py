"""One run of an application: its calls as rows, its traces in a real Jaeger, its figures for Prometheus.

The application is started by `opentelemetry-instrument` and sends to the gateway alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind
from opentelemetry.util.types import AttributeValue

from collector_process import CONFIGURATIONS, free_address
from collector_tiers import Tier, figure, gateway
from elf_automations.model import SpanRecord, map_batch, settle
from elf_automations.model.from_otlp_bytes import from_json
from jaeger_process import Jaeger, jaeger, tags
from otlp import as_json, request_of
from pipeline_application import application, stored
from sink_process import sink
from spans import eventually, tool_call

FIXTURES = Path(__file__).parents[1] / "fixtures"
SECRET = "sk-fake0000000000000000"
ROUNDS = 3
FAILED = {"error", "timeout"}
NAMES = {"tool_call": "tools/call {tool_name}", "tool_list": "tools/list", "send_task": "SendMessage"}


@dataclass(frozen=True)
class Run:
    """What one run left everywhere."""

    seen: dict[str, dict[str, int]]
    """What the application saw of its calls."""
    rows: list[dict[str, Any]]
    jaeger: Jaeger
    gateway: Tier
    sink: str
    """URL of the sink's metrics."""

    @property
    def failed(self) -> set[str]:
        return {row["trace_id"] for row in self.rows if row["status"] != "success"}


@pytest.fixture(scope="module", params=["100", "0"], ids=["every trace to the backend", "only failures to the backend"])
def run(request: pytest.FixtureRequest, module_database_url: str, tmp_path_factory: Any) -> Iterator[Run]:
    """The same run with all traces sampled for the backend and with none but those that must be."""
    folder = tmp_path_factory.mktemp("gateway")
    with psycopg.connect(module_database_url) as connection:
        connection.execute("truncate communication_telemetry")
    every = {"ELF_BACKEND_PERCENT": request.param, "ELF_BACKEND_WAIT": "1s", "ELF_GATEWAY_METRICS_EVERY": "500ms"}
    with (
        jaeger(folder / "jaeger.log") as backend,
        sink(module_database_url, "--grpc", "off") as running,
        gateway(folder, running.url, backend.grpc, **every) as tier,
    ):
        seen = application(ROUNDS, OTEL_TRACES_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{tier.grpc}")
        calls = sum(sum(ends.values()) for ends in seen.values())
        eventually(lambda: sum(row["counted"] for row in stored(module_database_url)) >= calls)
        result = Run(seen, stored(module_database_url), backend, tier, f"{running.url}/metrics")
        # Failures go at once; the rest of their traces, and the sample, when the traces are old enough to be decided.
        due = {row["span_id"] for row in result.rows if request.param == "100" or row["trace_id"] in result.failed}
        eventually(lambda: due <= spans_at(backend))
        yield result


def spans_at(backend: Jaeger) -> set[str]:
    return {span["spanID"] for trace in backend.trace_ids("planner") for span in backend.trace(trace)}


def test_every_call_is_a_row_whatever_is_sampled(run: Run) -> None:
    counted = Counter((row["tool_name"] or row["operation"], row["status"]) for row in run.rows if row["counted"])
    assert counted == {(name, status): n for name, ends in run.seen.items() for status, n in ends.items()}
    assert {row["source_id"] for row in run.rows if row["counted"]} == {"planning-team"}


def test_the_backend_knows_the_same_ids_names_and_outcomes(run: Run) -> None:
    """Each row of a trace the backend has is a span of it: same ids, same name, failed in both or in neither.

    A cancelled call did not fail.
    """
    kept = run.jaeger.trace_ids("planner")
    rows = [row for row in run.rows if row["trace_id"] in kept]
    assert rows
    as_rows = {
        (row["trace_id"], row["span_id"], NAMES[row["operation"]].format(**row), row["status"] in FAILED)
        for row in rows
    }
    spans = [span for trace in kept for span in run.jaeger.trace(trace)]
    as_spans = {
        (span["traceID"], span["spanID"], span["operationName"], tags(span).get("otel.status_code") == "ERROR")
        for span in spans
    }
    assert as_rows <= as_spans


def test_failures_are_kept_and_the_sample_costs_no_row(run: Run, request: pytest.FixtureRequest) -> None:
    kept, traces = run.jaeger.trace_ids("planner"), {row["trace_id"] for row in run.rows}
    assert run.failed
    assert run.failed <= kept
    if "every" in request.node.callspec.id:
        assert traces <= kept
    else:
        assert not (traces - run.failed) & kept


def test_a_secret_reaches_neither(run: Run) -> None:
    told = json.dumps([run.jaeger.trace(trace) for trace in run.jaeger.trace_ids("planner")])
    assert "no station in ****" in told
    assert "sk-fake" not in told + json.dumps(run.rows, default=str)


def test_calls_are_counted_for_prometheus(run: Run) -> None:
    """Also those whose traces the backend does not keep."""
    count, client = "traces_span_metrics_calls_total", {"span_kind": "SPAN_KIND_CLIENT", "service_name": "planner"}

    def calls(**labels: str) -> float:
        return figure(run.gateway.calls, count, **client, **labels)

    eventually(lambda: calls(gen_ai_tool_name="get_weather", elf_outcome="success") == ROUNDS)
    eventually(lambda: calls(gen_ai_tool_name="broken", status_code="STATUS_CODE_ERROR") == ROUNDS)
    eventually(lambda: calls(gen_ai_agent_name="sales-team") == 3 * ROUNDS)
    eventually(lambda: figure(run.gateway.calls, "traces_service_graph_request_total", server="planner") > 0)


def test_the_dashboard_asks_prometheus_for_what_is_there(run: Run) -> None:
    panels = json.loads((CONFIGURATIONS / "grafana/dashboards/telemetry.json").read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"\b(?:traces|otelcol|otel)_\w+", target.get("expr", ""))
    }
    assert asked

    def there() -> set[str]:
        pages = [httpx.get(url).raise_for_status().text for url in (run.gateway.calls, run.gateway.own, run.sink)]
        return set(re.findall(r"^\w+", "\n".join(pages), re.MULTILINE))

    eventually(lambda: asked <= there())


_MCP: Mapping[str, AttributeValue] = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "search"}
_TASK: Mapping[str, AttributeValue] = {"a2a.method.name": "SendMessage"}
_WORKFLOW: Mapping[str, AttributeValue] = {"n8n.workflow.id": "w", "n8n.node.type": "n8n-nodes-base.httpRequest"}
# Each is a failure as a row, and its status says nothing: name of the span, its scope, its attributes.
FAILURES: dict[str, tuple[str, str, Mapping[str, AttributeValue]]] = {
    "an error type": ("tools/call search", "mcp-python-sdk", {**_MCP, "error.type": "tool_error"}),
    "the outcome itself": ("tools/call search", "test", {**_MCP, "elf.outcome": "timeout"}),
    "AgentGateway's refusal": ("call_tool search", "agentgateway", {**_MCP, "http.status": 503}),
    "an upstream's refusal": ("call_tool search", "agentgateway", {**_MCP, "http.response.status_code": 401}),
    "an error code": ("mcp tools/call", "openlit.otel.tracing", {"mcp.error.code": "-32000"}),
    "an abandoned call": ("search.tool", "opentelemetry.instrumentation.mcp.instrumentation", {}),
    "an error as a result": (
        "MCP request: tools/call search",
        "logfire.mcp",
        {"rpc.method": "tools/call", "response": '{"content": [], "isError": true}'},
    ),
    "an error as an answer": (
        "MCP request: tools/list",
        "logfire.mcp",
        {"rpc.method": "tools/list", "response": '{"code": -32601, "message": "no"}'},
    ),
    "an exception": ("cancelled", "test", _MCP),
    "a task that failed": ("SendMessage", "test", {**_TASK, "a2a.task.state": "TASK_STATE_FAILED"}),
    "a rejected task": ("x", "test", {"a2a.method": "message/send", "gen_ai.a2a.task.state": "rejected"}),
    "a cancelled task": ("SendMessage", "test", {**_TASK, "a2a.task.state": "canceled"}),
    "a task that wants a login": ("SendMessage", "test", {**_TASK, "a2a.task.state": "auth-required"}),
    "a cancelled execution": ("workflow.execute", "n8n-workflow", {**_WORKFLOW, "n8n.execution.status": "canceled"}),
    "a crashed execution": ("workflow.execute", "n8n-workflow", {**_WORKFLOW, "n8n.execution.status": "crashed"}),
    "a node that was cut off": (
        "node.execute",
        "n8n-workflow",
        {**_WORKFLOW, "n8n.node.termination_reason": "workflow_cancelled"},
    ),
}


def _failure(number: int, name: str, scope: str, attributes: Mapping[str, AttributeValue]) -> ReadableSpan:
    call = tool_call(number)
    return ReadableSpan(
        name=name,
        context=call.context,
        resource=call.resource,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        events=[Event("exception", {"exception.type": "asyncio.CancelledError"})] if name == "cancelled" else (),
        start_time=call.start_time,
        end_time=call.end_time,
        instrumentation_scope=InstrumentationScope(scope),
    )


def _captured() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield other people's spans, each file's traces with ids of their own."""
    files = [*sorted((FIXTURES / "mcp").glob("*.json")), *sorted((FIXTURES / "n8n").glob("otlp_*.json"))]
    for number, file in enumerate(files, 1):
        document = json.loads(file.read_text())
        for request in document.get("requests", [document]):
            text = re.sub(r'("traceId": ")..', rf"\g<1>{number:02x}", json.dumps(request))
            yield file.stem, json.loads(text)


def _settled_failures(records: Sequence[SpanRecord]) -> set[tuple[str, str]]:
    return {(row.trace_id, row.span_id) for row in settle(records).rows if row.status != "success"}


def _send(tier: Tier, *requests: object) -> None:
    for request in requests:
        httpx.post(f"{tier.http}/v1/traces", json=request).raise_for_status()


def _kept(backend: Jaeger, trace_ids: Iterable[str]) -> set[tuple[str, str]]:
    return {(span["traceID"], span["spanID"]) for each in trace_ids for span in backend.trace(each)}


def _sent(tier: Tier) -> float:
    return figure(tier.own, "otelcol_exporter_sent_spans", exporter="otlp_grpc/backend")


@pytest.fixture(scope="module")
def sampling(module_database_url: str, tmp_path_factory: Any) -> Iterator[tuple[Tier, Jaeger]]:
    """A gateway that keeps no trace but those it has to."""
    folder = tmp_path_factory.mktemp("sampling")
    with (
        jaeger(folder / "jaeger.log") as backend,
        sink(module_database_url, "--grpc", "off") as running,
        gateway(folder, running.url, backend.grpc, ELF_BACKEND_PERCENT="0", ELF_BACKEND_WAIT="1s") as tier,
    ):
        yield tier, backend


def test_whatever_is_a_failure_as_a_row_is_kept(sampling: tuple[Tier, Jaeger]) -> None:
    tier, backend = sampling
    spans = {name: _failure(number, *what) for number, (name, what) in enumerate(FAILURES.items())}
    fine = tool_call(1000)
    read = {name: from_json(json.dumps(as_json(request_of([span])))).records for name, span in spans.items()}
    assert {name for name, records in read.items() if not _settled_failures(records)} == set()
    _send(tier, *(as_json(request_of([span])) for span in (fine, *spans.values())))
    expected = {name: _settled_failures(records) for name, records in read.items()}
    traces = {trace for ids in expected.values() for trace, _ in ids}

    def missing() -> list[str]:
        found = _kept(backend, traces)
        return [name for name, ids in expected.items() if not ids <= found]

    eventually(lambda: missing() == [], within=15)
    assert fine.context
    assert not backend.trace(f"{fine.context.trace_id:032x}")


def test_failures_in_the_spans_of_other_libraries_are_kept(sampling: tuple[Tier, Jaeger]) -> None:
    tier, backend = sampling
    records: dict[str, list[SpanRecord]] = defaultdict(list)
    for name, request in _captured():
        records[name] += from_json(json.dumps(request)).records
        _send(tier, request)
    expected = {name: _settled_failures(spans) for name, spans in records.items()}
    assert sum(map(len, expected.values())) > 50
    traces = {trace for ids in expected.values() for trace, _ in ids}

    def missing() -> dict[str, set[tuple[str, str]]]:
        found = _kept(backend, traces)
        return {name: ids - found for name, ids in expected.items() if not ids <= found}

    eventually(lambda: missing() == {}, within=15)


@pytest.mark.parametrize("late", [{"error": "timeout"}, {"seconds": 6}], ids=["failed", "slow"])
def test_what_ends_after_its_trace_was_decided_is_kept(late: dict[str, Any], sampling: tuple[Tier, Jaeger]) -> None:
    """A call that times out ends long after the calls within it, which were not worth keeping."""
    tier, backend = sampling
    first = tool_call(2000 + len(late.get("error", "")))
    assert first.context
    trace = first.context.trace_id
    decided, sent = _decided(tier), _sent(tier)
    _send(tier, as_json(request_of([first])))
    eventually(lambda: _decided(tier) > decided)
    _send(tier, as_json(request_of([_same_trace(first, 77, **late)])))
    eventually(lambda: _kept(backend, [f"{trace:032x}"]) == {(f"{trace:032x}", f"{77:016x}")}, within=15)
    assert _sent(tier) == sent + 1


def test_a_failure_is_sent_once_and_its_trace_whole(sampling: tuple[Tier, Jaeger]) -> None:
    tier, backend = sampling
    first = tool_call(3000)
    assert first.context
    trace, sent = f"{first.context.trace_id:032x}", _sent(tier)
    _send(tier, as_json(request_of([first, _same_trace(first, 77, error="500"), _same_trace(first, 78)])))
    eventually(lambda: {span for _, span in _kept(backend, [trace])} == {f"{n:016x}" for n in (3001, 77, 78)})
    eventually(lambda: _sent(tier) == sent + 3)
    assert "elf.keep" not in json.dumps(backend.trace(trace))


def test_names_that_look_like_secrets_stay_names(sampling: tuple[Tier, Jaeger], module_database_url: str) -> None:
    """The rows are those of the exporter in the process; the backend has the same names, and no secret."""
    tier, backend = sampling
    names: dict[str, Any] = {"gen_ai.tool.name": "pk_lookup_customer", "elf.target.id": "sk-production-api"}
    call = tool_call(4000, error=f"no such key {SECRET}", note=f"for {SECRET}", **names)
    span = ReadableSpan(
        name="tools/call pk_lookup_customer",
        context=call.context,
        resource=Resource(
            {"service.name": "sk-production-api", "elf.entity.id": "pk_planning_team", "elf.entity.type": "team"}
        ),
        kind=call.kind,
        attributes=call.attributes,
        status=call.status,
        start_time=call.start_time,
        end_time=call.end_time,
        instrumentation_scope=call.instrumentation_scope,
    )
    request = as_json(request_of([span]))
    (expected,) = map_batch(from_json(json.dumps(request)).records).rows
    assert (expected.source_id, expected.tool_name) == ("pk_planning_team", "pk_lookup_customer")
    assert expected.error_message
    assert SECRET not in expected.error_message
    _send(tier, request)

    def found() -> list[dict[str, Any]]:
        return [row for row in stored(module_database_url) if row["trace_id"] == expected.trace_id]

    eventually(lambda: len(found()) == 1)
    (row,) = found()
    assert {name: row[name] for name in asdict(expected)} == asdict(expected)
    eventually(lambda: len(backend.trace(expected.trace_id)) == 1)
    (told,) = backend.trace(expected.trace_id)
    assert {name: tags(told)[name] for name in (*names, "note")} == {**names, "note": "for ****"}
    page = httpx.get(f"{backend.url}/api/traces/{expected.trace_id}").text
    assert "sk-production-api" in page
    assert "pk_planning_team" in page
    assert SECRET not in page


def _same_trace(first: ReadableSpan, span_id: int, *, error: str | None = None, seconds: float = 0.1) -> ReadableSpan:
    assert first.context
    assert first.start_time
    like = tool_call(0, error=error)
    return ReadableSpan(
        name=like.name,
        context=SpanContext(first.context.trace_id, span_id, is_remote=False),
        resource=like.resource,
        kind=like.kind,
        attributes=like.attributes,
        status=like.status,
        start_time=first.start_time,
        end_time=first.start_time + int(seconds * 1e9),
        instrumentation_scope=like.instrumentation_scope,
    )


def _decided(tier: Tier) -> float:
    return figure(tier.own, "otelcol_processor_tail_sampling_global_count_traces_sampled")


def test_a_backend_that_is_away_costs_no_row(database_url: str, tmp_path: Path) -> None:
    with (
        sink(database_url, "--grpc", "off") as running,
        gateway(tmp_path, running.url, free_address(), ELF_BACKEND_WAIT="1s", ELF_BACKEND_PERCENT="100") as tier,
    ):
        exporter = OTLPSpanExporter(endpoint=f"{tier.http}/v1/traces")
        for first in range(0, 1000, 100):
            assert exporter.export([tool_call(first + at) for at in range(100)]) is SpanExportResult.SUCCESS
        exporter.shutdown()
        eventually(lambda: len(stored(database_url)) == 1000)
        tier.collector.kill()
