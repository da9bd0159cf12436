"""Every view and function of the guide answers its statements right over known rows.

Each test works in one transaction, so that now() stands still and whole rows can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from decimal import Decimal

import psycopg
import pytest

from guide_world import CALLS, ENTITIES, World


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with psycopg.connect(database_url) as connection:
        connection.execute(CALLS.encode())
        connection.execute(ENTITIES.encode())
        yield World(connection)
        connection.rollback()


def test_system_health_overview(world: World) -> None:
    """Cancelled is no error, an unclaimed view of a call is no call, p95 is a value that occurred."""
    assert world.rows("""
        -- Last 5 minutes of activity
        SELECT * FROM system_health_overview;
    """) == [
        {
            "protocol": "mcp",
            "active_sources": 2,
            "active_targets": 1,
            "total_requests_5min": 4,
            "avg_duration_ms": 40.0,
            "errors_5min": 2,
            "error_rate": 50.0,
            "p50": 20.0,
            "p95": 100.0,
            "p99": 100.0,
        }
    ]


def test_communication_patterns(world: World) -> None:
    crm = {"target_id": "crm", "target_type": "mcp", "protocol": "mcp"}
    days = {world.ago(span).astimezone(UTC).date() for span in ("1 minute", "2 minutes", "3 minutes", "30 hours")}
    found = world.rows("""
        -- Communication patterns
        SELECT * FROM communication_patterns
        ORDER BY total_calls DESC;
    """)
    assert found[0] == {
        "source_id": "sales",
        "source_type": "team",
        **crm,
        "total_calls": 4,
        "avg_duration_ms": 27.5,
        "min_duration_ms": 10.0,
        "max_duration_ms": 50.0,
        "error_count": 2,
        "active_days": len(days),
        "last_communication": world.ago("1 minute"),
    }
    assert sorted(found[1:], key=lambda row: row["source_id"]) == [
        {
            "source_id": "sales",
            "source_type": "team",
            "target_id": "support",
            "target_type": "team",
            "protocol": "a2a",
            "total_calls": 1,
            "avg_duration_ms": None,
            "min_duration_ms": None,
            "max_duration_ms": None,
            "error_count": 0,
            "active_days": 1,
            "last_communication": world.ago("10 minutes"),
        },
        {
            "source_id": "support",
            "source_type": "team",
            **crm,
            "total_calls": 1,
            "avg_duration_ms": 100.0,
            "min_duration_ms": 100.0,
            "max_duration_ms": 100.0,
            "error_count": 0,
            "active_days": 1,
            "last_communication": world.ago("4 minutes"),
        },
        {
            "source_id": "wf_001",
            "source_type": "workflow",
            "target_id": "mail",
            "target_type": "external",
            "protocol": "n8n",
            "total_calls": 1,
            "avg_duration_ms": 40.0,
            "min_duration_ms": 40.0,
            "max_duration_ms": 40.0,
            "error_count": 0,
            "active_days": 1,
            "last_communication": world.ago("3 hours"),
        },
    ]


def test_top_communication_pairs(world: World) -> None:
    assert [
        tuple(row.values())
        for row in world.rows("""
        -- Top communication pairs
        SELECT * FROM top_communication_pairs;
    """)
    ] == [
        ("sales", "crm", "mcp", 3, 20.0, 12, Decimal("0.750000")),
        ("sales", "support", "a2a", 1, None, 0, Decimal(0)),
        ("support", "crm", "mcp", 1, 100.0, 0, Decimal(0)),
        ("wf_001", "mail", "n8n", 1, 40.0, 0, Decimal(0)),
    ]
    columns = ["source", "target", "protocol", "call_count", "avg_duration_ms", "total_tokens", "total_cost"]
    assert list(world.rows("SELECT * FROM top_communication_pairs")[0]) == columns


def test_communication_metrics_realtime(world: World) -> None:
    found = world.rows(
        "SELECT * FROM communication_metrics_realtime WHERE source_id = 'sales' AND protocol = 'mcp' ORDER BY minute"
    )
    ends = {"source_id": "sales", "source_type": "team", "target_id": "crm", "target_type": "mcp"}
    assert found == [
        {
            "minute": world.ago(ago).replace(second=0, microsecond=0),
            "protocol": "mcp",
            **ends,
            "request_count": 1,
            "avg_duration_ms": duration,
            "p95_duration_ms": duration,
            "error_count": errors,
            "error_rate": 100.0 * errors,
        }
        for ago, duration, errors in (("3 minutes", 30.0, 1), ("2 minutes", 20.0, 1), ("1 minute", 10.0, 0))
    ]


def test_system_entity_state(world: World) -> None:
    found = world.rows("""
        -- System state summary
        SELECT * FROM system_entity_state;
    """)
    assert list(found[0]) == [
        "entity_type",
        "current_state",
        "health_status",
        "count",
        "active_last_5min",
        "healthy_count",
        "unhealthy_count",
    ]
    assert sorted(tuple(row.values()) for row in found) == [
        ("mcp_server", "active", "unhealthy", 1, 1, 0, 1),
        ("service", "active", "unknown", 1, 0, 0, 0),
        ("service", "deleted", "unknown", 1, 0, 0, 0),
        ("team", "active", "healthy", 2, 2, 2, 0),
    ]


def test_entity_hierarchy_ends_on_cycles(world: World) -> None:
    """`left` and `right` are each other's parents: each appears once, and the query ends."""
    found = world.rows("""
        -- Entity hierarchy
        SELECT * FROM entity_hierarchy;
    """)
    assert [tuple(row.values()) for row in found] == [
        ("board", "Board", "team", None, "head", "active", "healthy", 0, ["board"]),
        ("sales", "Sales", "team", "board", "front", "active", "healthy", 1, ["board", "sales"]),
        ("crm", "CRM", "mcp_server", "sales", None, "active", "unhealthy", 2, ["board", "sales", "crm"]),
        ("right", "Right", "service", "left", None, "deleted", "unknown", 1, ["left", "right"]),
        ("left", "Left", "service", "right", None, "active", "unknown", 1, ["right", "left"]),
    ]
    assert list(found[0]) == [
        "entity_id",
        "entity_name",
        "entity_type",
        "parent_entity_id",
        "department",
        "current_state",
        "health_status",
        "level",
        "path",
    ]


def test_registration_gaps(world: World) -> None:
    """Seen but not registered; registered but silent; health never or too long ago checked."""
    world.run("create table teams (id int, name text); insert into teams values (1, 'sales'), (2, 'legal')")
    found = world.rows("""
        -- Registration gaps
        SELECT * FROM check_registration_gaps();
    """)
    seen = {"seen_in": "communication_telemetry"}
    for row in found:
        row["details"].pop("last_seen", None)
        row["details"].pop("last_heard", None)
        row["details"].pop("last_health_check", None)
    assert [tuple(row.values()) for row in found] == [
        ("missing_team", "support", {**seen, "protocols": ["a2a", "mcp"], "calls": 2}),
        ("missing_workflow", "wf_001", {**seen, "protocols": ["n8n"], "calls": 1}),
        ("missing_team", "legal", {"seen_in": "teams"}),
        ("stale_registration", "left", {"entity_type": "service", "hours": 192.0}),
        ("missing_health_check", "crm", {"entity_type": "mcp_server"}),
        ("missing_health_check", "left", {"entity_type": "service"}),
    ]
    assert list(found[0]) == ["gap_type", "entity_identifier", "details"]
