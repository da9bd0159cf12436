"""A database of the guide's original system becomes one of this package: not a row is lost."""

from __future__ import annotations

import re
from decimal import Decimal

import psycopg
import pytest

from elf_automations.errors import MigrationError
from elf_automations.storage.migrate import migrate, pending
from original import BASE, CALL, DATA, ENTITY, HISTORY, LINE, OLD, ROW, WORKFLOW, adopt, make, rows_of


def test_every_call_is_there_and_the_original_is_gone(empty_database_url: str) -> None:
    """Rows of years, of today and of next quarter; upkeep right after setup does not delete a single one."""
    make(empty_database_url, DATA, HISTORY)
    before = rows_of(empty_database_url, "select id, timestamp from communication_telemetry order by id")
    told = adopt(empty_database_url)
    after = "select id, timestamp from communication_telemetry order by id"
    assert len(before) == 62
    assert rows_of(empty_database_url, after) == before
    assert rows_of(empty_database_url, "select relname from pg_class where relname like 'original%'") == []
    assert [line for line in told if "retention_days" in line] == told
    assert "30 calls are older than retention_days; they are kept in communication_telemetry_adopted" in told[0]
    rows_of(empty_database_url, "select maintain_telemetry()")
    assert rows_of(empty_database_url, after) == before
    where = rows_of(
        empty_database_url,
        "select tableoid::regclass::text as held, count(*) from communication_telemetry group by tableoid "
        "having tableoid::regclass::text !~ '_[0-9]{8}$' order by 1",
    )
    assert where == [
        {"held": "communication_telemetry_adopted", "count": 30},
        {"held": "communication_telemetry_default", "count": 1},
    ]


def test_filled_row_keeps_every_value(empty_database_url: str) -> None:
    make(empty_database_url, DATA)
    migrate(empty_database_url)
    (row,) = rows_of(empty_database_url, f"select * from communication_telemetry where id = '{ROW}'")
    assert row == {
        "id": ROW,
        "timestamp": OLD,
        "protocol": "n8n",
        "source_id": "planner",
        "source_type": "team",
        "target_id": "files",
        "target_type": "mcp",
        "operation": "tool_call",
        "duration_ms": 1234.0,
        "status": "timeout",
        "tool_name": "read",
        "tool_category": "io",
        "task_description": "a long task " * 20000,
        "capabilities_required": ["search", "sum"],
        "message_type": "task_request",
        "workflow_id": str(WORKFLOW),
        "workflow_name": "Onboarding",
        "workflow_node": "HTTP Request",
        "payload_size_bytes": 4096,
        "tokens_used": 77,
        "estimated_cost": Decimal("1.234500"),
        "error_message": "gone",
        "error_code": "E42",
        "correlation_id": "corr-1",
        "parent_correlation_id": "corr-0",
        "metadata": {"k": [1, {"n": None}]},
        "trace_id": None,
        "span_id": None,
        "parent_span_id": None,
        "observed_by": "manual",
        "counted": True,
        "service_name": None,
        "service_instance_id": None,
        "created_at": OLD,
    }


def test_values_the_new_table_cannot_hold_are_kept_in_metadata(empty_database_url: str) -> None:
    """No time, an endless time, negative numbers, metadata that is no object, a column somebody added."""
    make(
        empty_database_url,
        "alter table communication_telemetry add column tenant text",
        f"""
        insert into communication_telemetry
            ({BASE}, tool_name, timestamp, created_at, duration_ms, tokens_used, metadata, tenant)
        values
            ({CALL}, 'a', null, '{OLD}', 5, 1, '{{"x": 1}}', null),
            ({CALL}, 'b', 'infinity', '{OLD}', -5, -1, null, 'acme'),
            ({CALL}, 'c', null, null, null, null, '[1]', null)
        """,
    )
    migrate(empty_database_url)
    rows = rows_of(
        empty_database_url,
        "select tool_name, "
        "case when tool_name = 'c' then now() - timestamp < interval '1 min' else timestamp = created_at end as timed, "
        " duration_ms, tokens_used, metadata from communication_telemetry order by tool_name",
    )
    plain = {"tenant": None}
    assert rows == [
        {
            "tool_name": "a",
            "timed": True,
            "duration_ms": 5.0,
            "tokens_used": 1,
            "metadata": {"x": 1, "elf_original": {"timestamp": None, **plain}},
        },
        {
            "tool_name": "b",
            "timed": True,
            "duration_ms": None,
            "tokens_used": None,
            "metadata": {
                "elf_original": {"timestamp": "infinity", "duration_ms": -5, "tokens_used": -1, "tenant": "acme"}
            },
        },
        {
            "tool_name": "c",
            "timed": True,
            "duration_ms": None,
            "tokens_used": None,
            "metadata": {"elf_original": {"timestamp": None, "created_at": None, "metadata": [1], **plain}},
        },
    ]


