# ruff: noqa: W291 - the statements are those of the guide, to the letter
"""The guide's own queries, dashboards, RPC calls and alerts run as printed and answer right over known rows.

Each test works in one transaction, so that now() stands still and whole rows can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from elf_automations.errors import SchemaMissingError
from elf_automations.storage.connection import connect
from elf_automations.storage.queries import fetch, queries
from guide_world import CALLS, ENTITIES, World


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with psycopg.connect(database_url) as connection:
        connection.execute(CALLS.encode())
        connection.execute(ENTITIES.encode())
        yield World(connection)
        connection.rollback()


def test_communication_matrix(world: World) -> None:
    """The guide reads all rows; without `counted` the server's view of a call counts again."""
    found = world.rows("""
        SELECT 
            source_id,
            target_id,
            protocol,
            COUNT(*) as calls,
            AVG(duration_ms) as avg_ms,
            COUNT(CASE WHEN status = 'error' THEN 1 END) as errors
        FROM communication_telemetry
        WHERE timestamp > NOW() - INTERVAL '1 hour'
        GROUP BY source_id, target_id, protocol;
    """)
    assert sorted(tuple(row.values()) for row in found) == [
        ("sales", "crm", "mcp", 4, 17.25, 1),
        ("sales", "support", "a2a", 1, None, 0),
        ("support", "crm", "mcp", 1, 100.0, 0),
    ]


def test_entity_health_dashboard(world: World) -> None:
    found = world.rows("""
        SELECT 
            entity_type,
            entity_name,
            current_state,
            health_status,
            last_activity,
            EXTRACT(EPOCH FROM (NOW() - last_activity)) as seconds_since_activity
        FROM unified_registry
        WHERE current_state != 'deleted'
        ORDER BY health_status, last_activity DESC;
    """)
    assert [tuple(row.values()) for row in found] == [
        ("team", "Sales", "active", "healthy", world.ago("1 minute"), Decimal(60)),
        ("team", "Board", "active", "healthy", world.ago("2 minutes"), Decimal(120)),
        ("mcp_server", "CRM", "active", "unhealthy", world.ago("1 minute"), Decimal(60)),
        ("service", "Left", "active", "unknown", world.ago("9 days"), Decimal(9 * 86400)),
    ]


def test_rpc_calls_of_the_guide(world: World) -> None:
    """`supabase.rpc(name, arguments)` is a call with named arguments from one JSON object."""
    world.rows(
        """
        select register_entity(
            p_entity_id => %s, p_entity_type => %s, p_entity_name => %s,
            p_registered_by => %s, p_capabilities => %s, p_endpoint_url => %s
        ) as id
        """,
        "my-service-001",
        "service",
        "My Custom Service",
        "manual",
        ["data-processing", "api-access"],
        "http://my-service:8080",
    )
    assert world.rows(
        """
        select update_entity_state(
            p_entity_id => %s, p_entity_type => %s, p_new_state => %s, p_health_status => %s
        ) as done
        """,
        "my-service-001",
        "service",
        "active",
        "healthy",
    ) == [{"done": True}]
    stored = world.rows("select * from unified_registry where entity_id = 'my-service-001'")[0]
    del stored["id"]
    assert stored == {
        "entity_id": "my-service-001",
        "entity_type": "service",
        "entity_name": "My Custom Service",
        "display_name": None,
        "registered_by": "manual",
        "registration_source": None,
        "current_state": "active",
        "state_updated_at": world.now,
        "health_status": "healthy",
        "last_health_check": world.now,
        "endpoint_url": "http://my-service:8080",
        "namespace": None,
        "deployment_type": None,
        "capabilities": ["data-processing", "api-access"],
        "tags": [],
        "metadata": {},
        "version": None,
        "last_updated": world.now,
        "parent_entity_id": None,
        "department": None,
        "last_activity": None,
        "activity_count": 0,
        "error_count": 0,
        "health_since": world.now,
        "registered_at": world.now,
        "claimed_as": "owner",
        "claim_subject": None,
        "declared": [],
    }


