"""Who may do what on a Supabase project, in both states of its default grants; its owner is no superuser."""

from __future__ import annotations

import psycopg
import pytest

import supabase_roles
from elf_automations.storage.migrate import migrate
from supabase_roles import Project, acting, rows, value

_NOBODY_READS = {"elf_schema_migrations"}

_WRITES = {
    "deregister_entity": "select deregister_entity('nobody', 'team')",
    "ingest_communication_telemetry": "select ingest_communication_telemetry('[]')",
    "ingest_communications": "select ingest_communications('[]')",
    "record_a2a_telemetry": "select record_a2a_telemetry('a', 'b', 'task', 'success', 1)",
    "record_entity_activity": "select record_entity_activity('nobody', 'team')",
    "record_entity_heartbeat": "select record_entity_heartbeat('nobody', 'team')",
    "record_mcp_telemetry": "select record_mcp_telemetry('a', 'b', 'tool', 'success', 1)",
    "record_observed_entities": "select record_observed_entities('[]')",
    "record_telemetry": "select record_telemetry('mcp', 'a', 'team', 'b', 'mcp', 'tool_call', 'success')",
    "record_workflow_execution": "select record_workflow_execution('nobody', '1', 'success')",
    "register_entity": "select register_entity('somebody', 'team', 'Somebody', 'factory')",
    "settle_communications": "select settle_communications()",
    "settle_communications_if_due": "select settle_communications_if_due()",
    "update_entity_state": "select update_entity_state('nobody', 'team', 'active')",
}

_EXECUTABLE = """
select proname from pg_proc
where pronamespace = 'public'::regnamespace and has_function_privilege(%s, oid, 'execute')
"""
_RELATIONS = """
select relname, has_table_privilege(%(role)s, oid, %(privileges)s)
from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm')
"""
_ANY_RIGHT = "select, insert, update, delete, truncate, references, trigger"
_SEQUENCES = """
select relname from pg_class
where relnamespace = 'public'::regnamespace
    and case when relkind = 'S' then has_sequence_privilege(%s, oid, 'usage, select, update') else false end
"""
_WITHOUT_POLICY = """
select relname from pg_class
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
    and not exists (select from pg_policy where polrelid = pg_class.oid)
"""


def test_a_publishable_key_calls_what_writes_and_reaches_nothing_else(hosted: Project) -> None:
    """It is in every browser and every script: who finds it may send telemetry, and read or change nothing."""
    with psycopg.connect(hosted.owner, autocommit=True) as connection:
        connection.execute("select ensure_telemetry_partitions(10)")
        assert {name for (name,) in rows(connection, _EXECUTABLE, "anon")} == set(_WRITES)
        rights = connection.execute(_RELATIONS, {"role": "anon", "privileges": _ANY_RIGHT}).fetchall()
        assert [name for name, may in rights if may] == []
        assert rows(connection, _SEQUENCES, "anon") == []
    with acting(hosted.url, "anon") as connection:
        for call in _WRITES.values():
            connection.execute(call.encode())
        for refused in (
            "table communication_telemetry",
            "table communication_telemetry_default",
            "table unified_registry",
            "table system_health_overview",
            "insert into unified_registry (entity_id, entity_type, entity_name) values ('x', 'team', 'x')",
            "insert into communication_telemetry (id) values (gen_random_uuid()) on conflict do nothing",
            "select store_communications('[]')",
            "select * from active_alerts()",
            "select maintain_telemetry()",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused.encode())


def test_who_is_authenticated_reads_everything_and_writes_through_functions(hosted: Project) -> None:
    with acting(hosted.url, "anon") as connection:
        for call in _WRITES.values():
            connection.execute(call.encode())
    with psycopg.connect(hosted.owner) as owner:
        rights = owner.execute(_RELATIONS, {"role": "authenticated", "privileges": "select"}).fetchall()
        closed = {name for name, may in rights if not may}
        assert {name for name in closed if not name.startswith("communication_telemetry_")} == _NOBODY_READS
        writing = "insert, update, delete, truncate, references, trigger"
        rights = owner.execute(_RELATIONS, {"role": "authenticated", "privileges": writing}).fetchall()
        assert [name for name, may in rights if may] == []
        assert {name for (name,) in rows(owner, _WITHOUT_POLICY)} == _NOBODY_READS
    with acting(hosted.url, "authenticated", sub="u1") as connection:
        assert value(connection, "select count(*) from communication_telemetry") == 3
        assert value(connection, "select sum(total_requests_5min) from system_health_overview") == 3
        assert value(connection, "select count(*) from unified_registry") == 1
        assert value(connection, "select count(*) from registration_audit") == 1
        connection.execute("select * from active_alerts(), check_registration_gaps()")
        for call in _WRITES.values():
            connection.execute(call.encode())
        for refused in ("delete from unified_registry", "select maintain_telemetry()", "table elf_schema_migrations"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused.encode())


