"""What the database code does through a transaction pooler, where two transactions need not share a session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from elf_automations.errors import StorageRefusedError
from elf_automations.model import Entity
from elf_automations.registry import UnifiedRegistry
from elf_automations.storage.connection import connect
from elf_automations.storage.migrate import migrate, pending
from elf_automations.storage.queries import fetch
from elf_automations.storage.sql_files import migrations
from elf_automations.storage.writer import PostgresWriter
from elf_exporters import CommunicationTelemetryExporter
from spans import row, tool_call


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        return connection.execute(query.encode()).fetchall()


def count(url: str) -> int:
    return int(ask(url, "select count(*) from communication_telemetry")[0][0])


def together(workers: int, work: Callable[[int], object]) -> None:
    start = threading.Barrier(workers)

    def run(number: int) -> None:
        start.wait(timeout=60)
        work(number)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(workers)))


def test_it_is_a_transaction_pooler(pooled_database_url: str) -> None:
    """Otherwise the other tests here say nothing: prepared statements of two clients must collide."""
    with psycopg.connect(pooled_database_url, autocommit=True, prepare_threshold=0) as first:
        first.execute("select 1")
        with (
            psycopg.connect(pooled_database_url, autocommit=True, prepare_threshold=0) as second,
            pytest.raises(psycopg.errors.DuplicatePreparedStatement),
        ):
            second.execute("select 1")


def test_setup_brings_an_empty_database_up_to_date_once(pooled_empty_database_url: str) -> None:
    names = tuple(known.name for known in migrations())
    reports: list[tuple[str, ...]] = []
    together(3, lambda _: reports.append(migrate(pooled_empty_database_url).applied))
    assert sorted(name for applied in reports for name in applied) == sorted(names)
    assert pending(pooled_empty_database_url) == ()


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("number", [1, 63, 64, 600])
def test_every_way_of_writing_stores_each_row_once(pooled_database_url: str, number: int, *, retry: bool) -> None:
    """jsonb, COPY into the table, COPY through the staging table; then all of it again, in part and with bad rows."""
    batch = [row(at) for at in range(number)]
    writer = PostgresWriter(pooled_database_url)
    try:
        assert writer.write(batch[: number // 2], [], retry=retry).stored == number // 2
        team = Entity(entity_id="planning-team", entity_type="team", entity_name="Planning", calls=number)
        bad = [row(10_000, protocol="smtp"), row(10_001, tool_name="NUL \x00")]
        result = writer.write([*batch, *bad], [team], retry=retry)
        assert (result.stored, result.duplicate) == (number - number // 2, number // 2)
        assert {refused.row.id for refused in result.rejected} == {refused.id for refused in bad}
    finally:
        writer.close()
    assert count(pooled_database_url) == number
    activity = ask(pooled_database_url, "select activity_count from unified_registry")
    assert activity == [(number - number // 2,)]


def test_four_writers_at_once_lose_nothing_and_leave_nothing_behind(pooled_database_url: str) -> None:
    """A SET of one client, or its prepared statement, would reach the others on the same server connection."""
    before = ask(pooled_database_url, "show statement_timeout")

    def write(number: int) -> None:
        writer = PostgresWriter(pooled_database_url)
        try:
            for batch in range(12):
                size = (5, 64, 90)[batch % 3]
                sent = [row(number * 100_000 + batch * 100 + at) for at in range(size)]
                team = Entity(entity_id="planning-team", entity_type="team", entity_name="Planning", calls=size)
                assert writer.write(sent, [team], retry=batch % 2 == 0).stored == size
                assert writer.write(sent, [team], retry=False).duplicate == size
        finally:
            writer.close()

    together(4, write)
    expected = 4 * 4 * (5 + 64 + 90)
    assert count(pooled_database_url) == expected
    assert ask(pooled_database_url, "select activity_count from unified_registry") == [(expected,)]
    assert ask(pooled_database_url, "show statement_timeout") == before


def test_two_sides_of_a_call_are_settled(pooled_database_url: str) -> None:
    now = datetime.now(UTC)
    client = row(1, timestamp=now, status="success", error_message=None, error_code=None)
    server = row(
        2, timestamp=now + timedelta(milliseconds=1), trace_id=client.trace_id, parent_span_id=client.span_id,
        observed_by="server", status="error", error_code="E1",
    )  # fmt: skip
    writer = PostgresWriter(pooled_database_url)
    try:
        writer.write([server], [], retry=False)
        writer.write([client], [], retry=False)
        writer.settle(now - timedelta(minutes=1))
    finally:
        writer.close()
    seen = ask(pooled_database_url, "select observed_by, counted, status from communication_telemetry order by 1")
    assert seen == [("client", True, "error"), ("server", False, "error")]


def test_a_server_connection_the_pooler_lost_is_no_loss(pooled_database_url: str) -> None:
    """A failover behind the pooler: the client's connection to the pooler stays open all the while."""
    writer = PostgresWriter(pooled_database_url)
    try:
        writer.write([row(1)], [], retry=False)
        with psycopg.connect(pooled_database_url, autocommit=True, prepare_threshold=None) as other:
            other.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        assert writer.write([row(at) for at in range(100)], [], retry=False).stored == 99
    finally:
        writer.close()
    assert count(pooled_database_url) == 100


