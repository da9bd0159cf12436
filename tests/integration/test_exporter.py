"""From SDK spans to rows in the background: what is stored, what the books say, and that the caller never notices."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from inline_snapshot import snapshot
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue
from psycopg.rows import dict_row

from elf_exporters import CommunicationSpanProcessor, CommunicationTelemetryExporter, live_exporters
from postgrest_server import serving
from spans import other_span, tool_call


def ask(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()  # pyright: ignore[reportArgumentType, reportCallIssue]


def count(url: str) -> int:
    return ask(url, "SELECT count(*) AS n FROM communication_telemetry")[0]["n"]


def activity(url: str) -> dict[str, tuple[int, int]]:
    found = ask(url, "SELECT entity_id, activity_count, error_count FROM unified_registry ORDER BY entity_id")
    return {row["entity_id"]: (row["activity_count"], row["error_count"]) for row in found}


@pytest.fixture
def exporter(database_url: str) -> Iterator[CommunicationTelemetryExporter]:
    made = CommunicationTelemetryExporter(database_url=database_url, linger_seconds=0.05)
    yield made
    made.shutdown()


def test_a_span_becomes_exactly_this_row_and_these_entities(
    exporter: CommunicationTelemetryExporter, database_url: str
) -> None:
    span = tool_call(1, error="TimeoutError", **{"elf.cost.usd": 0.000_5, "elf.tokens.used": 12})
    assert exporter.export([span]) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    (row,) = ask(database_url, "SELECT * FROM communication_telemetry")
    assert row.pop("created_at") is not None
    shown = {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()}
    shown["id"], shown["timestamp"] = str(row["id"]), row["timestamp"].astimezone(tz=None).timestamp()
    assert shown == snapshot(
        {
            "id": "00000000-0000-0001-0000-000000000002",
            "timestamp": 1772366400.123456,
            "protocol": "mcp",
            "source_id": "planning-team",
            "source_type": "team",
            "target_id": "search-server",
            "target_type": "mcp",
            "operation": "tool_call",
            "duration_ms": 25.0,
            "status": "timeout",
            "tool_name": "search",
            "tool_category": None,
            "task_description": None,
            "capabilities_required": None,
            "message_type": None,
            "workflow_id": None,
            "workflow_name": None,
            "workflow_node": None,
            "payload_size_bytes": None,
            "tokens_used": 12,
            "estimated_cost": "0.000500",
            "error_message": "TimeoutError",
            "error_code": "TimeoutError",
            "correlation_id": "a0000000000000000000000000000001",
            "parent_correlation_id": None,
            "metadata": {},
            "trace_id": "a0000000000000000000000000000001",
            "span_id": "0000000000000002",
            "parent_span_id": None,
            "observed_by": "client",
            "counted": True,
            "service_name": "planner",
            "service_instance_id": "planner-1",
        }
    )
    assert activity(database_url) == {"planning-team": (1, 1), "search-server": (1, 1)}


def test_the_same_spans_delivered_twice_are_one_set_of_rows_and_one_activity(
    exporter: CommunicationTelemetryExporter, database_url: str
) -> None:
    spans = [tool_call(n, error="boom" if n % 5 == 0 else None) for n in range(200)]
    for _ in range(2):
        exporter.export(spans)
        assert exporter.force_flush()
    exporter.export([spans[0], spans[0], tool_call(1000), tool_call(1000)])
    assert exporter.force_flush()
    books = exporter.books()
    assert (books.started, books.stored, books.duplicate, books.queued) == (404, 201, 203, 0)
    assert books.balanced
    assert count(database_url) == 201
    assert activity(database_url) == {"planning-team": (201, 40), "search-server": (201, 40)}


class Unreadable(ReadableSpan):
    """A span of some foreign SDK whose attributes cannot be read."""

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """Fail."""
        message = "not today"
        raise RuntimeError(message)


def test_every_span_is_accounted_for_and_a_bad_one_costs_only_itself(
    exporter: CommunicationTelemetryExporter, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = [tool_call(n) for n in range(100)]
    other = [other_span(n) for n in range(7)]
    unreadable = Unreadable(name="x", context=tool_call(5000).context, start_time=1)
    exporter.export([*good[:50], unreadable, *other, *good[50:]])
    assert exporter.force_flush()
    books = exporter.books()
    assert (books.started, books.stored, books.ignored, books.dropped) == (108, 100, 7, {"mapping": 1})
    assert books.balanced
    assert count(database_url) == 100
    assert [record.getMessage() for record in caplog.records] == [
        "1 telemetry spans were dropped (mapping): RuntimeError: not today"
    ]


@pytest.mark.parametrize("number", [3, 150])
def test_a_row_the_database_refuses_is_counted_and_said_once(
    exporter: CommunicationTelemetryExporter, database_url: str, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE communication_telemetry ADD CONSTRAINT house_rule CHECK (tool_name <> 'bad')")
    spans = [tool_call(n) for n in range(number)]
    spans[1] = tool_call(1, **{"gen_ai.tool.name": "bad"})
    exporter.export(spans)
    assert exporter.force_flush()
    books = exporter.books()
    assert (books.stored, books.rejected, books.queued) == (number - 1, 1, 0)
    assert books.balanced
    assert count(database_url) == number - 1
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("1 telemetry rows were refused: ")
    assert "house_rule" in line


def test_a_provider_feeds_the_processor_and_its_shutdown_flushes(database_url: str) -> None:
    exporter = CommunicationTelemetryExporter(database_url=database_url)
    provider = TracerProvider()
    provider.add_span_processor(CommunicationSpanProcessor(exporter))
    tracer = provider.get_tracer("app")
    assert exporter in live_exporters()
    for _ in range(10):
        with tracer.start_as_current_span(
            "tools/call x", kind=SpanKind.CLIENT, attributes={"mcp.method.name": "tools/call"}
        ):
            pass
    provider.shutdown()
    assert count(database_url) == 10
    assert exporter not in live_exporters()
    assert exporter.books().balanced


def test_spans_that_are_not_sampled_are_none_of_ours(database_url: str) -> None:
    exporter = CommunicationTelemetryExporter(database_url=database_url)
    provider = TracerProvider(sampler=ALWAYS_OFF)
    provider.add_span_processor(CommunicationSpanProcessor(exporter))
    provider.get_tracer("app").start_span("tools/call x").end()
    provider.shutdown()
    assert exporter.books().started == 0


def test_after_shutdown_spans_fail_and_are_counted_and_shutdown_again_is_nothing(database_url: str) -> None:
    exporter = CommunicationTelemetryExporter(database_url=database_url)
    exporter.export([tool_call(1)])
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export([tool_call(2)]) is SpanExportResult.FAILURE
    books = exporter.books()
    assert (books.stored, books.dropped, books.queued) == (1, {"shutdown": 1}, 0)
    assert count(database_url) == 1


def test_the_lines_between_batches_are_settled_after_a_flush(
    exporter: CommunicationTelemetryExporter, database_url: str
) -> None:
    now = time.time_ns()
    client = tool_call(1, start_ns=now)
    server = ReadableSpan(
        name="tools/call search",
        context=tool_call(2).context,
        kind=SpanKind.SERVER,
        attributes={"mcp.method.name": "tools/call", "gen_ai.tool.name": "search"},
        start_time=now + 1_000_000,
        end_time=now + 2_000_000,
    )
    assert client.context is not None
    assert server.context is not None
    server._context = type(client.context)(
        client.context.trace_id, 77, is_remote=False, trace_flags=client.context.trace_flags
    )
    server._parent = client.context
    for span in (server, client):
        exporter.export([span])
        assert exporter.force_flush()
    found = ask(database_url, "SELECT observed_by, counted FROM communication_telemetry ORDER BY observed_by")
    assert [(row["observed_by"], row["counted"]) for row in found] == [("client", True), ("server", False)]


def test_a_supabase_project_takes_the_same_spans(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(database_url) as api:
        monkeypatch.setenv("SUPABASE_URL", api.url)
        monkeypatch.setenv("SUPABASE_ANON_KEY", api.key)
        exporter = CommunicationTelemetryExporter(retry_initial_seconds=0.01)
        api.answer_next(503)
        api.answer_next(429, headers={"Retry-After": "0"})
        exporter.export([tool_call(n) for n in range(100)])
        assert exporter.force_flush()
        exporter.shutdown()
    assert count(database_url) == 100
    assert exporter.books().stored == 100


def test_a_forked_child_stores_its_own_spans_and_leaves_its_parents_alone(database_url: str) -> None:
    exporter = CommunicationTelemetryExporter(database_url=database_url, linger_seconds=30.0)
    exporter.export([tool_call(n) for n in range(10)])
    assert exporter.force_flush()
    exporter.export([tool_call(n) for n in range(10, 20)])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            exporter.export([tool_call(n) for n in range(100, 105)])
            flushed = exporter.force_flush(10_000)
            books = exporter.books()
            exporter.shutdown()
            status = 0 if flushed and (books.started, books.stored) == (5, 5) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    exporter.shutdown()
    books = exporter.books()
    assert (books.started, books.stored, books.duplicate) == (20, 20, 0)
    assert count(database_url) == 25
