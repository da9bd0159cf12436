"""A database that goes away, never was, or has no schema: nothing lost, nothing twice, and nobody waits for it."""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from elf_exporters import CommunicationSpanProcessor, CommunicationTelemetryExporter
from spans import eventually, tool_call

FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


def numbers(url: str) -> list[int]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT span_id FROM communication_telemetry ORDER BY span_id").fetchall()
    return [int(row[0], 16) - 1 for row in found]


def activity(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT activity_count FROM unified_registry WHERE entity_id = 'planning-team'"
        ).fetchone()
    return found[0] if found else 0


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not below pytest's own folder: that one is closed to the system user a root run needs.
    with tempfile.TemporaryDirectory(prefix="elf-outage-") as name:
        yield Path(name)


def test_a_database_stopped_and_started_again_has_every_row_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="elf_exporters")
    server = EmbeddedPostgres(folder / "server", settings=FAST)
    url = server.start()
    exporter = CommunicationTelemetryExporter(
        database_url=url, linger_seconds=0.02, retry_initial_seconds=0.05, retry_max_seconds=0.3
    )
    processor = CommunicationSpanProcessor(exporter)
    slowest = 0.0
    sent = 0

    def work(spans: int) -> None:
        nonlocal slowest, sent
        for _ in range(spans):
            span = tool_call(sent, start_ns=time.time_ns())
            began = time.perf_counter()
            processor.on_end(span)
            slowest = max(slowest, time.perf_counter() - began)
            sent += 1
            if sent % 50 == 0:
                time.sleep(0.005)

    try:
        migrate(url)
        work(500)
        eventually(lambda: exporter.books().stored)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        work(1000)
        stopping.join()
        work(1000)
        assert exporter.force_flush(200) is False
        before = exporter.books()
        assert before.queued > 0
        assert before.balanced
        server.start()
        work(500)
        assert exporter.force_flush(20_000)
        books = exporter.books()
        assert numbers(url) == list(range(3000))
        assert activity(url) == 3000
        assert (books.started, books.stored + books.duplicate, books.queued) == (3000, 3000, 0)
        assert not books.dropped
        assert books.balanced
        exporter.shutdown()
    finally:
        server.stop()
    # A generous bound for a busy machine; what it must never be is a connection attempt.
    assert slowest < 0.25
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "INFO"]
    assert "spans wait" in lines[0][1]
    assert "stored again" in lines[1][1]


def test_without_the_schema_one_line_names_setup_and_after_setup_the_rows_arrive(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = CommunicationTelemetryExporter(
        database_url=empty_database_url, retry_initial_seconds=0.02, retry_max_seconds=0.1, linger_seconds=0.0
    )
    exporter.export([tool_call(n) for n in range(100)])
    assert exporter.force_flush(500) is False
    migrate(empty_database_url)
    assert exporter.force_flush(10_000)
    exporter.shutdown()
    (line,) = [record.getMessage() for record in caplog.records]
    assert "no telemetry schema" in line
    assert "run `elf-telemetry setup`" in line
    assert numbers(empty_database_url) == list(range(100))
    assert activity(empty_database_url) == 100


def test_credentials_that_are_refused_drop_the_batch_with_one_error_line(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    exporter = CommunicationTelemetryExporter(database_url=database_url.replace("postgres@", "nobody_we_know@"))
    for _ in range(3):
        exporter.export([tool_call(1)])
        assert exporter.force_flush() is False
    exporter.shutdown()
    assert exporter.books().dropped == {"refused": 3}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "nobody_we_know" in record.getMessage()


@pytest.mark.parametrize("way", ["refused", "silent"])
def test_a_database_that_never_answers_costs_the_application_nothing(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as listener:
        # Bound but not listening refuses; listening but never accepting is silent.
        listener.bind(("127.0.0.1", 0))
        if way == "silent":
            listener.listen(1)
        port = listener.getsockname()[1]
        exporter = CommunicationTelemetryExporter(
            database_url=f"postgresql://u:hunter2@127.0.0.1:{port}/db?connect_timeout=3", queue_size=64
        )
        began = time.perf_counter()
        for number in range(200):
            exporter.export([tool_call(number)])
        caller = time.perf_counter() - began
        began = time.perf_counter()
        flushed = exporter.force_flush(300)
        flush = time.perf_counter() - began
        began = time.perf_counter()
        exporter.shutdown(timeout_millis=500)
        shutdown = time.perf_counter() - began
    books = exporter.books()
    assert flushed is False
    assert caller < 0.5
    assert flush < 0.8
    assert shutdown < 1.0
    assert books.started == 200
    assert books.dropped["shutdown"] + books.dropped["queue_full"] == 200
    assert books.balanced
    text = "\n".join(record.getMessage() for record in caplog.records)
    assert "hunter2" not in text
    assert text.count("the telemetry queue is full") == 1
    assert "spans were not stored within 0.5 s at shutdown" in text


def test_a_queue_that_overflows_is_counted_exactly_under_eight_threads() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"postgresql://u@127.0.0.1:{listener.getsockname()[1]}/db"
        exporter = CommunicationTelemetryExporter(database_url=url, queue_size=64, batch_size=64)
        processor = CommunicationSpanProcessor(exporter)
        spans = [tool_call(number) for number in range(2000)]
        threads = [threading.Thread(target=lambda: [processor.on_end(span) for span in spans]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        books = exporter.books()
        assert books.started == 16_000
        # 64 wait, and a batch of 64 may be on its way.
        assert 64 <= books.queued <= 128
        # The same span from two threads may meet in one batch; it is one row, and a duplicate at once.
        assert books.dropped == {"queue_full": 16_000 - books.queued - books.duplicate}
        exporter.shutdown(timeout_millis=100)
        assert exporter.books().balanced
