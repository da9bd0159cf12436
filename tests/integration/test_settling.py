"""Settling: sides of a call that arrived apart are one call, with its true outcome, also in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from asking import rows, value
from elf_automations.model import settle
from elf_automations.storage.writer import PostgresWriter
from records import recorded
from sql_rows import ingest, sql_row

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mcp"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def test_sides_that_arrive_apart_are_settled_once(connection: psycopg.Connection[Any]) -> None:
    """Client and server live in two processes: one call counts, with the error only the server saw.

    Spans: 1 agent task (client) > 2 its server > 3 tool call (client) > 4 inner client layer > 5 tool server;
    6 is the tool's server called by nobody we know, 7 its nested client, 8 that call's server.
    """
    task = {"protocol": "a2a", "operation": "send_task", "tool_name": None, "target_type": "team"}
    ingest(
        connection, sql_row("5", parent_span_id="4" * 16, observed_by="server", status="error", error_message="boom")
    )
    ingest(connection, sql_row("2", parent_span_id="1" * 16, observed_by="server", **task))
    ingest(connection, sql_row("8", parent_span_id="7" * 16, observed_by="server"))
    assert value(connection, "select settle_communications()") == 0
    ingest(
        connection,
        sql_row("1", **task),
        sql_row("3", parent_span_id="2" * 16),
        sql_row("4", parent_span_id="3" * 16),
        sql_row("6", observed_by="server"),
        sql_row("7", parent_span_id="6" * 16),
    )
    assert value(connection, "select settle_communications()") == 5
    settled = [
        ("1", "client", True, "success", None),
        ("2", "server", False, "success", None),
        ("3", "client", True, "error", "boom"),
        ("4", "client", False, "success", None),
        ("5", "server", False, "error", "boom"),
        ("6", "server", True, "success", None),
        ("7", "client", True, "success", None),
        ("8", "server", False, "success", None),
    ]
    query = (
        "select left(span_id, 1), observed_by, counted, status, error_message from communication_telemetry order by 1"
    )
    assert rows(connection, query) == settled
    assert value(connection, "select settle_communications(now() - interval '1 day')") == 0
    assert rows(connection, query) == settled


def test_a_cancel_that_only_the_server_saw_corrects_a_client_that_did_not_say_how_it_ended(
    connection: psycopg.Connection[Any],
) -> None:
    """1 and 3 are clients of libraries that leave a cancelled call without a status, 5 had its answer in time.

    Below 3 another layer of the client, 7, comes last: it had its answer as well.
    """
    derived, cancelled = {"metadata": {"outcome_derived": True}}, {"observed_by": "server", "status": "cancelled"}
    ingest(connection, sql_row("2", parent_span_id="1" * 16, tool_name="a", **cancelled))
    ingest(connection, sql_row("4", parent_span_id="7" * 16, tool_name="b", **cancelled))
    ingest(connection, sql_row("6", parent_span_id="5" * 16, tool_name="c", **cancelled))
    ingest(connection, sql_row("1", tool_name="a", **derived), sql_row("3", tool_name="b", **derived))
    ingest(connection, sql_row("5", tool_name="c"))
    query = "select left(span_id, 1), status, metadata from communication_telemetry where counted order by 1"
    value(connection, "select settle_communications()")
    assert [(span, status) for span, status, _ in rows(connection, query)] == [
        ("1", "cancelled"), ("3", "success"), ("4", "cancelled"), ("5", "success"),
    ]  # fmt: skip
    ingest(connection, sql_row("7", parent_span_id="3" * 16, tool_name="b"))
    value(connection, "select settle_communications()")
    settled = [("1", "cancelled", {"outcome_derived": True}), ("3", "success", {}), ("5", "success", {})]
    assert rows(connection, query) == settled
    assert value(connection, "select settle_communications()") == 0


@pytest.mark.parametrize("order", [1, -1])
def test_the_cause_that_only_a_layer_knows_is_the_text_of_the_call(
    connection: psycopg.Connection[Any], order: int
) -> None:
    """1, 3 and 5 are clients that were told nothing, of 2, 4 and 6; 7 was told, 8 has no text, 9 wrote 5 down.

    The server of 3 says that it ran out of time, which is another end.
    """
    stock = {"status": "error", "error_message": "unknown exception", "error_code": "500"}
    cause = {"observed_by": "server", "status": "error", "error_message": "no such city", "error_code": "KeyError"}
    layers = [
        sql_row("1", tool_name="a", **stock),
        sql_row("2", tool_name="a", parent_span_id="1" * 16, **cause),
        sql_row("3", tool_name="b", **stock),
        sql_row("4", tool_name="b", parent_span_id="3" * 16, **{**cause, "status": "timeout"}),
        sql_row("9", tool_name="c", observed_by="manual", **_HERE, **_at(10, 90)),
        sql_row("5", tool_name="c", **stock, **_HERE, **_at(20, 80)),
        sql_row("6", tool_name="c", parent_span_id="5" * 16, **cause, **_at(30, 70)),
        sql_row("7", tool_name="d", **{**stock, "error_message": "not found"}),
        sql_row("a", tool_name="d", parent_span_id="7" * 16, **cause),
        sql_row("8", tool_name="e", **{**stock, "error_message": None}),
        sql_row("b", tool_name="e", parent_span_id="8" * 16, **cause),
    ]
    for one in layers[::order]:
        ingest(connection, one)
        value(connection, "select settle_communications()")
    query = "select tool_name, error_message, error_code from communication_telemetry where counted order by 1"
    assert rows(connection, query) == [
        ("a", "no such city", "500"),
        ("b", "unknown exception", "500"),
        ("c", "no such city", "500"),
        ("d", "not found", "500"),
        ("e", "no such city", "500"),
    ]
    assert value(connection, "select settle_communications()") == 0


def test_settling_corrects_the_activity_of_both_ends(connection: psycopg.Connection[Any]) -> None:
    """Client and server process each reported the call; the registry must say one call, and that it failed."""
    ends = [{"entity_id": "sales", "entity_type": "team"}, {"entity_id": "crm", "entity_type": "mcp_server"}]
    sides = (sql_row("1"), sql_row("2", parent_span_id="1" * 16, observed_by="server", status="error"))
    for side in sides:
        ingest(connection, side)
        errors = 1 if side["status"] == "error" else 0
        batch = [{**end, "calls": 1, "errors": errors} for end in ends]
        value(connection, "select record_observed_entities(%s)", Jsonb(batch))
    query = "select entity_id, activity_count, error_count from unified_registry order by entity_id"
    assert rows(connection, query) == [("crm", 2, 1), ("sales", 2, 1)]
    for changed in (2, 0):
        assert value(connection, "select settle_communications()") == changed
        assert rows(connection, query) == [("crm", 1, 1), ("sales", 1, 1)]


def test_settling_leaves_other_calls_alone(connection: psycopg.Connection[Any]) -> None:
    """Another tool, another protocol, a parent that is not here, and a parent cycle."""
    ingest(
        connection,
        sql_row("1"),
        sql_row("2", parent_span_id="1" * 16, observed_by="server", tool_name="other"),
        sql_row("3", parent_span_id="1" * 16, observed_by="server", protocol="a2a", tool_name=None),
        sql_row("4", parent_span_id="f" * 16, observed_by="server"),
        sql_row("5", parent_span_id="6" * 16, observed_by="server", status="error"),
        sql_row("6", parent_span_id="5" * 16, observed_by="server"),
        sql_row("7", parent_span_id="1" * 16, observed_by="manual"),
    )
    assert value(connection, "select settle_communications()") == 0
    assert value(connection, "select bool_and(counted) from communication_telemetry") is True


_HERE = {"service_name": "planner", "service_instance_id": "planner-1"}
_COUNTED = "select left(span_id, 1) from communication_telemetry where counted order by 1"


def _at(begin_ms: float, end_ms: float) -> dict[str, object]:
    began = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=2) + timedelta(milliseconds=begin_ms)
    return {"timestamp": began.isoformat(), "duration_ms": end_ms - begin_ms}


@pytest.mark.parametrize("order", [1, -1])
def test_calls_at_the_same_time_find_a_record_each(connection: psycopg.Connection[Any], order: int) -> None:
    """An agent searches three times at once and writes each down: three calls, whichever row comes first.

    The first record holds two calls, the second only the first: who chooses carelessly leaves one over.
    """
    calls = {"1": _at(10, 90), "2": _at(30, 150), "3": _at(40, 200)}
    records = {"7": _at(5, 160), "8": _at(5, 95), "9": _at(20, 210)}
    made = [sql_row(span, **_HERE, **at) for span, at in calls.items()]
    made += [sql_row(span, observed_by="manual", **_HERE, **at) for span, at in records.items()]
    for one in made[::order]:
        ingest(connection, one)
    assert value(connection, "select settle_communications()") == 3
    assert rows(connection, _COUNTED) == [("7",), ("8",), ("9",)]
    assert value(connection, "select settle_communications()") == 0


def test_one_record_claims_one_call_of_its_process_and_time(connection: psycopg.Connection[Any]) -> None:
    ingest(
        connection,
        sql_row("9", observed_by="manual", **_HERE, **_at(0, 100)),
        sql_row("1", **_HERE, **_at(1, 40)),
        sql_row("2", **_HERE, **_at(50, 99)),
        sql_row("3", **_HERE, **_at(50, 102)),
        sql_row("4", **_HERE, **_at(10, 20), tool_name="other"),
        sql_row("5", **_at(10, 20)),
        sql_row("6", **_HERE, **_at(10, 20), protocol="a2a", operation="send_task", target_id="support"),
    )
    # What SQL records by hand says of no process that it was there.
    connection.execute("select record_mcp_telemetry('sales', 'crm', 'find', 'success', 1000000)")
    assert value(connection, "select settle_communications()") == 1
    assert rows(connection, _COUNTED) == [*((span,) for span in "234569"), (None,)]


def test_a_record_takes_the_error_its_call_saw_and_both_ends_keep_one_call(connection: psycopg.Connection[Any]) -> None:
    """The caller noted a success before the server's answer was read as a failure."""
    ends = [{"entity_id": "sales", "entity_type": "team"}, {"entity_id": "crm", "entity_type": "mcp_server"}]
    failed = {"status": "error", "error_message": "boom", "error_code": "E1"}
    for one in (
        sql_row("9", observed_by="manual", **_HERE, **_at(0, 100)),
        sql_row("1", **_HERE, **_at(1, 99)),
        sql_row("2", parent_span_id="1" * 16, observed_by="server", **_at(10, 20), **failed),
    ):
        ingest(connection, one)
        batch = [{**end, "calls": 1, "errors": int(one["status"] == "error")} for end in ends]
        value(connection, "select record_observed_entities(%s)", Jsonb(batch))
        connection.execute("select settle_communications()")
    told = "select left(span_id, 1), counted, status, error_message from communication_telemetry order by 1"
    assert rows(connection, told) == [
        ("1", False, "error", "boom"), ("2", False, "error", "boom"), ("9", True, "error", "boom"),
    ]  # fmt: skip
    query = "select entity_id, activity_count, error_count from unified_registry order by entity_id"
    assert rows(connection, query) == [("crm", 1, 1), ("sales", 1, 1)]


@pytest.mark.parametrize("order", [1, -1])
def test_client_and_server_with_http_between_are_one_call_whoever_comes_first(database_url: str, order: int) -> None:
    """FastMCP's server hangs below its HTTP request, of which there is no row: the client is known by its time."""
    spans = recorded(FIXTURES / "fastmcp4_http_traced.json")
    processes = ["planner-agent", "weather-service"][::order]
    writer = PostgresWriter(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for process in processes:
            settled = settle([one for one in spans if one.resource.attributes["service.name"] == process])
            writer.write(settled.rows, settled.entities, retry=False)
            value(connection, "select settle_communications_if_due(p_wait => true)")
        counted = (
            "select tool_name, observed_by, status, target_id from communication_telemetry "
            "where counted and operation = 'tool_call' order by timestamp"
        )
        assert rows(connection, counted) == [
            ("get_weather", "client", "success", "weather-tools"),
            ("broken_lookup", "client", "error", "weather-tools"),
            ("outlook", "client", "success", "weather-tools"),
            ("outlook", "client", "success", "weather-tools"),
            ("get_weather", "client", "success", "weather-tools"),
        ]
        assert value(connection, "select settle_communications('-infinity')") == 0
    writer.close()