def test_alerts_of_the_guide(world: World) -> None:
    """The four alerts, each with what it is about, its value and the threshold it passed."""
    world.run("update unified_registry set health_since = now() - interval '11 minutes' where entity_id = 'crm'")
    world.rows(
        "select record_telemetry('a2a', 'sales', 'team', 'support', 'team', 'send_task', 'success', 5000, %s) as id",
        Jsonb({}),
    )
    assert [tuple(row.values()) for row in world.rows("SELECT * FROM active_alerts()")] == [
        (
            "error_rate",
            "critical",
            "mcp",
            None,
            None,
            50.0,
            5.0,
            world.ago("3 minutes"),
            "mcp: 50.0 % of calls failed in the last 5 minutes (threshold 5 %)",
        ),
        (
            "unhealthy",
            "critical",
            None,
            "crm",
            "mcp_server",
            11.0,
            10.0,
            world.ago("11 minutes"),
            "mcp_server crm: unhealthy for 11 minutes (threshold 10 minutes)",
        ),
        (
            "inactive",
            "warning",
            None,
            "left",
            "service",
            12960.0,
            60.0,
            world.ago("9 days"),
            "service left: no activity for 12960 minutes (threshold 60 minutes)",
        ),
        (
            "latency",
            "warning",
            "a2a",
            None,
            None,
            5000.0,
            1000.0,
            world.now,
            "a2a: calls took 5000 ms on average in the last 5 minutes (threshold 1000 ms)",
        ),
    ]


def test_key_metrics_of_the_guide(world: World) -> None:
    """Volume, error rate, latency and entity health as `elf-telemetry status` asks for them."""

    def answer(name: str, **parameters: object) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in fetch(world.connection, name, **parameters)]

    minutes = [world.ago(f"{ago} minutes").replace(second=0, microsecond=0) for ago in (10, 4, 3, 2, 1)]
    assert answer("request_volume", since="1 hour") == [
        (minutes[0], "a2a", 1),
        *((minute, "mcp", 1) for minute in minutes[1:]),
    ]
    assert answer("error_rates", since="1 hour") == [("a2a", 1, 0, 0.0), ("mcp", 4, 2, 50.0)]
    assert answer("latency", since="1 hour") == [("a2a", None, None, None), ("mcp", 20.0, 100.0, 100.0)]
    assert answer("entity_health_share") == [(4, 2, 50.0)]


def test_communication_matrix_of_the_command_counts_each_call_once(world: World) -> None:
    """Its errors are those of all views: error or timeout."""
    found = fetch(world.connection, "communication_matrix", since="1 hour")
    assert [tuple(row.values()) for row in found] == [
        ("sales", "crm", "mcp", 3, 20.0, 2),
        ("sales", "support", "a2a", 1, None, 0),
        ("support", "crm", "mcp", 1, 100.0, 0),
    ]


def test_every_named_query_runs(world: World) -> None:
    sizes = {name: len(fetch(world.connection, name, since="1 hour", limit=2, after=0)) for name in sorted(queries())}
    assert sizes == {
        "active_alerts": 2,
        "alert_changes": 0,
        "communication_matrix": 3,
        "counts_by_protocol_and_status": 6,
        "entity_count": 1,
        "entity_health": 4,
        "entity_health_share": 1,
        "entity_state": 4,
        "error_rates": 2,
        "evaluate_alerts": 1,
        "firing_alerts": 2,
        "last_alert_change": 1,
        "latency": 2,
        "maintain": 1,
        "recent_communications": 2,
        "registration_gaps": 5,
        "registry_overview": 4,
        "request_volume": 5,
        "system_health": 1,
        "top_pairs": 2,
    }


def test_query_before_setup_says_what_to_do(empty_database_url: str) -> None:
    due = "run `elf-telemetry setup`"
    with connect(empty_database_url) as connection, pytest.raises(SchemaMissingError, match=due):
        fetch(connection, "entity_count")