def test_registry_and_its_history_keep_ids_times_and_words(empty_database_url: str) -> None:
    make(empty_database_url, HISTORY)
    adopt(empty_database_url)
    (planner,) = rows_of(empty_database_url, f"select * from unified_registry where id = '{ENTITY}'")
    assert (
        planner.items()
        >= {
            "id": ENTITY,
            "entity_id": "planner",
            "entity_type": "team",
            "entity_name": "Planner",
            "display_name": "The planner",
            "registered_by": "team_factory",
            "registration_source": "factory",
            "current_state": "active",
            "state_updated_at": OLD,
            "health_status": "unknown",
            "last_health_check": OLD,
            "endpoint_url": "http://planner:8080",
            "namespace": "prod",
            "deployment_type": "k8s",
            "capabilities": ["plan"],
            "tags": ["core"],
            "metadata": {"llm": "gpt", "elf_original": {"health_status": "Critical"}},
            "version": "1.2",
            "last_updated": OLD,
            "parent_entity_id": "board",
            "department": "strategy",
            "last_activity": OLD,
            "activity_count": 41,
            "error_count": 3,
            "health_since": OLD,
            "registered_at": OLD,
        }.items()
    )
    health = "select entity_id, health_status, metadata from unified_registry where id <> %s order by entity_id"
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute(health, [ENTITY]).fetchall() == [
            ("files", "unknown", {"elf_original": {"health_status": "none"}}),
            ("n1", "unknown", {}),
            ("ok", "healthy", {"elf_original": {"health_status": "Healthy"}}),
        ]
        transitions = connection.execute(
            "select from_state, to_state, from_health, health_status, transition_reason, transitioned_by, "
            "transitioned_at, metadata #- '{elf_original,id}' from registry_state_transitions order by id"
        ).fetchall()
        audit = connection.execute(
            "select action, action_by, action_at = %s, details #- '{elf_original,id}', success, error_message "
            "from registration_audit order by id",
            [OLD],
        ).fetchall()
        ids = connection.execute(
            "select metadata -> 'elf_original' ->> 'id' from registry_state_transitions where from_state = 'unknown' "
            "union all select details -> 'elf_original' ->> 'id' from registration_audit where not success"
        ).fetchall()
    assert transitions == [
        (
            "unknown",
            "registered",
            "unknown",
            "unknown",
            "born",
            "factory",
            OLD,
            {"a": 1, "elf_original": {"from_state": None}},
        ),
        ("registered", "active", "unknown", "healthy", None, "factory", OLD.replace(day=18), {"elf_original": {}}),
    ]
    assert audit == [
        ("registered", "factory", True, {"b": 2, "elf_original": {"action": "register"}}, False, "refused"),
        ("updated", "ops", False, {"elf_original": {"action": "decommissioned"}}, True, None),
    ]
    assert ids == [(str(LINE),), (str(LINE),)]


@pytest.mark.parametrize("kept", ["communication_telemetry", "unified_registry"])
def test_one_of_the_two_tables_is_enough(empty_database_url: str, kept: str) -> None:
    make(empty_database_url, DATA, HISTORY)
    dropped = {"communication_telemetry", "unified_registry"} - {kept}
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(f"drop table {dropped.pop()} cascade".encode())
        before = connection.execute(f"select count(*) from {kept}".encode()).fetchone()
        migrate(empty_database_url)
        assert connection.execute(f"select count(*) from {kept}".encode()).fetchone() == before
        left = connection.execute("select relname from pg_class where relname like 'original%'").fetchall()
    assert left == []
    assert pending(empty_database_url) == ()


def test_second_setup_changes_nothing(empty_database_url: str) -> None:
    make(empty_database_url, DATA, HISTORY)
    migrate(empty_database_url)
    catalog = "select oid, relname, relfilenode from pg_class where relnamespace = 'public'::regnamespace order by oid"
    before = rows_of(empty_database_url, catalog)
    assert migrate(empty_database_url).applied == ()
    assert rows_of(empty_database_url, catalog) == before


def test_applied_late_it_leaves_our_own_tables_alone(database_url: str) -> None:
    """A database set up by an earlier release gets the files with the lower numbers after the others."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select record_mcp_telemetry('a', 'b', 'c', 'success', 5)")
        connection.execute("delete from elf_schema_migrations where name = '0001_set_original_aside'")
        assert migrate(database_url).applied == ("0001_set_original_aside",)
        assert connection.execute("select count(*) from communication_telemetry").fetchone() == (1,)


@pytest.mark.parametrize(
    ("statement", "line"),
    [
        (
            "create table communication_telemetry (id uuid, protocol text)",
            "public.communication_telemetry is there, but is not the original table (it has no .*timestamp.*): rename",
        ),
        (
            "create function register_entity(p_name text) returns text language sql as 'select p_name'",
            "functions of a name the new schema needs are in the way: register_entity(text); drop or rename them",
        ),
    ],
)
def test_what_is_not_the_original_is_refused_in_one_line(empty_database_url: str, statement: str, line: str) -> None:
    """Somebody else's table of the same name is never touched."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(statement.encode())
    pattern = re.escape(line).replace(r"\.\*", ".*")
    with pytest.raises(MigrationError, match=pattern):
        migrate(empty_database_url)