def test_the_registry_answers_many_threads(pooled_database_url: str) -> None:
    with UnifiedRegistry(pooled_database_url) as shared:

        def live(number: int) -> None:
            with UnifiedRegistry(pooled_database_url) as own:
                for _ in range(8):
                    for registry in (shared, own):
                        registry.register_entity(f"team-{number}", "team", endpoint_url=f"http://{number}")
                        assert registry.update_state(f"team-{number}", "team", "active", health_status="healthy")
                        registry.record_activity(f"team-{number}", "team")
                        assert registry.resolve_endpoint(f"team-{number}") == f"http://{number}"

        together(4, live)
        found = shared.list("team")
        assert {(team["entity_id"], team["activity_count"]) for team in found} == {(f"team-{n}", 16) for n in range(4)}
        assert shared.gaps() == []


def test_named_queries_and_upkeep_run(pooled_database_url: str) -> None:
    with connect(pooled_database_url) as connection:
        for _ in range(7):
            for name, parameters in (
                ("system_health", {}),
                ("communication_matrix", {"since": "1 hour"}),
                ("recent_communications", {"limit": 5}),
                ("latency", {"since": "1 hour"}),
                ("active_alerts", {}),
                ("registration_gaps", {}),
            ):
                assert fetch(connection, name, **parameters) == []
            connection.execute("select maintain_telemetry()")


def test_wrong_names_are_refused_and_not_waited_for(pooled_database_url: str) -> None:
    """A pooler has its own words for them."""
    base, _, database = pooled_database_url.rpartition("/")
    for wrong in (f"{base}/nowhere", f"{base.replace('postgres@', 'nobody_we_know@')}/{database}"):
        with pytest.raises(StorageRefusedError, match="refused the connection"):
            connect(wrong)


def test_spans_come_back_as_rows(pooled_database_url: str) -> None:
    with psycopg.connect(pooled_database_url, autocommit=True, prepare_threshold=None) as connection:
        # The spans are of a fixed day, and the exporter looks after retention too.
        connection.execute("update telemetry_settings set value = 36500 where name = 'retention_days'")
    exporter = CommunicationTelemetryExporter(database_url=pooled_database_url, linger_seconds=0.05)
    try:
        spans = [tool_call(number) for number in range(200)]
        for _ in range(2):
            exporter.export(spans)
            assert exporter.force_flush()
    finally:
        exporter.shutdown()
    books = exporter.books()
    assert (books.stored, books.duplicate, books.balanced) == (200, 200, True)
    assert count(pooled_database_url) == 200
