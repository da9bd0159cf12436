"""One run of an application: its calls as rows, its traces in a real Jaeger, its figures for Prometheus.

The application is started by `opentelemetry-instrument` and sends to the gateway alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace.export import SpanExportResult

from collector_process import CONFIGURATIONS, free_address
from collector_tiers import Tier, figure, gateway
from jaeger_process import Jaeger, jaeger, tags
from pipeline_application import application, stored
from sink_process import sink
from spans import eventually, tool_call

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
        # Decided when the traces are old enough; the last of them failed.
        eventually(lambda: result.failed <= backend.trace_ids("planner"))
        yield result


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
