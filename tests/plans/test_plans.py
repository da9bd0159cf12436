"""Which tables and indexes a query reads: dashboards stay off the rows, lookups use the index made for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from naive_views import VIEWS

_CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms, correlation_id
)
select
    now() - number * interval '97 seconds', 'mcp', 'team-' || number % 40, 'team', 'server-' || number % 7, 'mcp',
    'tool_call', case when number % 50 = 0 then 'error' else 'success' end, number % 300, 'order-' || number
from generate_series(1, 8000) as number
"""


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(module_database_url, autocommit=True) as opened:
        opened.execute(_CALLS.encode())
        opened.execute("select maintain_telemetry()")
        opened.execute("vacuum analyze")
        yield opened


def plan(connection: psycopg.Connection[Any], query: str) -> list[dict[str, Any]]:
    """Return all nodes of the plan."""
    found = connection.execute(f"explain (format json) {query}".encode()).fetchone()
    assert found
    nodes = [found[0][0]["Plan"]]
    for node in nodes:
        nodes.extend(node.get("Plans", []))
    return nodes


@pytest.mark.parametrize("view", VIEWS)
def test_dashboards_stay_off_the_rows(connection: psycopg.Connection[Any], view: str) -> None:
    """Their time must not grow with the table."""
    tables = {node["Relation Name"] for node in plan(connection, f"select * from {view}") if "Relation Name" in node}
    assert tables
    assert [name for name in tables if not name.startswith("telemetry_")] == []


@pytest.mark.parametrize("view", VIEWS)
def test_dashboards_read_no_rollup_beyond_their_window(connection: psycopg.Connection[Any], view: str) -> None:
    """Every rollup is entered by its time, whatever the planner thinks of its size; names of pairs are read whole."""
    with connection.transaction():
        connection.execute("set local enable_seqscan = off")
        nodes = plan(connection, f"select * from {view}")
    bounded = [str(node["Index Cond"]) for node in nodes if "Index Cond" in node]
    assert bounded
    assert [one for one in bounded if not any(key in one for key in ("minute", "hour", "day", "pair", "source"))] == []
    assert {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"} == set()


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
