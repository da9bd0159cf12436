"""Rollups among many writers and through upkeep: nothing counted twice, nothing lost, nobody waits for anybody."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest

from elf_automations.storage.sql_files import migrations
from elf_automations.storage.writer import PostgresWriter
from naive_views import assert_rollups_are_right, assert_views_are_right
from spans import row

_INSERT = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms
) values (now() - %s::interval, 'mcp', %s, 'team', 'crm', 'mcp', 'tool_call', 'success', %s)
"""


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def one(connection: psycopg.Connection[Any], query: str) -> Any:
    found = connection.execute(query.encode()).fetchone()
    assert found
    return found[0]


def run_all(*works: Callable[[], None]) -> None:
    """Run all at once, and fail with what any of them failed with."""
    failures: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_writers_with_the_same_pairs_in_opposite_order_do_not_deadlock_or_miscount(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    """Inline upserts of shared rollup rows would wait for each other in a circle here."""
    now = datetime.now(UTC)
    names = [f"team-{number:02}" for number in range(35)]

    def writing(order: list[str], offset: int) -> None:
        writer = PostgresWriter(database_url)
        for batch in range(100):
            rows = [
                row(
                    number,
                    id=uuid.UUID(int=offset + batch * 1000 + number),
                    timestamp=now - timedelta(seconds=number % 7 * 40),
                    source_id=name,
                )
                for number, name in enumerate(order * (2 if batch % 3 else 1))
            ]
            writer.write(rows, [], retry=batch % 2 == 0)
            if batch % 5 == 0:
                writer.write(rows, [], retry=True)
        writer.close()

    def correcting() -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            for number in range(40):
                mine.execute("select fold_telemetry_rollups(p_wait => %s)", [number % 2 == 0])
                mine.execute(
                    "update communication_telemetry set counted = not counted where source_id = %s",
                    [names[number % 35]],
                )
                mine.execute(
                    "delete from communication_telemetry where source_id = %s and counted", [names[number % 9]]
                )

    run_all(lambda: writing(names, 10**6), lambda: writing(names[::-1], 10**9), correcting)
    assert one(connection, "select count(*) from communication_telemetry") > 5000
    assert_views_are_right(connection)
    assert_rollups_are_right(connection)


def test_a_transaction_that_stays_open_holds_up_no_other_writer(database_url: str) -> None:
    """An application may write a call early in a long transaction of its own."""
    with psycopg.connect(database_url) as first, psycopg.connect(database_url) as second:
        for connection in (first, second):
            connection.execute("set lock_timeout = '2s'")
        for name in ("sales", "support"):
            first.execute(_INSERT, ["1 minute", name, 5])
        for name in ("support", "sales"):
            second.execute(_INSERT, ["1 minute", name, 7])
        second.commit()
        assert_views_are_right(second)
        first.commit()
        assert_views_are_right(second)
        assert one(second, "select sum(call_count) from top_communication_pairs") == 4


def test_a_snapshot_that_stands_still_can_write_while_others_fold(database_url: str) -> None:
    with psycopg.connect(database_url) as still, psycopg.connect(database_url, autocommit=True) as other:
        still.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        still.execute("select 1 from communication_telemetry limit 1")
        other.execute(_INSERT, ["1 minute", "sales", 5])
        other.execute("select fold_telemetry_rollups()")
        for _ in range(50):
            still.execute(_INSERT, ["1 minute", "sales", 5])
        still.commit()
        assert_views_are_right(other)


def test_retention_keeps_the_days_of_what_it_drops(connection: psycopg.Connection[Any]) -> None:
    for days, name in ((6, "old"), (2, "young")):
        connection.execute(_INSERT, [f"{days} days", name, 5])
    connection.execute("select ensure_telemetry_partitions()")
    assert one(connection, "select count(*) from communication_telemetry_default") == 0
    assert_rollups_are_right(connection)
    connection.execute("update telemetry_settings set value = 4 where name = 'retention_days'")
    connection.execute("select maintain_telemetry()")
    assert one(connection, "select array_agg(source_id) from communication_telemetry") == ["young"]
    assert one(connection, "select array_agg(source_id order by source_id) from communication_patterns") == [
        "old",
        "young",
    ]


def test_maintenance_drops_rollups_that_are_older_than_their_settings(connection: psycopg.Connection[Any]) -> None:
    for days in (0, 10, 420):
        connection.execute(_INSERT, [f"{days} days", f"team-{days}", 5])
    connection.execute("update telemetry_settings set value = 1000 where name = 'retention_days'")
    connection.execute("update telemetry_settings set value = 7 where name = 'rollup_minute_days'")
    connection.execute("select maintain_telemetry_rollups()")
    for table, kept in (
        ("telemetry_minutes", 1),
        ("telemetry_minute_latency", 1),
        ("telemetry_pair_minutes", 1),
        ("telemetry_pair_hours", 1),
        ("telemetry_pair_days", 2),
        ("telemetry_pairs", 2),
        ("telemetry_rollup_pending", 0),
    ):
        assert one(connection, f"select count(*) from {table}") == kept, table
    # What is taken out of a rollup that is gone leaves nothing behind.
    connection.execute("delete from communication_telemetry where source_id <> 'team-0'")
    assert one(connection, "select count(*) from telemetry_pair_hours") == 1
    assert_views_are_right(connection)


def test_a_day_is_made_anew_from_its_rows(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Rows that came past the triggers, rollups that somebody spoilt, and writers at work."""
    connection.execute("set session_replication_role = replica")
    for hours in range(40):
        connection.execute(_INSERT, [f"{hours} hours", "restored", hours])
    connection.execute("reset session_replication_role")
    connection.execute(_INSERT, ["1 hour", "pending", 5])
    connection.execute(_INSERT, ["0", "folded", 5])
    connection.execute("select fold_telemetry_rollups()")
    connection.execute(_INSERT, ["0", "pending", 5])
    connection.execute("delete from telemetry_pair_hours")
    days = one(
        connection, "select array_agg(distinct (timestamp at time zone 'UTC')::date) from communication_telemetry"
    )

    def rebuilding() -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            for day in days * 3:
                mine.execute("select rebuild_telemetry_rollups(%s)", [day])

    def writing() -> None:
        with psycopg.connect(database_url, autocommit=True) as mine:
            for number in range(60):
                mine.execute(_INSERT, [f"{number % 40} hours", "meanwhile", number])

    run_all(rebuilding, writing)
    assert_views_are_right(connection)
    assert_rollups_are_right(connection)


def test_rows_from_before_the_rollups_are_in_them(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute("create table elf_schema_migrations (name text, sha256 text, applied_at timestamptz)")
        for migration in migrations():
            if migration.name.endswith("_rollups"):
                for days in (0, 1, 5, 29, 300):
                    connection.execute(_INSERT, [f"{days} days", "early", days])
            with connection.transaction():
                connection.execute(migration.sql.encode())
        assert_views_are_right(connection)
        assert_rollups_are_right(connection)
        assert one(connection, "select total_calls from communication_patterns") == 3


def test_absurd_values_are_stored_and_folded(connection: psycopg.Connection[Any]) -> None:
    """A sum that overflowed would be an error for every writer from then on."""
    for duration in (0.0, 5e-324, 1e308, 1.7e308):
        for _ in range(30):
            connection.execute(_INSERT, ["1 minute", "sales", duration])
    connection.execute(
        "update communication_telemetry set tokens_used = 9223372036854775807, estimated_cost = 999999.999999"
    )
    assert one(connection, "select count(*) from telemetry_rollup_pending") == 0
    for view in ("system_health_overview", "communication_patterns", "top_communication_pairs"):
        assert one(connection, f"select count(*) from {view}") == 1
    assert one(connection, "select p95_duration_ms > 1e308 from communication_metrics_realtime")
    connection.execute("delete from communication_telemetry")
    connection.execute(_INSERT, ["1 minute", "sales", 1])
    assert_views_are_right(connection)


def test_names_too_long_for_an_index_are_folded(connection: psycopg.Connection[Any]) -> None:
    dice = Random(7)
    long = "".join(chr(dice.randrange(0x1F300, 0x1F9FF)) for _ in range(256))
    connection.execute(
        "insert into communication_telemetry "
        "(protocol, source_id, source_type, target_id, target_type, operation, status) "
        "values ('mcp', %s, %s, %s, %s, 'tool_call', 'success')",
        [long, long, long[::-1], long],
    )
    connection.execute("select fold_telemetry_rollups()")
    assert one(connection, "select count(*) from telemetry_rollup_pending") == 0
    assert one(connection, "select source_id from communication_patterns") == long[:255]


def test_truncating_the_calls_empties_the_rollups(connection: psycopg.Connection[Any]) -> None:
    connection.execute(_INSERT, ["1 minute", "sales", 5])
    connection.execute("select fold_telemetry_rollups()")
    connection.execute(_INSERT, ["1 minute", "sales", 5])
    connection.execute("truncate communication_telemetry")
    assert_rollups_are_right(connection)