def test_the_secret_key_reads_writes_and_maintains(hosted: Project) -> None:
    insert = (
        "insert into communication_telemetry (protocol, source_id, source_type, target_id, target_type, operation, "
        "status) values ('mcp', 'a', 'team', 'b', 'mcp', 'tool_call', 'success')"
    )
    with acting(hosted.url, "service_role") as connection:
        for statement in (
            insert,
            "insert into unified_registry (entity_id, entity_type, entity_name) values ('a', 'team', 'A')",
            "update unified_registry set display_name = 'A team'",
            "update telemetry_settings set value = value",
            "select maintain_telemetry()",
            "select refresh_telemetry_metrics()",
            *_WRITES.values(),
        ):
            connection.execute(statement.encode())
        assert value(connection, "select count(*) from communication_telemetry") == 4
        assert rows(connection, "select claimed_as from unified_registry where entity_id = 'a'") == [("owner",)]
        connection.execute("delete from communication_telemetry")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("table elf_schema_migrations")


def test_a_view_reads_with_the_rights_of_who_asks(hosted: Project) -> None:
    """Somebody grants a dashboard view to everybody: the rows below it must stay closed."""
    with psycopg.connect(hosted.owner, autocommit=True) as owner:
        owner.execute("grant select on system_health_overview to anon")
        try:
            with acting(hosted.url, "anon") as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("table system_health_overview")
        finally:
            owner.execute("revoke select on system_health_overview from anon")


def test_granting_every_table_to_everybody_still_shows_a_publishable_key_no_row(hosted: Project) -> None:
    with acting(hosted.url, "anon") as connection:
        connection.execute(_WRITES["record_telemetry"].encode())
    with psycopg.connect(hosted.url) as owner:
        owner.execute("grant select on all tables in schema public to anon")
        owner.execute("set local role anon")
        for table in ("communication_telemetry", "communication_telemetry_default", "unified_registry"):
            assert value(owner, f"select count(*) from {table}") == 0
        owner.rollback()


@pytest.mark.parametrize("call", ["register_entity", "ingest_communication_telemetry", "record_telemetry"])
def test_a_temporary_table_of_the_caller_does_not_stand_in_for_ours(hosted: Project, call: str) -> None:
    """SECURITY DEFINER without a pinned path would write, with the owner's rights, where the caller says."""
    with acting(hosted.url, "anon") as connection:
        for table in ("unified_registry", "registration_audit", "telemetry_settings", "communication_telemetry"):
            connection.execute(f"create temporary table {table} (name text, value double precision)".encode())
            connection.execute(f"grant all on pg_temp.{table} to public".encode())
        connection.execute("create function pg_temp.claim_rank(text) returns integer language sql return 9")
        connection.execute("set search_path = pg_temp, public")
        connection.execute(f"select public.{_WRITES[call].removeprefix('select ')}".encode())
        assert value(connection, "select count(*) from pg_temp.unified_registry") == 0
        assert value(connection, "select count(*) from pg_temp.communication_telemetry") == 0


def test_the_api_is_told_to_read_the_schema_again(postgres_url: str) -> None:
    with (
        supabase_roles.project(postgres_url, "nothing") as (_, owner),
        psycopg.connect(owner, autocommit=True) as listener,
    ):
        listener.execute("listen pgrst")
        migrate(owner)
        heard = [(told.channel, told.payload) for told in listener.notifies(timeout=10, stop_after=1)]
    assert heard == [("pgrst", "reload schema")]


def test_without_supabase_roles_grants_alone_decide(database_url: str) -> None:
    """Plain Postgres: a role for Grafana reads what it is granted, and nothing before."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        policies = "select distinct roles::text from pg_policies where policyname = 'elf_read'"
        readers = value(connection, policies)
        roles = value(connection, "select count(*) from pg_roles where rolname = 'authenticated'")
    assert readers in ({"{public}"} if not roles else {"{public}", "{authenticated}"})


def test_gaps_of_the_factories_tables_are_told_to_whom_they_may_be(hosted: Project) -> None:
    """The tables are the application's own: who may not read them learns nothing of them, nor by a policy's back."""
    gaps = "select gap_type, entity_identifier, details ->> 'reason' from check_registration_gaps()"
    unreadable = ("unreadable_table", "teams", "authenticated may not read it")
    with psycopg.connect(hosted.owner, autocommit=True) as owner:
        owner.execute("create table teams (id integer, name text, secret text)")
        owner.execute("insert into teams values (1, 'sales', 'x'), (2, 'support', 'x')")
        owner.execute("revoke all on teams from anon, authenticated, service_role")
        try:
            with acting(hosted.url, "authenticated", sub="u1") as connection:
                assert rows(connection, gaps) == [unreadable]
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute("select factory_entries_as_owner('teams')")
            with acting(hosted.url, "service_role") as connection:
                assert rows(connection, gaps) == [("missing_team", "sales", None), ("missing_team", "support", None)]
                told = rows(connection, "select entry from factory_entries_as_owner('teams') as entry order by 1")
                assert told == [({"id": 1, "name": "sales"},), ({"id": 2, "name": "support"},)]
                with pytest.raises(psycopg.errors.InvalidParameterValue):
                    connection.execute("select factory_entries_as_owner('unified_registry')")
            owner.execute("grant select on teams to authenticated")
            owner.execute("alter table teams enable row level security")
            owner.execute("create policy mine on teams for select to authenticated using (name = 'support')")
            with acting(hosted.url, "authenticated", sub="u1") as connection:
                assert rows(connection, gaps) == [("missing_team", "support", None)]
        finally:
            owner.execute("drop table teams")
