"""Which tables and indexes a query reads: dashboards stay off the rows, lookups use the index made for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from elf_automations.storage.queries import fetch, queries
from naive_views import QUERIES, VIEWS

_CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms, correlation_id
)
select
    now() - number * interval '97 seconds', 'mcp', 'team-' || number % 40, 'team', 'server-' || number % 7, 'mcp',
    'tool_call', case when number % 50 = 0 then 'error' else 'success' end, number % 300, 'order-' || number
from generate_series(1, 8000) as number
"""
_REGISTRY_VIEWS = ("system_entity_state", "entity_hierarchy")
# These are asked for rows (the last calls; all there are, of a demo) or do the upkeep; no dashboard repeats them.
_ON_THE_ROWS = {"recent_communications", "counts_by_protocol_and_status", "maintain"}
_DASHBOARD_QUERIES = sorted(queries().keys() - _ON_THE_ROWS)


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(module_database_url, autocommit=True) as opened:
        opened.execute(_CALLS.encode())
        opened.execute("select maintain_telemetry()")
        opened.execute("vacuum analyze")
        yield opened


def plan(connection: psycopg.Connection[Any], query: str, **parameters: object) -> list[dict[str, Any]]:
    """Return all nodes of the plan."""
    cursor = psycopg.ClientCursor(connection)
    found = cursor.execute(f"explain (format json) {query}".encode(), parameters or None).fetchone()
    assert found
    nodes = [found[0][0]["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", []))
    return nodes


def scans_of_the_rows(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Return how often this connection read each partition, also within functions, where no plan shows it."""
    return dict(
        connection.execute(
            "select relname, seq_scan + coalesce(idx_scan, 0) from pg_stat_xact_user_tables "
            "where relname like 'communication\\_telemetry%'"
        ).fetchall()
    )


@pytest.mark.parametrize("view", [*VIEWS, *_REGISTRY_VIEWS])
def test_dashboards_stay_off_the_rows(connection: psycopg.Connection[Any], view: str) -> None:
    """Their time must not grow with the table."""
    tables = {node["Relation Name"] for node in plan(connection, f"select * from {view}") if "Relation Name" in node}
    assert tables
    wanted = "unified_registry" if view in _REGISTRY_VIEWS else "telemetry_"
    assert [name for name in tables if not name.startswith(wanted)] == []


@pytest.mark.parametrize("name", _DASHBOARD_QUERIES)
def test_queries_of_the_command_stay_off_the_rows(connection: psycopg.Connection[Any], name: str) -> None:
    """Also those that ask a function: nobody waits longer for `elf-telemetry status` the more calls there are."""
    for since in ("1 hour", "1 day", "7 days"):
        with connection.transaction():
            before = scans_of_the_rows(connection)
            fetch(connection, name, since=since, limit=10, after=0)
            assert scans_of_the_rows(connection) == before


def test_reading_the_rows_does_not_go_unnoticed(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        before = scans_of_the_rows(connection)
        fetch(connection, "counts_by_protocol_and_status")
        assert scans_of_the_rows(connection) != before


def test_the_begin_of_an_alert_is_looked_up_in_its_window(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction(force_rollback=True):
        connection.execute("update alert_rules set threshold = 0, resolve_threshold = 0 where alert = 'latency'")
        before = scans_of_the_rows(connection)
        assert [row["alert"] for row in fetch(connection, "active_alerts")] == ["latency"]
        after = scans_of_the_rows(connection)
        read = {name for name, scans in after.items() if scans != before.get(name, 0)}
        # A window of five minutes is over within two days; later days are there already, and so is DEFAULT.
        days = connection.execute(
            "select array_agg(telemetry_partition_name(day::date)) "
            "from generate_series(now() - interval '1 day', now() + interval '5 days', interval '1 day') as day"
        ).fetchone()
        assert days
        assert read
        assert read <= {*days[0], "communication_telemetry_default"}


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        *(pytest.param(f"select * from {view}", {}, id=view) for view in VIEWS),
        *(pytest.param(queries()[name], asked, id=f"{name} {asked['since']}") for name, asked, _ in QUERIES),
    ],
)
def test_dashboards_read_no_rollup_beyond_their_window(
    connection: psycopg.Connection[Any], query: str, parameters: dict[str, object]
) -> None:
    """Every rollup is entered by its time, whatever the planner thinks of its size; names are read whole."""
    with connection.transaction():
        connection.execute("set local enable_seqscan = off")
        nodes = plan(connection, query, **parameters)
    bounded = [str(node["Index Cond"]) for node in nodes if "Index Cond" in node]
    assert bounded
    assert [one for one in bounded if not any(key in one for key in ("minute", "hour", "day", "pair", "source"))] == []
    assert {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"} <= {"telemetry_ends"}


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        pytest.param("source_id = 'team-1' order by timestamp desc limit 50", "source_id_timestamp", id="caller"),
        pytest.param("target_id = 'server-1' order by timestamp desc limit 50", "target_id_timestamp", id="target"),
        pytest.param("correlation_id = 'order-77'", "correlation_id", id="correlation id"),
        pytest.param(
            "status <> 'success' and timestamp > now() - interval '1 day' order by timestamp desc limit 100",
            "timestamp_idx",
            id="failures",
        ),
        pytest.param("counted order by timestamp desc, id desc limit 20", "pkey", id="newest"),
    ],
)
def test_a_lookup_uses_the_index_made_for_it(connection: psycopg.Connection[Any], query: str, columns: str) -> None:
    with connection.transaction():
        connection.execute("set local enable_seqscan = off")
        nodes = plan(connection, f"select * from communication_telemetry where {query}")
    used = {str(node["Index Name"]) for node in nodes if "Index Name" in node}
    assert used
    assert [name for name in used if columns not in name] == []


def test_a_second_delivery_is_found_by_the_primary_key(connection: psycopg.Connection[Any]) -> None:
    [insert, *_] = plan(
        connection,
        "insert into communication_telemetry (id, timestamp, protocol, source_id, source_type, target_id, target_type, "
        "operation, status) values (gen_random_uuid(), now(), 'mcp', 'a', 'team', 'b', 'mcp', 'tool_call', 'success') "
        'on conflict ("timestamp", id) do nothing',
    )
    assert insert["Conflict Arbiter Indexes"] == ["communication_telemetry_pkey"]
