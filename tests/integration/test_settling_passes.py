"""The pass that settles what came: whoever wrote it, once, in nobody's way, and as a batch would have been settled."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Event
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from asking import asked, rows, value
from elf_automations.model import Entity
from elf_automations.storage import migrate as runner
from elf_automations.storage.writer import PostgresWriter
from naive_views import assert_rollups_are_right
from spans import row
from sql_rows import ingest, sql_row

_DUE = "select settle_communications_if_due()"
_NOW = "select settle_communications_if_due(p_wait => true)"
_COUNTED = "select left(span_id, 1) from communication_telemetry where counted order by 1"
_AGED = "update telemetry_unsettled set arrived_at = arrived_at - interval '6 seconds'"
_CLIENT = {"span_id": "1" * 16, "status": "success"}
_SERVER = {"span_id": "2" * 16, "parent_span_id": "1" * 16, "observed_by": "server", "status": "success"}


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def _apart(connection: psycopg.Connection[Any], **columns: object) -> None:
    ingest(connection, sql_row("2", parent_span_id="1" * 16, observed_by="server", **columns))
    ingest(connection, sql_row("1", **columns))


def test_one_pass_settles_what_all_wrote(connection: psycopg.Connection[Any]) -> None:
    """A hundred processes ask every ten seconds: the first that comes does it, soon after a write nobody does."""
    assert value(connection, _DUE) is True
    _apart(connection)
    assert value(connection, _DUE) is False
    assert rows(connection, _COUNTED) == [("1",), ("2",)]
    connection.execute(_AGED)
    assert value(connection, _DUE) is True
    assert rows(connection, _COUNTED) == [("1",)]
    assert rows(connection, "table telemetry_unsettled") == []


@pytest.mark.parametrize("busy", [runner._LOCK, "hashtextextended('elf-automations settle', 0)"])
def test_it_gives_way_unless_somebody_waits_for_it(connection: psycopg.Connection[Any], direct_url: str, busy: object):
    """To another session that settles, and to a migration, which wants the tables that settling holds."""
    _apart(connection)
    connection.execute(_AGED)
    with psycopg.connect(direct_url) as other, psycopg.connect(direct_url) as waiting:
        other.execute(f"select pg_advisory_xact_lock({busy})".encode())
        assert value(connection, _DUE) is False
        waiting.execute("set local lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            waiting.execute(_NOW)
    assert value(connection, _DUE) is True
    assert rows(connection, _COUNTED) == [("1",)]


@pytest.mark.parametrize("age", [timedelta(hours=7), timedelta(days=400), timedelta(days=-2)])
def test_rows_of_another_time_are_settled_when_they_come(connection: psycopg.Connection[Any], age: timedelta) -> None:
    """A spool that was sent late, an imported file, a clock that is wrong."""
    _apart(connection, timestamp=(datetime.now(UTC) - age).isoformat())
    assert value(connection, _NOW) is True
    assert rows(connection, _COUNTED) == [("1",)]


def test_under_another_correlation_id_the_maintenance_finds_the_other_side(connection: psycopg.Connection[Any]) -> None:
    """The caller gave an id of its own, and a server that knows nothing of us did not hear of it."""
    ingest(connection, sql_row("1", correlation_id="order-7"))
    assert value(connection, _NOW) is True
    ingest(connection, sql_row("2", parent_span_id="1" * 16, observed_by="server"))
    assert value(connection, _NOW) is True
    assert rows(connection, _COUNTED) == [("1",), ("2",)]
    connection.execute("select maintain_telemetry()")
    assert rows(connection, _COUNTED) == [("1",)]


def test_a_large_statement_takes_several_passes(connection: psycopg.Connection[Any]) -> None:
    """A restored dump comes in one COPY."""
    connection.execute(
        "insert into communication_telemetry (protocol, source_id, source_type, target_id, target_type, operation, "
        "status, trace_id, span_id, parent_span_id, correlation_id, observed_by, duration_ms) "
        "select 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 'success', trace, left(md5(side || trace), 16), "
        "left(md5(side - 1 || trace), 16), trace, case side when 1 then 'client' else 'server' end, 3 "
        "from generate_series(1, 10500) as number cross join lateral (select md5(number::text) as trace) as trace "
        "cross join generate_series(1, 2) as side"
    )
    for _ in range(30):
        if value(connection, _NOW):
            break
    assert value(connection, "select count(*) from communication_telemetry where counted") == 10_500
    assert rows(connection, "table telemetry_unsettled") == []
    assert_rollups_are_right(connection)


def test_the_row_that_counts_learns_what_its_layers_know(connection: psycopg.Connection[Any]) -> None:
    """Span 1 is the gateway's client, 2 the application's in the same process, 3 the server."""
    here = {"service_name": "planner", "service_instance_id": "planner-1"}
    failed = {"status": "error", "error_message": "no such city", "target_id": "weather"}
    at = [(datetime.now(UTC) + timedelta(milliseconds=depth)).isoformat() for depth in range(3)]
    for one in (
        sql_row("1", source_id="planner", target_id="unknown", tool_name="hub_find", timestamp=at[0], **here),
        sql_row(
            "3", parent_span_id="2" * 16, observed_by="server", error_code="-32602", tokens_used=9, estimated_cost=2,
            message_type="task_response", timestamp=at[2], **failed,
        ),
        sql_row(
            "2", parent_span_id="1" * 16, error_code="ToolError", tokens_used=7, capabilities_required=["maps"],
            payload_size_bytes=11, timestamp=at[1], **failed, **here,
        ),
    ):  # fmt: skip
        ingest(connection, one)
    assert value(connection, _NOW) is True
    learned = (
        "select source_id, target_id, status, error_message, error_code, tool_name, tokens_used, estimated_cost, "
        "payload_size_bytes, capabilities_required, message_type from communication_telemetry where counted"
    )
    assert rows(connection, learned) == [
        ("sales", "weather", "error", "no such city", "-32602", "hub_find", 7, None, 11, ["maps"], "task_response")
    ]
    assert value(connection, "select settle_communications()") == 0
    assert_rollups_are_right(connection)


def test_a_listing_nobody_asked_for_does_not_count(connection: psycopg.Connection[Any]) -> None:
    """The SDK lists the tools to check a result: below the call, in the next batch; a server may answer by listings."""
    listing = {"operation": "tool_list", "tool_name": None, "service_name": "hub", "service_instance_id": "hub-1"}
    ingest(connection, sql_row("2", parent_span_id="1" * 16, **listing))
    ingest(connection, sql_row("3", parent_span_id="2" * 16, observed_by="server", **listing))
    ingest(connection, sql_row("1"))
    ingest(connection, sql_row("7", parent_span_id="6" * 16, observed_by="server", **listing))
    ingest(connection, sql_row("6", observed_by="server", **listing))
    assert value(connection, _NOW) is True
    assert rows(connection, _COUNTED) == [("1",), ("6",)]


def test_a_lookup_of_a_server_that_passes_a_call_on_does_not_count(connection: psycopg.Connection[Any]) -> None:
    """2 and 6 are servers of one process: 2 passes its call on, to 4, and 6 answers by a handler that lists."""
    here = {"service_name": "hub", "service_instance_id": "hub-1"}
    listing = {"operation": "prompt_list", "tool_name": None}
    ingest(connection, sql_row("4", parent_span_id="3" * 16, observed_by="server", **listing))
    ingest(connection, sql_row("3", parent_span_id="2" * 16, **listing, **here))
    ingest(connection, sql_row("7", parent_span_id="6" * 16, **listing, **here))
    ingest(
        connection,
        sql_row("2", parent_span_id="1" * 16, observed_by="server", metadata={"unhandled": True}, **here),
        sql_row("6", observed_by="server", **here),
    )
    ingest(connection, sql_row("1"))
    assert value(connection, _NOW) is True
    assert rows(connection, _COUNTED) == [("1",), ("6",), ("7",)]
    assert value(connection, "select settle_communications()") == 0


@pytest.mark.parametrize("status", ["success", "error", "cancelled"])
def test_rounds_that_come_apart_are_one_call_with_the_last_ones_end(
    connection: psycopg.Connection[Any], status: str
) -> None:
    """2 goes on with 1, which asked for input, and 3 with 2; 4 asked and nobody went on."""
    here = {"service_name": "files", "service_instance_id": "files-1", "observed_by": "server"}
    asked = {"outcome_derived": True}
    ingest(connection, sql_row("3", parent_span_id="2" * 16, status=status, metadata={"relayed": True}, **here))
    ingest(connection, sql_row("1", metadata=asked, **here), sql_row("4", metadata=asked, **here))
    ingest(connection, sql_row("2", parent_span_id="1" * 16, metadata={"relayed": True, **asked}, **here))
    assert value(connection, _NOW) is True
    counted = "select left(span_id, 1), status from communication_telemetry where counted order by 1"
    assert rows(connection, counted) == [("1", status), ("4", "success")]
    assert value(connection, "select settle_communications()") == 0


def test_a_server_behind_http_finds_its_client_by_the_request_or_by_its_time(
    connection: psycopg.Connection[Any],
) -> None:
    """1 to 3 call one tool at once. The request of 4 was made by 1, that of 5 by nobody who says so, 9 came too late.

    7, which 6 called, passes its call on to 8 by a client that nobody saw.
    """
    began = datetime.now(UTC) - timedelta(minutes=1)

    def at(begin_ms: int, end_ms: int) -> dict[str, Any]:
        return {"timestamp": (began + timedelta(milliseconds=begin_ms)).isoformat(), "duration_ms": end_ms - begin_ms}

    def served(span: str, caller: str, place: str, **columns: Any) -> dict[str, object]:
        metadata = {"http_caller_span_id": caller}
        return sql_row(
            span, parent_span_id="f" * 16, observed_by="server", metadata=metadata, service_name=place, **columns
        )

    ingest(connection, served("4", "a" * 16, "tools", status="error", **at(30, 40)))
    ingest(connection, served("5", "b" * 16, "tools", **at(32, 42)), served("9", "c" * 16, "tools", **at(95, 99)))
    ingest(connection, sql_row("1", metadata={"http_span_ids": ["e" * 16, "a" * 16]}, **at(0, 90)))
    ingest(connection, sql_row("2", **at(10, 90)), sql_row("3", metadata={"http_span_ids": ["d" * 16]}, **at(20, 90)))
    ingest(connection, sql_row("6", **at(100, 190), tool_name="other"))
    ingest(connection, sql_row("7", parent_span_id="6" * 16, observed_by="server", tool_name="other", **at(110, 180)))
    ingest(connection, served("8", "0" * 16, "elsewhere", tool_name="other", **at(120, 170)))
    assert value(connection, _NOW) is True
    counted = "select left(span_id, 1), status from communication_telemetry where counted order by 1"
    assert rows(connection, counted) == [
        ("1", "error"), ("2", "success"), ("3", "success"), ("6", "success"), ("8", "success"), ("9", "success"),
    ]  # fmt: skip
    assert value(connection, "select settle_communications()") == 0


def test_settling_copying_folding_and_migrating_at_once(database_url: str) -> None:
    """Nobody deadlocks or fails, and in the end each call is one counted row, in the registry as in the rollups."""
    over = Event()
    teams = [Entity(entity_id=f"team-{n}", entity_type="team", entity_name=f"Team {n}") for n in range(4)]

    def write(number: int) -> int:
        writer = PostgresWriter(database_url)
        written = 0
        try:
            while not over.is_set() or written == 0:
                now = datetime.now(UTC)
                # Each writer locks the teams in its own order of batches, and has to touch them all.
                ends = [
                    (f"team-{n}", now + timedelta(microseconds=n), uuid4().hex) for n in range(4) for _ in range(20)
                ]
                for side in (_SERVER, _CLIENT):
                    batch = [
                        row(1, id=uuid4(), source_id=team, timestamp=at, trace_id=trace, correlation_id=trace, **side)
                        for team, at, trace in ends
                    ]
                    active = [
                        Entity(entity_id=team.entity_id, entity_type="team", entity_name=None, observed=False, calls=20)
                        for team in teams
                    ]
                    assert writer.write(batch, active, retry=False).stored == 80
                writer.settle(now, wait=written % 2 == number % 2)
                written += 80
        finally:
            writer.close()
        return written

    def upkeep(statement: str) -> int:
        with psycopg.connect(database_url, autocommit=True) as connection:
            while not over.is_set():
                connection.execute(statement.encode())
        return 0

    writer = PostgresWriter(database_url)
    writer.write([], teams, retry=False)
    writer.close()
    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(write, number) for number in range(3)]
        running.append(pool.submit(upkeep, "select settle_communications(now() - interval '5 minutes')"))
        running.append(pool.submit(upkeep, "select fold_telemetry_rollups()"))
        try:
            with psycopg.connect(database_url) as migrating:
                for _ in range(5):
                    migrating.execute("set local lock_timeout = '30s'")
                    migrating.execute("select pg_advisory_xact_lock(%s)", [runner._LOCK])
                    migrating.execute("lock table communication_telemetry, unified_registry in access exclusive mode")
                    migrating.commit()
        finally:
            over.set()
        written = sum(one.result(60) for one in running)
    with psycopg.connect(database_url, autocommit=True) as connection:
        assert value(connection, _NOW) is True
        assert value(connection, "select count(*) from communication_telemetry where counted") == written
        assert value(connection, "select sum(activity_count) from unified_registry") == Decimal(written)
        assert_rollups_are_right(connection)
    assert asked(database_url, "table telemetry_unsettled") == []
