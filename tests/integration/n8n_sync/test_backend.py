"""The spans of the executions that were read, in a tracing backend."""

from __future__ import annotations

import pytest

from command import run
from n8n_api_server import Instance
from n8n_syncing import counts, execution, family, rows, sync
from sink_process import sink


def test_a_backend_gets_the_spans_of_the_rows(
    n8n: Instance, url: str, database_url: str, pooled_database_url: str
) -> None:
    """Here the backend is a sink before another database, which shows what it was sent."""
    n8n.executions = [*family(), execution(3, "error", retryOf="1", mode="retry")]
    with sink(pooled_database_url, "--grpc", "off") as backend:
        told = sync(database_url, "--otlp-endpoint", backend.url)
    assert told["spans_sent"] == 15
    except_arrival = (
        "id, timestamp, source_id, target_id, status, duration_ms, trace_id, parent_span_id, metadata, counted"
    )
    assert rows(pooled_database_url, except_arrival) == rows(database_url, except_arrival) != []


def test_a_backend_that_is_away_gets_the_spans_next_time(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1)]
    away = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    told = run(database_url, "n8n", "sync", code=2, **away).stderr
    assert "the OTLP backend at http://127.0.0.1:9/v1/traces does not take spans" in told
    assert told.count("\n") == 1
    with sink(database_url, "--grpc", "off") as backend:
        again = sync(database_url, "--otlp-endpoint", backend.traces)
    assert (counts(again), again["spans_sent"]) == ({"read": 1, "duplicate": 2}, 5)


@pytest.mark.parametrize(
    ("variable", "given", "sent"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/otlp", "/otlp/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/", "/"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/otlp", "/otlp"),
    ],
)
def test_a_backend_is_where_the_opentelemetry_variables_say(
    n8n: Instance, url: str, database_url: str, variable: str, given: str, sent: str
) -> None:
    n8n.executions = [execution(1)]
    run(database_url, "n8n", "sync", "--limit-rate", "1000", code=2, **{variable: f"{url}{given}"})
    assert n8n.posted == [sent]
