# ruff: noqa: W291 - the statements are those of the guide, to the letter
"""Every SQL statement of the guide runs as printed and answers right over known rows.

Each test works in one transaction, so that now() stands still and whole rows can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from elf_automations.errors import SchemaMissingError
from elf_automations.storage.connection import connect
from elf_automations.storage.queries import fetch, queries

_CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation,
    duration_ms, status, tokens_used, estimated_cost, observed_by, counted
)
select
    now() - ago::interval, protocol, source_id, source_type, target_id, target_type, operation,
    duration_ms, status, tokens_used, estimated_cost, observed_by, counted
from (values
    ('1 minute', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 10, 'success', 5, 0.25, 'client', true),
    ('1 minute', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 9, 'success', null, null, 'server', false),
    ('2 minutes', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 20, 'error', 7, 0.5, 'client', true),
    ('3 minutes', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 30, 'timeout', null, null, 'client', true),
    ('4 minutes', 'mcp', 'support', 'team', 'crm', 'mcp', 'tool_call', 100, 'cancelled', null, null, 'client', true),
    ('10 minutes', 'a2a', 'sales', 'team', 'support', 'team', 'send_task', null, 'success', null, null, 'client', true),
    ('3 hours', 'n8n', 'wf_001', 'workflow', 'mail', 'external', 'step', 40, 'success', null, null, 'client', true),
    ('30 hours', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 50, 'success', null, null, 'client', true),
    ('8 days', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 9999, 'success', null, null, 'client', true)
) as call (
    ago, protocol, source_id, source_type, target_id, target_type, operation,
    duration_ms, status, tokens_used, estimated_cost, observed_by, counted
)
"""

_ENTITIES = """
insert into unified_registry (
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status,
    last_activity, last_health_check, registered_at, last_updated
)
select
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status,
    now() - active_ago::interval, now() - checked_ago::interval, now() - interval '30 days',
    now() - updated_ago::interval
from (values
    ('board', 'team', 'Board', null, 'head', 'active', 'healthy', '2 minutes', '1 hour', '1 hour'),
    ('sales', 'team', 'Sales', 'board', 'front', 'active', 'healthy', '1 minute', '1 hour', '1 hour'),
    ('crm', 'mcp_server', 'CRM', 'sales', null, 'active', 'unhealthy', '1 minute', '25 hours', '1 hour'),
    ('left', 'service', 'Left', 'right', null, 'active', 'unknown', '9 days', null, '8 days'),
    ('right', 'service', 'Right', 'left', null, 'deleted', 'unknown', null, null, '8 days')
) as entity (
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status,
    active_ago, checked_ago, updated_ago
)
"""


class World:
    """One transaction over known rows."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._cursor = connection.cursor(row_factory=dict_row)
        self.now = self.rows("select now() as now")[0]["now"]

    def rows(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        return self._cursor.execute(statement.encode(), parameters or None).fetchall()

    def run(self, statements: str) -> None:
        self._cursor.execute(statements.encode())

    def ago(self, span: str) -> datetime:
        found = self.rows("select now() - %s::interval as at", span)[0]["at"]
        assert isinstance(found, datetime)
        return found


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    with psycopg.connect(database_url) as connection:
        connection.execute(_CALLS.encode())
        connection.execute(_ENTITIES.encode())
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
    found = fetch(world.connection, "communication_matrix", since="1 hour")
    assert [tuple(row.values()) for row in found] == [
        ("sales", "crm", "mcp", 3, 20.0, 1),
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
