"""Partitions by day: rows that came too early move, old days go, and writers go on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from asking import rows, together, value
from sql_rows import ingest, sql_row


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def test_rows_waiting_in_default_move_into_their_day(connection: psycopg.Connection[Any]) -> None:
    """Nobody ran maintenance for a while: rows of those days wait in DEFAULT and nothing is lost."""
    for days in (-40, -2, 0, 10):
        at = (datetime.now(UTC) + timedelta(days=days)).isoformat()
        assert ingest(connection, sql_row("1", timestamp=at))["stored"] == 1
    where = (
        "select (timestamp at time zone 'UTC')::date - (now() at time zone 'UTC')::date, "
        "tableoid::regclass::text = 'communication_telemetry_' || to_char(timestamp at time zone 'UTC', 'YYYYMMDD') "
        "from communication_telemetry order by timestamp"
    )
    assert rows(connection, where) == [(-40, False), (-2, False), (0, True), (10, False)]
    assert value(connection, "select ensure_telemetry_partitions(10)") == 8
    assert rows(connection, where) == [(-40, False), (-2, True), (0, True), (10, True)]
    assert value(connection, "select ensure_telemetry_partitions(10)") == 0
    partitions = "relkind = 'r' and relname ~ '^communication_telemetry_[0-9]{8}$'"
    assert value(connection, f"select bool_and(relrowsecurity) from pg_class where {partitions}")


def test_maintenance_drops_what_is_older_than_the_setting(connection: psycopg.Connection[Any]) -> None:
    for days in (-40, -5, -2, 0):
        ingest(connection, sql_row("1", timestamp=(datetime.now(UTC) + timedelta(days=days)).isoformat()))
    assert value(connection, "select maintain_telemetry()") == {
        "partitions_created": 2,
        "partitions_dropped": 0,
        "rows_settled": 0,
        "alerts_fired": 0,
        "alerts_resolved": 0,
        "alerts_forgotten": 0,
    }
    connection.execute("update telemetry_settings set value = 3 where name = 'retention_days'")
    assert value(connection, "select maintain_telemetry() ->> 'partitions_dropped'") == "1"
    kept = (
        "select (timestamp at time zone 'UTC')::date - (now() at time zone 'UTC')::date "
        "from communication_telemetry order by 1"
    )
    assert rows(connection, kept) == [(-2,), (0,)]


def test_partitions_can_be_made_while_rows_arrive(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """A writer that had chosen DEFAULT must not be refused by the partition made meanwhile."""
    at = [(datetime.now(UTC) - timedelta(days=days)).isoformat() for days in range(1, 9)]

    def work(mine: psycopg.Connection[Any], number: int) -> None:
        if number == 0:
            for _ in range(10):
                value(mine, "select ensure_telemetry_partitions()")
            return
        for day in at:
            for step in range(5):
                span = f"{number}{step}" * 8
                assert ingest(mine, sql_row("1", timestamp=day, span_id=span))["stored"] == 1

    together(database_url, 3, work)
    assert value(connection, "select count(*) from communication_telemetry") == 2 * 5 * len(at)


def test_refresh_is_harmless(connection: psycopg.Connection[Any]) -> None:
    assert rows(connection, "select refresh_telemetry_metrics()")[0] is not None
