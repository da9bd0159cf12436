"""The unified registry over a real Postgres, directly and through Supabase's HTTP API: the same meaning both ways."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from datetime import datetime

import psycopg
import pytest
from psycopg import sql

import postgrest_server
from elf_automations.errors import (
    ConfigurationError,
    ElfTelemetryError,
    SchemaMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from elf_automations.registry import InvalidEntityError, N8NWorkflowRegistry, UnifiedRegistry, WorkflowEvents


@pytest.fixture(params=["postgres", "supabase"])
def registry(
    request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[UnifiedRegistry]:
    if request.param == "postgres":
        with UnifiedRegistry(database_url) as opened:
            yield opened
        return
    with postgrest_server.serving(database_url) as api:
        monkeypatch.setenv("SUPABASE_URL", api.url)
        monkeypatch.setenv("SUPABASE_SERVICE_KEY", api.key)
        with UnifiedRegistry() as opened:
            yield opened


@pytest.fixture
def writer_only(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Supabase project and a key like its anon key: it may call what writes to the registry, and read nothing."""
    role = sql.Identifier(f"elf_writer_{uuid.uuid4().hex[:8]}")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        for function in (
            "register_entity", "update_entity_state", "record_entity_activity", "record_workflow_execution",
        ):  # fmt: skip
            connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(sql.Identifier(function), role))
        with postgrest_server.serving(database_url, keys={"sb_publishable_1": role.as_string().strip('"')}) as api:
            monkeypatch.setenv("SUPABASE_URL", api.url)
            monkeypatch.setenv("SUPABASE_ANON_KEY", api.key)
            yield
        connection.execute(sql.SQL("DROP OWNED BY {}").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def test_everything_said_at_registration_is_on_record(registry: UnifiedRegistry) -> None:
    row_id = registry.register_entity(
        "sales-team", "team", "Sales", registered_by="team_factory", metadata={"llm": {"model": "x"}},
        capabilities=["proposals", "pricing"], endpoint_url="http://127.0.0.1:9101", parent_entity_id="board",
        display_name="Sales team", registration_source="factory", namespace="elf", deployment_type="k8s",
        tags=["revenue", "emea"], version="1.2.3", department="sales",
    )  # fmt: skip
    found = registry.get("sales-team", "team")
    assert found is not None
    expected = {
        "id": row_id, "entity_id": "sales-team", "entity_type": "team", "entity_name": "Sales",
        "display_name": "Sales team", "registered_by": "team_factory", "registration_source": "factory",
        "current_state": "registered", "health_status": "unknown", "endpoint_url": "http://127.0.0.1:9101",
        "namespace": "elf", "deployment_type": "k8s", "capabilities": ["proposals", "pricing"],
        "tags": ["revenue", "emea"], "metadata": {"llm": {"model": "x"}}, "version": "1.2.3",
        "parent_entity_id": "board", "department": "sales", "activity_count": 0, "error_count": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_registering_again_keeps_what_is_not_said_again(registry: UnifiedRegistry) -> None:
    first = registry.register_entity("sales-team", "team", "Sales", endpoint_url="http://a:1", capabilities=["x"])
    again = registry.register_entity("sales-team", "team", "Sales & Co")
    found = registry.get("sales-team", "team")
    assert found is not None
    assert first == again
    assert (found["entity_name"], found["endpoint_url"], found["capabilities"]) == ("Sales & Co", "http://a:1", ["x"])


def test_state_health_and_activity_change_together_with_their_history(
    registry: UnifiedRegistry, database_url: str
) -> None:
    registry.register_entity("sales-team", "team")
    assert registry.update_state("sales-team", "team", "active", health_status="healthy", updated_by="me", reason="up")
    registry.record_activity("sales-team", "team")
    registry.record_activity("sales-team", "team", is_error=True)
    found = registry.get("sales-team", "team")
    assert found is not None
    assert (found["current_state"], found["health_status"], found["activity_count"], found["error_count"]) == (
        "active", "healthy", 2, 1,
    )  # fmt: skip
    assert isinstance(found["last_activity"], datetime)
    with psycopg.connect(database_url) as connection:
        history = connection.execute(
            "SELECT from_state, to_state, transitioned_by, transition_reason"
            " FROM registry_state_transitions ORDER BY transitioned_at"
        ).fetchall()
    assert history[-1] == ("registered", "active", "me", "up")


def test_health_alone_changes_when_no_state_is_given(registry: UnifiedRegistry) -> None:
    registry.register_entity("sales-team", "team")
    registry.update_state("sales-team", "team", "active")
    assert registry.update_state("sales-team", "team", None, health_status="degraded")
    found = registry.get("sales-team", "team")
    assert found is not None
    assert (found["current_state"], found["health_status"]) == ("active", "degraded")


def test_an_unknown_entity_is_said_to_be_unknown(registry: UnifiedRegistry) -> None:
    assert registry.get("nobody", "team") is None
    assert registry.update_state("nobody", "team", "active") is False
    assert registry.record_activity("nobody", "team") is False
    assert registry.resolve_endpoint("nobody") is None
    assert registry.list() == []


def test_lists_are_filtered_newest_first_and_leave_out_the_deleted(registry: UnifiedRegistry) -> None:
    registry.register_entity("a", "team", tags=["x", 'odd "tag", {really}\\'])
    registry.register_entity("b", "team", tags=["x"])
    registry.register_entity("c", "service", tags=["y"])
    registry.register_entity("d", "team", tags=["x"])
    registry.update_state("d", "team", "deleted")
    registry.update_state("a", "team", "active")

    def ids(**filters: object) -> list[str]:
        return [entity["entity_id"] for entity in registry.list(**filters)]  # type: ignore[arg-type]

    assert ids() == ["a", "c", "b"]
    assert ids(limit=1) == ["a"]
    assert ids(entity_type="team") == ["a", "b"]
    assert ids(tags=["x"]) == ["a", "b"]
    assert ids(tags=["x", 'odd "tag", {really}\\']) == ["a"]
    assert ids(state="active") == ["a"]
    assert ids(state="deleted") == ["d"]


def test_an_endpoint_is_resolved_while_its_entity_lives(registry: UnifiedRegistry) -> None:
    registry.register_entity("sales-team", "team", endpoint_url="http://127.0.0.1:9101")
    assert registry.resolve_endpoint("sales-team") == "http://127.0.0.1:9101"
    assert registry.resolve_endpoint("sales-team", "mcp_server") is None
    registry.update_state("sales-team", "team", "deleted")
    assert registry.resolve_endpoint("sales-team") is None


@pytest.mark.anyio
async def test_a_key_that_may_only_write_is_enough_to_keep_workflows_current(
    writer_only: None, database_url: str
) -> None:
    workflows = N8NWorkflowRegistry()
    handler = WorkflowEvents(workflows)
    workflow = {"id": "wf_1", "name": "Intake", "active": True, "nodes": [{"type": "http"}]}
    actions = [
        (await handler.handle_workflow_event({"event": f"workflow.{name}", "workflow": workflow, **more}))["action"]
        for name, more in (
            ("created", {}),
            ("updated", {}),
            ("executed", {"execution": {"status": "error"}}),
            ("deactivated", {}),
        )
    ]
    assert actions == ["registered", "updated", "activity_recorded", "state_updated"]
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT entity_name, current_state, health_status, activity_count, error_count FROM unified_registry"
        ).fetchall()
    assert row == [("Intake", "inactive", "unknown", 1, 1)]
    with pytest.raises(StorageRefusedError, match="SUPABASE_SERVICE_KEY"):
        workflows.list_workflows()
    workflows.close()


def test_gaps_name_what_calls_without_being_registered(registry: UnifiedRegistry, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO communication_telemetry (protocol, source_id, source_type, target_id, target_type, operation, "
            "status) VALUES ('a2a', 'ghost-team', 'team', 'sales-team', 'team', 'send_task', 'success')"
        )
    assert "ghost-team" in {gap["entity_identifier"] for gap in registry.gaps()}


def test_a_connection_the_server_closed_is_opened_again(registry: UnifiedRegistry, database_url: str) -> None:
    registry.register_entity("sales-team", "team")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert registry.get("sales-team", "team") is not None


@pytest.mark.parametrize(
    ("entity_id", "entity_type", "named"),
    [("", "team", "entity_id"), ("x", "robot", "entity_type 'robot'"), ("x", "Team", "n8n_workflow")],
)
def test_a_word_the_registry_does_not_know_is_named(entity_id: str, entity_type: str, named: str) -> None:
    with pytest.raises(InvalidEntityError, match=named):
        UnifiedRegistry().register_entity(entity_id, entity_type)


def test_an_unknown_health_is_named_with_the_known_ones() -> None:
    with pytest.raises(InvalidEntityError, match="degraded, healthy, unhealthy, unknown"):
        UnifiedRegistry().update_state("x", "team", "active", health_status="fine")


def test_without_a_database_the_settings_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"ELF_DATABASE_URL.*SUPABASE_URL"):
        UnifiedRegistry().list()


def test_an_unreachable_database_is_one_line_without_the_password(unused_port: int) -> None:
    registry = UnifiedRegistry(f"postgresql://me:secret@127.0.0.1:{unused_port}/elf")
    with pytest.raises(StorageUnavailableError) as caught:
        registry.list()
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_database_without_the_schema_says_how_to_make_it(empty_database_url: str) -> None:
    with UnifiedRegistry(empty_database_url) as registry:
        for use in (registry.list, registry.gaps, lambda: registry.register_entity("x", "team")):
            with pytest.raises(SchemaMissingError, match="elf-telemetry setup"):
                use()


def test_the_environment_names_the_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    with UnifiedRegistry() as registry:
        registry.register_entity("sales-team", "team")
        registry.close()
        assert registry.get("sales-team", "team") is not None


def test_every_error_of_the_registry_is_of_one_family() -> None:
    assert issubclass(InvalidEntityError, ElfTelemetryError)


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
