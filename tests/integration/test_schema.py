"""What the catalog must hold: everything explained, nothing open by accident."""

from __future__ import annotations

from dataclasses import fields

import psycopg
import pytest
from psycopg import sql

from elf_automations.model import Communication
from elf_automations.storage.migrate import migrate

_ROLES = ("anon", "authenticated", "service_role")

_UNEXPLAINED = """
select kind || ' ' || name
from (
    select
        case relation.relkind when 'v' then 'view' when 'i' then 'index' when 'I' then 'index' else 'table' end as kind,
        relation.relname as name,
        obj_description(relation.oid, 'pg_class') as comment
    from pg_class as relation
    where relation.relnamespace = 'public'::regnamespace and relation.relkind in ('r', 'p', 'v', 'i', 'I')
        -- Indexes of a partition come with the index of the whole.
        and not (relation.relkind = 'i' and relation.relispartition)
    union all
    select 'column', relation.relname || '.' || attribute.attname, col_description(relation.oid, attribute.attnum)
    from pg_class as relation
    inner join pg_attribute as attribute on attribute.attrelid = relation.oid
    where relation.relnamespace = 'public'::regnamespace and relation.relkind in ('r', 'p', 'v')
        and not relation.relispartition and attribute.attnum > 0 and not attribute.attisdropped
    union all
    select 'function', procedure.oid::regprocedure::text, obj_description(procedure.oid, 'pg_proc')
    from pg_proc as procedure
    where procedure.pronamespace = 'public'::regnamespace
) as objects
where comment is null
order by 1
"""

_WITHOUT_PINNED_PATH = """
select oid::regprocedure::text from pg_proc
where pronamespace = 'public'::regnamespace
    and not coalesce('search_path=public, pg_temp' = any(proconfig), false)
"""

_WITHOUT_ROW_SECURITY = """
select relname from pg_class
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relrowsecurity
"""

_OWNER_VIEWS = """
select relname from pg_class
where relnamespace = 'public'::regnamespace and relkind = 'v'
    and not coalesce('security_invoker=true' = any(reloptions), false)
"""

_OPEN_FUNCTIONS = """
select oid::regprocedure::text from pg_proc
where pronamespace = 'public'::regnamespace and has_function_privilege('public', oid, 'execute')
"""

_OVERLOADED = (
    "select proname from pg_proc where pronamespace = 'public'::regnamespace group by proname having count(*) > 1"
)

_UNPREFIXED_ARGUMENTS = """
select oid::regprocedure::text from pg_proc
where pronamespace = 'public'::regnamespace
    and exists (
        select from unnest(proargnames[1:pronargs]) as argument (name) where argument.name not like 'p\\_%'
    )
"""


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(_UNEXPLAINED, id="every object has a comment"),
        pytest.param(_WITHOUT_PINNED_PATH, id="every function pins its search path"),
        pytest.param(_WITHOUT_ROW_SECURITY, id="every table has row level security"),
        pytest.param(_OWNER_VIEWS, id="no view reads with the rights of its owner"),
        pytest.param(_OPEN_FUNCTIONS, id="no function is open to everybody"),
        pytest.param(_OVERLOADED, id="no function is overloaded, PostgREST could not choose"),
        pytest.param(_UNPREFIXED_ARGUMENTS, id="every argument is named p_…"),
    ],
)
def test_catalog_holds_no_exception(database_url: str, query: str) -> None:
    """A DBA reads the schema from the catalog, and a Supabase project exposes all of it."""
    with psycopg.connect(database_url) as connection:
        assert connection.execute(query.encode()).fetchall() == []


def test_table_has_the_fields_of_the_model_in_their_order(database_url: str) -> None:
    """The exporter copies rows by position."""
    with psycopg.connect(database_url) as connection:
        columns = connection.execute(
            "select column_name from information_schema.columns "
            "where table_name = 'communication_telemetry' order by ordinal_position"
        ).fetchall()
    assert [name for (name,) in columns] == [*(field.name for field in fields(Communication)), "created_at"]


def test_guide_style_insert_needs_nothing_of_ours(database_url: str) -> None:
    """SQL written against the guide's table keeps running: our columns have defaults."""
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            """
            INSERT INTO communication_telemetry
                (protocol, source_id, source_type, target_id, target_type, operation, status)
            VALUES ('mcp', 'team-a', 'team', 'files', 'mcp', 'tool_call', 'success')
            RETURNING id IS NOT NULL, timestamp = now(), counted, observed_by, metadata, created_at = now()
            """
        ).fetchone()
    assert row == (True, True, True, "manual", {}, True)


