"""What others built on the original tables is there after setup, or named with the reason why it is not."""

from __future__ import annotations

import psycopg

from elf_automations.storage.migrate import migrate
from original import DATA, ENTITY, HISTORY, ROW, WORKFLOW, adopt, make, rows_of

_REPLACED = (
    "record_telemetry",
    "record_a2a_telemetry",
    "record_mcp_telemetry",
    "refresh_telemetry_metrics",
    "register_entity",
    "update_entity_state",
    "record_entity_activity",
    "check_registration_gaps",
)


def test_functions_are_replaced_and_not_overloaded(empty_database_url: str) -> None:
    """PostgREST refuses a call that two functions would take."""
    make(empty_database_url, DATA, HISTORY)
    migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        counts = connection.execute(
            "select proname, count(*) from pg_proc where proname = any(%s) group by proname", [list(_REPLACED)]
        ).fetchall()
        connection.execute(
            "select record_mcp_telemetry(p_source_id => 'a', p_mcp_name => 'b', p_tool_name => 'c', "
            "p_status => 'success', p_duration_ms => 5)"
        )
        connection.execute(
            "select record_a2a_telemetry(p_source_team => 'a', p_target_team => 'b', "
            "p_task_description => 'c', p_status => 'success', p_duration_ms => 5)"
        )
        answers = connection.execute(
            "select update_entity_state(p_entity_id => 'planner', p_entity_type => 'team', p_new_state => 'inactive'), "
            "register_entity(p_entity_id => 'planner', p_entity_type => 'team', p_entity_name => 'P', "
            "p_registered_by => 'me')"
        ).fetchone()
        connection.execute("select refresh_telemetry_metrics(), record_entity_activity('planner', 'team')")
        gaps = connection.execute(
            "select entity_identifier from check_registration_gaps() where gap_type = 'missing_team'"
        )
        assert ("writer",) in gaps.fetchall()
    assert dict(counts) == dict.fromkeys(_REPLACED, 1)
    assert answers == (True, ENTITY)


def test_views_have_the_columns_of_the_original(empty_database_url: str) -> None:
    query = (
        "select relname, attname from pg_attribute join pg_class on attrelid = pg_class.oid "
        "where relkind in ('v', 'm') and relnamespace = 'public'::regnamespace and attnum > 0"
    )
    make(empty_database_url)
    before = {tuple(row.values()) for row in rows_of(empty_database_url, query)}
    migrate(empty_database_url)
    assert {tuple(row.values()) for row in rows_of(empty_database_url, query)} >= before


def test_what_others_built_moves_to_the_new_tables(empty_database_url: str) -> None:
    """A view, a view on that view, a materialized view, a foreign key: there after setup, reading new rows."""
    make(
        empty_database_url,
        DATA,
        HISTORY,
        """
        create schema team;
        create view slow_calls with (security_barrier = true) as
            select communication_telemetry.id, source_id, timestamp
            from communication_telemetry where duration_ms > 1000;
        comment on view slow_calls is 'ours';
        comment on column slow_calls.source_id is 'who';
        create view team.slow_sources as select distinct source_id from slow_calls;
        create view busy as select source, call_count from top_communication_pairs;
        create materialized view daily as
            select date_trunc('day', t.timestamp) as day, count(*) as calls
            from communication_telemetry t join unified_registry r on r.entity_id = t.source_id group by 1;
        create unique index daily_day on daily (day);
        create table contracts (planner uuid references unified_registry (id), cost numeric);
        """,
        f"insert into contracts values ('{ENTITY}', 5)",
    )
    daily = rows_of(empty_database_url, "select * from daily order by day")
    told = adopt(empty_database_url)
    assert [line for line in told if "retention_days" not in line] == []
    assert rows_of(empty_database_url, "select id from slow_calls") == [{"id": ROW}]
    assert rows_of(empty_database_url, "select * from team.slow_sources") == [{"source_id": "planner"}]
    assert rows_of(empty_database_url, "select * from daily order by day") == daily
    with psycopg.connect(empty_database_url) as connection:
        connection.execute("select record_mcp_telemetry('late', 'files', 'read', 'success', 2000)")
        assert ("late",) in connection.execute("select source_id from slow_calls").fetchall()
        connection.execute("refresh materialized view concurrently daily")
        facts = connection.execute(
            "select obj_description('slow_calls'::regclass), col_description('slow_calls'::regclass, 2), "
            "(select reloptions from pg_class where relname = 'slow_calls'), "
            "(select confrelid::regclass::text from pg_constraint where conrelid = 'contracts'::regclass), "
            "(select text from notes), (select count(*) from teams), (select count(*) from mcps), "
            "to_regclass('daily_day') is not null"
        ).fetchone()
    assert facts == ("ours", "who", ["security_barrier=true"], "unified_registry", "mine", 2, 1, True)


def test_what_cannot_move_keeps_the_original_table_and_is_named(empty_database_url: str) -> None:
    """A foreign key on a call's id has nothing to point at in a partitioned table: better two copies than none."""
    make(
        empty_database_url,
        DATA,
        "create table reviews (call uuid references communication_telemetry (id))",
        f"insert into reviews values ('{ROW}')",
        "create function noisy() returns trigger language plpgsql as 'begin return new; end'",
        "create trigger loud after insert on communication_telemetry for each row execute function noisy()",
    )
    told = [line for line in adopt(empty_database_url) if "retention_days" not in line]
    trigger = (
        "not carried over to the new communication_telemetry: trigger: CREATE TRIGGER loud AFTER INSERT ON "
        "communication_telemetry FOR EACH ROW EXECUTE FUNCTION noisy()"
    )
    stays = (
        "public.original_communication_telemetry stays, and all of it is in communication_telemetry too: "
        'there is no unique constraint matching given keys for referenced table "communication_telemetry"'
    )
    assert told == [trigger, stays]
    counts = rows_of(
        empty_database_url,
        "select (select count(*) from original_communication_telemetry) as old, "
        "(select count(*) from communication_telemetry) as new, (select count(*) from reviews) as reviews",
    )
    assert counts == [{"old": 62, "new": 62, "reviews": 1}]
    assert adopt(empty_database_url) == []


def test_view_the_new_columns_do_not_suit_stays_on_the_original(empty_database_url: str) -> None:
    """workflow_id is text now: a comparison with a uuid is an error in the new table."""
    make(
        empty_database_url,
        DATA,
        f"create view mine as select id from communication_telemetry where workflow_id = '{WORKFLOW}'::uuid",
    )
    told = [line for line in adopt(empty_database_url) if "retention_days" not in line]
    views, table = told
    assert views == (
        "views on the original tables cannot move to the new ones (operator does not exist: text = uuid): "
        "they stay and read the original rows"
    )
    assert table.startswith("public.original_communication_telemetry stays, and all of it is in communication_")
    assert "view mine depends on table original_communication_telemetry" in table
    assert rows_of(empty_database_url, "select id from mine") == [{"id": ROW}]
