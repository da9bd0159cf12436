"""A workflow's health: from its recent ended executions, as rows or as told, never from one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from n8n.workflow_registration import N8NWorkflowRegistry

MINUTE = timedelta(minutes=1)


@pytest.fixture
def registry(database_url: str) -> Iterator[N8NWorkflowRegistry]:
    opened = N8NWorkflowRegistry(database_url)
    opened.register_workflow("wf", "Flow")
    yield opened
    opened.close()


def told(registry: N8NWorkflowRegistry, *statuses: Any, ended_at: datetime | None = None, first: int = 1) -> str | None:
    health = None
    for number, status in enumerate(statuses, first):
        health = registry.record_execution("wf", status, execution_id=str(number), ended_at=ended_at)
    return health


def known(registry: N8NWorkflowRegistry) -> dict[str, Any]:
    found = registry.get_workflow_info("wf")
    assert found is not None
    return found


def store(database_url: str, *statuses: str, first: int = 1, at: datetime | None = None) -> None:
    """Executions as the rows that n8n's own telemetry makes."""
    begun = at or datetime.now(UTC) - 5 * MINUTE
    with psycopg.connect(database_url) as connection:
        for number, status in enumerate(statuses, first):
            connection.execute(
                "insert into communication_telemetry (id, timestamp, protocol, source_id, source_type, target_id, "
                "target_type, operation, status, duration_ms, workflow_id, correlation_id, counted, metadata) values ("
                "gen_random_uuid(), %s, 'n8n', 'n8n', 'service', 'wf', 'workflow', 'workflow_execution', %s, 1, 'wf', "
                "'c', true, %s)",
                [begun + timedelta(seconds=number), status, Jsonb({"execution_id": str(number)})],
            )


@pytest.mark.parametrize(
    ("statuses", "health"),
    [
        (["error"], "unknown"),
        (["success", "error"], "unknown"),
        (["success"] * 3, "healthy"),
        (["success"] * 2 + ["error"], "degraded"),
        (["success"] * 19 + ["error"], "healthy"),
        (["success"] * 18 + ["error"] * 2, "degraded"),
        (["success", "success", "timeout", "error"], "unhealthy"),
        (["success"] * 3 + ["cancelled"] * 10, "healthy"),
        (["cancelled"] * 5, "unknown"),
        (["error"] * 30 + ["success"] * 20, "healthy"),  # twenty executions are remembered
    ],
)
def test_health_is_the_share_of_failures_among_recent_executions(
    registry: N8NWorkflowRegistry, statuses: list[str], health: str
) -> None:
    assert told(registry, *statuses) == health
    found = known(registry)
    failed = sum(status in {"error", "timeout"} for status in statuses)
    assert (found["health_status"], found["activity_count"], found["error_count"]) == (health, len(statuses), failed)
    assert len(found["metadata"]["recent_executions"]) == min(len(statuses), 20)


def test_an_execution_told_again_changes_nothing(registry: N8NWorkflowRegistry) -> None:
    told(registry, "success", "error", "success")
    before = known(registry)
    assert told(registry, "success", "error", "success") == "degraded"
    after = known(registry)
    assert (
        (after["activity_count"], after["error_count"]) == (before["activity_count"], before["error_count"]) == (3, 1)
    )


def test_more_executions_than_are_remembered_told_again_change_nothing(registry: N8NWorkflowRegistry) -> None:
    began = datetime.now(UTC) - 30 * MINUTE
    for _ in range(2):
        for number in range(25):
            told(registry, "error", ended_at=began + number * MINUTE, first=number)
    found = known(registry)
    assert (found["activity_count"], found["error_count"]) == (25, 25)
    assert [each["id"] for each in found["metadata"]["recent_executions"]] == [
        str(number) for number in range(24, 4, -1)
    ]


def test_yesterdays_executions_say_nothing_of_today(registry: N8NWorkflowRegistry) -> None:
    told(registry, *["error"] * 5, ended_at=datetime.now(UTC) - timedelta(hours=25))
    assert known(registry)["health_status"] == "unknown"
    assert told(registry, "success", "success", "success", first=10) == "healthy"


def test_rows_and_what_was_told_of_the_same_executions_count_once(
    registry: N8NWorkflowRegistry, database_url: str
) -> None:
    store(database_url, "error", "success")
    assert told(registry, "error", "success") == "unknown"
    found = known(registry)
    # Executions that are rows bring their activity with them.
    assert (found["activity_count"], found["metadata"]["recent_executions"][0]["id"]) == (0, "2")
    # One that is not stored yet counts as well; a row knows better than what was told of it.
    assert told(registry, "success", first=3) == "degraded"
    store(database_url, "timeout", first=3)
    assert told(registry, "success", first=3) == "unhealthy"


def test_upkeep_looks_at_workflows_nobody_tells_of(registry: N8NWorkflowRegistry, database_url: str) -> None:
    store(database_url, "error", "error", "success")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select record_entity_activity('wf', 'n8n_workflow')")
        connection.execute("select maintain_telemetry()")
        transitions = connection.execute(
            "select from_health, health_status, transition_reason from registry_state_transitions "
            "where entity_id = 'wf' order by id"
        ).fetchall()
        again = connection.execute("select refresh_workflow_health()").fetchone()
    assert known(registry)["health_status"] == "unhealthy"
    assert transitions == [("unknown", "unhealthy", "recent executions")]
    assert again == (0,)


def test_the_limits_are_settings(registry: N8NWorkflowRegistry, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update telemetry_settings set value = 90 where name = 'workflow_unhealthy_percent'")
        connection.execute("update telemetry_settings set value = 5 where name = 'workflow_health_least'")
    assert told(registry, "error", "error", "error", "success") == "unknown"
    assert told(registry, "error", first=5) == "degraded"


def test_activity_by_hand_counts_towards_health_too(registry: N8NWorkflowRegistry) -> None:
    for is_error in (False, False, True):
        assert registry.record_workflow_activity("wf", is_error=is_error)
    assert (known(registry)["health_status"], known(registry)["activity_count"]) == ("degraded", 3)


def test_a_deleted_workflow_stays_as_it_was(registry: N8NWorkflowRegistry) -> None:
    registry.update_workflow_state("wf", "deleted")
    told(registry, *["error"] * 4)
    assert (known(registry)["current_state"], known(registry)["health_status"]) == ("deleted", "unknown")


def test_own_node_types_give_own_capabilities(database_url: str) -> None:
    registry = N8NWorkflowRegistry(
        database_url, node_capabilities={"acmeCrm": "crm_access", "n8n-nodes-base.set": "shaping"}
    )
    nodes = [
        {"type": "n8n-nodes-acme.acmeCrm", "name": "CRM"},
        {"type": "n8n-nodes-base.set", "name": "Set"},
        {"type": "n8n-nodes-base.slack", "name": "Off", "disabled": True},
        {"type": "n8n-nodes-base.stickyNote", "name": "Note"},
    ]
    registry.register_workflow("wf", "Flow", nodes=nodes)
    found = known(registry)
    registry.close()
    assert found["capabilities"] == ["crm_access", "shaping"]
    assert found["metadata"]["node_targets"] == {"CRM": "acmeCrm"}