def test_rows_go_to_the_partition_of_their_utc_day(database_url: str) -> None:
    """Retention drops whole days; a row in the wrong one would go early or stay."""
    with psycopg.connect(database_url) as connection:
        connection.execute("set timezone = 'Asia/Tokyo'")
        rows = connection.execute(
            """
            with made as (
                insert into communication_telemetry
                    (timestamp, protocol, source_id, source_type, target_id, target_type, operation, status)
                select at, 'mcp', 'a', 'team', 'b', 'mcp', 'tool_call', 'success'
                from (values (date_trunc('day', now() at time zone 'UTC') at time zone 'UTC')) as day (at)
                returning tableoid::regclass::text as partition, timestamp
            )
            select partition = 'communication_telemetry_' || to_char(timestamp at time zone 'UTC', 'YYYYMMDD') from made
            """
        ).fetchall()
    assert rows == [(True,)]


def test_supabase_roles_get_what_they_need_and_no_more(postgres_url: str, empty_database_url: str) -> None:
    """A leaked publishable key may write calls; it reads nothing and changes nothing else."""
    with psycopg.connect(postgres_url, autocommit=True) as server:
        known = {name for (name,) in server.execute("select rolname from pg_roles").fetchall()}
        made = [role for role in _ROLES if role not in known]
        for role in made:
            server.execute(sql.SQL("create role {} nologin").format(sql.Identifier(role)))
        try:
            with psycopg.connect(empty_database_url, autocommit=True) as connection:
                for role in _ROLES:
                    _grant_as_supabase_does(connection, role)
                migrate(empty_database_url)
                executable = {role: _executable(connection, role) for role in _ROLES}
                readable = {role: _readable(connection, role) for role in _ROLES}
                connection.execute("set role anon")
                connection.execute("select record_telemetry('mcp', 'a', 'team', 'b', 'mcp', 'tool_call', 'success')")
                for refused in ("table communication_telemetry", "select store_communications('[]')"):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(refused.encode())
                connection.execute("reset role")
                for role in _ROLES:
                    connection.execute(sql.SQL("drop owned by {}").format(sql.Identifier(role)))
        finally:
            for role in made:
                server.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
    write = {
        "deregister_entity",
        "ingest_communication_telemetry",
        "ingest_communications",
        "record_a2a_telemetry",
        "record_entity_activity",
        "record_entity_heartbeat",
        "record_mcp_telemetry",
        "record_observed_entities",
        "record_telemetry",
        "record_workflow_execution",
        "register_entity",
        "settle_communications",
        "settle_communications_if_due",
        "update_entity_state",
    }
    read = {
        "active_alerts",
        "alert_measurements",
        "check_registration_gaps",
        "registry_entity_type",
        "telemetry_setting",
    }
    maintain = {
        "ensure_telemetry_partitions",
        "evaluate_alerts",
        "factory_entries_as_owner",
        "fold_telemetry_rollups",
        "maintain_telemetry",
        "maintain_telemetry_if_due",
        "maintain_telemetry_rollups",
        "rebuild_telemetry_rollups",
        "refresh_telemetry_metrics",
        "refresh_workflow_health",
    }
    assert executable == {"anon": write, "authenticated": write | read, "service_role": write | read | maintain}
    assert readable["anon"] == set()
    assert readable["service_role"] >= {"communication_telemetry", "unified_registry", "system_health_overview"}
    assert "elf_schema_migrations" not in readable["authenticated"]


def _grant_as_supabase_does(connection: psycopg.Connection[tuple[object, ...]], role: str) -> None:
    name = sql.Identifier(role)
    for kind in ("tables", "functions", "sequences"):
        connection.execute(
            sql.SQL("alter default privileges in schema public grant all on {} to {}").format(sql.SQL(kind), name)
        )


def _executable(connection: psycopg.Connection[tuple[object, ...]], role: str) -> set[object]:
    query = (
        "select proname from pg_proc where pronamespace = 'public'::regnamespace "
        "and has_function_privilege(%s, oid, 'execute')"
    )
    return {name for (name,) in connection.execute(query, [role]).fetchall()}


def _readable(connection: psycopg.Connection[tuple[object, ...]], role: str) -> set[object]:
    query = (
        "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v') "
        "and has_table_privilege(%s, oid, 'select, insert, update, delete, truncate')"
    )
    return {name for (name,) in connection.execute(query, [role]).fetchall()}
