"""The SQL functions of the registry as clients call them: safe with many at once, exact when repeated."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from asking import rows, together, value


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def test_registration_race_gives_one_entity(database_url: str, connection: psycopg.Connection[Any]) -> None:
    """Fifty replicas of one service start at once."""
    ids = together(
        database_url,
        50,
        lambda mine, _: value(mine, "select register_entity('svc', 'service', 'Service', 'factory')"),
    )
    assert len(set(ids)) == 1
    assert rows(connection, "select id from unified_registry") == [(ids[0],)]
    assert rows(connection, "select action, count(*) from registration_audit group by action order by action") == [
        ("registered", 1),
        ("updated", 49),
    ]


def test_registering_again_changes_what_is_given_and_keeps_the_rest(connection: psycopg.Connection[Any]) -> None:
    first = value(
        connection,
        "select register_entity('crm', 'mcp_server', 'CRM', 'factory', %s, array['read'], 'http://crm', 'sales', "
        "'Customer data', 'mcp factory', 'prod', 'k8s', array['core'], '1.0', 'front')",
        Jsonb({"a": 1, "b": 1}),
    )
    again = value(
        connection,
        "select register_entity(p_entity_id => 'crm', p_entity_type => 'mcp_server', p_entity_name => 'CRM 2', "
        "p_registered_by => 'hand', p_metadata => %s, p_version => '1.1')",
        Jsonb({"b": 2}),
    )
    assert again == first
    assert rows(
        connection,
        "select entity_name, registered_by, metadata, capabilities, endpoint_url, parent_entity_id, display_name, "
        "registration_source, namespace, deployment_type, tags, version, department, current_state "
        "from unified_registry",
    ) == [
        (
            *("CRM 2", "hand", {"a": 1, "b": 2}, ["read"], "http://crm", "sales", "Customer data"),
            *("mcp factory", "prod", "k8s", ["core"], "1.1", "front", "registered"),
        )
    ]


def test_registered_again_after_its_end_an_entity_is_back(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    """A team is retired and built anew by several replicas at once: one revival, and its history goes on."""
    first = value(connection, "select register_entity('sales', 'team', 'Sales', 'factory', p_department => 'front')")
    connection.execute("select update_entity_state('sales', 'team', 'active', 'unhealthy', 'factory')")
    connection.execute("select deregister_entity('sales', 'team', 'admin', 'retired')")
    connection.execute("select record_entity_activity('sales', 'team')")
    sighting = {"entity_id": "sales", "entity_type": "team", "calls": 1}
    connection.execute("select record_observed_entities(%s)", [Jsonb([sighting])])
    connection.execute("select register_entity('sales', 'team', 'Seen', 'telemetry')")
    assert value(connection, "select current_state from unified_registry") == "deleted"

    again = "select register_entity('sales', 'team', 'Sales 2', 'factory')"
    assert set(together(database_url, 20, lambda mine, _: value(mine, again))) == {first}
    assert rows(
        connection,
        "select entity_name, department, current_state, health_status, activity_count from unified_registry",
    ) == [("Sales 2", "front", "registered", "unknown", 2)]
    assert rows(
        connection,
        "select from_state, to_state, from_health, health_status, transitioned_by, transition_reason "
        "from registry_state_transitions order by id",
    ) == [
        ("registered", "active", "unknown", "unhealthy", "factory", None),
        ("active", "deleted", "unhealthy", "unhealthy", "admin", "retired"),
        ("deleted", "registered", "unhealthy", "unknown", "factory", "registered again"),
    ]
    actions = "select action, count(*) from registration_audit group by action order by min(id)"
    assert rows(connection, actions) == [("registered", 1), ("deregistered", 1), ("revived", 1), ("updated", 19)]


def test_what_telemetry_alone_knew_and_somebody_ended_stays_ended(connection: psycopg.Connection[Any]) -> None:
    """Late spans are no registration."""
    connection.execute("select register_entity('seen', 'service', 'Seen', 'telemetry')")
    connection.execute("select deregister_entity('seen', 'service')")
    connection.execute("select register_entity('seen', 'service', 'Seen', 'telemetry')")
    assert value(connection, "select current_state from unified_registry") == "deleted"


def test_telemetry_does_not_rewrite_what_a_factory_registered(connection: psycopg.Connection[Any]) -> None:
    registered = value(connection, "select register_entity('sales', 'team', 'Sales', 'team factory')")
    assert value(connection, "select register_entity('sales', 'team', 'evil', 'telemetry')") == registered
    assert rows(connection, "select entity_name, registered_by from unified_registry") == [("Sales", "team factory")]


@pytest.mark.parametrize("kind", ["database", ""])
def test_unknown_entity_type_is_refused(connection: psycopg.Connection[Any], kind: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="unified_registry_type_known"):
        value(connection, "select register_entity('x', %s, 'X', 'hand')", kind)


def test_state_changes_leave_one_line_each(connection: psycopg.Connection[Any]) -> None:
    """A heartbeat that repeats the same state every minute must not fill the history."""
    update = "select update_entity_state('wf', 'n8n_workflow', %s, %s, 'n8n', %s)"
    assert value(connection, update, "active", "healthy", None) is False
    value(connection, "select register_entity('wf', 'n8n_workflow', 'Flow', 'webhook')")
    for state, health, reason in (
        ("active", None, "published"),
        ("active", "healthy", None),
        ("active", "healthy", "heartbeat"),
        ("inactive", None, "unpublished"),
    ):
        assert value(connection, update, state, health, reason) is True
    assert rows(
        connection,
        "select from_state, to_state, from_health, health_status, transitioned_by, transition_reason "
        "from registry_state_transitions order by id",
    ) == [
        ("registered", "active", "unknown", "unknown", "n8n", "published"),
        ("active", "active", "unknown", "healthy", "n8n", None),
        ("active", "inactive", "healthy", "healthy", "n8n", "unpublished"),
    ]
    assert value(
        connection, "select last_health_check is not null and health_since > registered_at from unified_registry"
    )


def test_activity_is_counted_for_known_entities_only(connection: psycopg.Connection[Any]) -> None:
    value(connection, "select register_entity('a', 'team', 'A', 'hand')")
    assert value(connection, "select record_entity_activity('a', 'team')") is True
    assert value(connection, "select record_entity_activity('a', 'team', p_is_error => true)") is True
    assert value(connection, "select record_entity_activity('a', 'service')") is False
    assert rows(connection, "select entity_id, activity_count, error_count from unified_registry") == [("a", 2, 1)]


def test_observed_entities_create_complete_and_count(connection: psycopg.Connection[Any]) -> None:
    """What telemetry saw fills gaps of a hand-made entry, describes its own, and a mere sighting makes none."""
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    value(connection, "select register_entity('crm', 'mcp_server', 'CRM', 'factory', p_version => '1')")
    batch = [
        {
            "entity_id": "crm",
            "entity_type": "mcp_server",
            "entity_name": "x",
            "version": "2",
            "endpoint_url": "http://crm",
        },
        {
            "entity_id": "new",
            "entity_type": "team",
            "entity_name": "New",
            "capabilities": ["sell"],
            "metadata": {"k": 1},
        },
        {
            "entity_id": "crm",
            "entity_type": "mcp_server",
            "observed": False,
            "calls": 3,
            "errors": 1,
            "last_activity": at,
        },
        {"entity_id": "new", "entity_type": "team", "observed": False, "calls": 2, "last_activity": at},
        {"entity_id": "ghost", "entity_type": "team", "observed": False, "calls": 1, "last_activity": at},
        {"entity_id": "odd", "entity_type": "external"},
        {"entity_id": "", "entity_type": "team"},
        {"entity_id": "n" * 300, "entity_type": "service", "observed": True},
    ]
    documents = Jsonb([{**entity, "last_activity": str(entity.get("last_activity", "")) or None} for entity in batch])
    assert value(connection, "select record_observed_entities(%s)", documents) == 3
    late = [
        {"entity_id": "new", "entity_type": "team", "entity_name": "New 2", "last_activity": "2026-01-01T00:00:00Z"}
    ]
    assert value(connection, "select record_observed_entities(%s)", Jsonb(late)) == 1
    assert rows(
        connection,
        "select entity_id, entity_name, registered_by, current_state, version, endpoint_url, capabilities, metadata, "
        "activity_count, error_count, last_activity from unified_registry order by entity_id",
    ) == [
        ("crm", "CRM", "factory", "registered", "1", "http://crm", [], {}, 3, 1, at),
        ("new", "New 2", "telemetry", "active", None, None, ["sell"], {"k": 1}, 2, 0, at),
        ("n" * 255, "n" * 255, "telemetry", "active", None, None, [], {}, 0, 0, None),
    ]
    assert rows(connection, "select entity_id, action, action_by from registration_audit order by id") == [
        ("crm", "registered", "factory"),
        ("n" * 255, "registered", "telemetry"),
        ("new", "registered", "telemetry"),
    ]


def test_clock_ahead_does_not_keep_an_entity_alive(connection: psycopg.Connection[Any]) -> None:
    ahead = (datetime.now(UTC) + timedelta(days=3650)).isoformat()
    entity = {"entity_id": "a", "entity_type": "team", "calls": 1, "last_activity": ahead}
    value(connection, "select record_observed_entities(%s)", Jsonb([entity]))
    assert value(connection, "select last_activity <= now() from unified_registry")


def test_writers_with_the_same_entities_in_opposite_order_do_not_deadlock(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    """A per-row trigger deadlocked here; sorted batches must not, and no count may be lost."""
    names = [f"team-{number:02}" for number in range(40)]

    def work(mine: psycopg.Connection[Any], number: int) -> None:
        order = names if number % 2 else names[::-1]
        batch = [{"entity_id": name, "entity_type": "team", "calls": 1} for name in order]
        for _ in range(10):
            value(mine, "select record_observed_entities(%s)", Jsonb(batch))

    together(database_url, 4, work)
    assert rows(connection, "select distinct activity_count from unified_registry") == [(40,)]
    assert value(connection, "select count(*) from registration_audit where action = 'registered'") == len(names)


def test_a_stopped_entity_is_no_gap(connection: psycopg.Connection[Any]) -> None:
    """What a factory ended on purpose is silent and unchecked for good."""
    for entity, state in (("runs", "active"), ("stopped", "stopped"), ("inactive", "inactive")):
        connection.execute("select register_entity(%s, 'team', %s, 'factory')", [entity, entity])
        connection.execute("select update_entity_state(%s, 'team', %s)", [entity, state])
    connection.execute(
        "update unified_registry set registered_at = long_ago, last_updated = long_ago "
        "from (select now() - interval '1 year' as long_ago) as past"
    )
    gaps = "select gap_type, entity_identifier from check_registration_gaps() order by 1"
    assert rows(connection, gaps) == [("missing_health_check", "runs"), ("stale_registration", "runs")]
