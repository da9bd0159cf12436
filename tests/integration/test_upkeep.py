"""The upkeep: done by whoever comes first when nobody schedules it, in nobody's way, and by pg_cron where it is."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from asking import rows
from elf_automations.storage import migrate as runner
from elf_automations.storage.writer import PostgresWriter

_OVERDUE = "update telemetry_upkeep set last_run = now() - interval '11 minutes'"


def test_maintenance_is_due_once_however_many_ask(database_url: str):
    together = Barrier(5)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_OVERDUE)

    def ask(_: int) -> bool:
        with psycopg.connect(database_url, autocommit=True) as connection:
            together.wait()
            return bool(connection.execute("select maintain_telemetry_if_due()").fetchall()[0][0])

    with ThreadPoolExecutor(5) as pool:
        assert sorted(pool.map(ask, range(5))) == [False, False, False, False, True]
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_OVERDUE)
        asked = [connection.execute("select maintain_telemetry_if_due()").fetchall()[0][0] for _ in range(2)]
    assert asked == [True, False]


@pytest.mark.parametrize("upkeep", ["select maintain_telemetry()", "select * from evaluate_alerts()"])
def test_upkeep_and_migrations_wait_for_each_other(database_url: str, upkeep: str):
    """Each wants tables the other holds: without the lock of the runner `setup` of a system at work deadlocks."""
    with psycopg.connect(database_url) as migrating, psycopg.connect(database_url) as connection:
        migrating.execute("select pg_advisory_xact_lock(%s)", [runner._LOCK])
        connection.execute("set local lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            connection.execute(upkeep.encode())
        migrating.rollback()
        connection.rollback()
        connection.execute(upkeep.encode())


def test_a_writer_does_not_wait_for_a_migration_to_do_the_upkeep(database_url: str):
    """It would stand still for as long as the migration runs; the upkeep is due again later."""
    with psycopg.connect(database_url) as migrating, psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_OVERDUE)
        migrating.execute("select pg_advisory_xact_lock(%s)", [runner._LOCK])
        assert connection.execute("select maintain_telemetry_if_due()").fetchall() == [(False,)]
        migrating.rollback()
        assert connection.execute("select maintain_telemetry_if_due()").fetchall() == [(True,)]


def test_maintenance_that_fails_says_why_and_harms_no_writer(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("delete from telemetry_settings where name = 'retention_days'")
        connection.execute(_OVERDUE)
        with _writer(database_url) as writer:
            writer.settle(datetime.now(UTC))
        noted = "select task, last_error from telemetry_upkeep"
        expected = ("maintain_telemetry", "telemetry_settings has no row 'retention_days'")
        assert connection.execute(noted).fetchall() == [expected]
        assert connection.execute("select maintain_telemetry_if_due()").fetchall() == [(False,)]
        connection.execute("insert into telemetry_settings values ('retention_days', 30, 'days', '')")
        connection.execute("select maintain_telemetry()")
        assert connection.execute(noted).fetchall() == [("maintain_telemetry", None)]


def test_who_writes_does_the_upkeep_nobody_schedules(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as connection, _writer(database_url) as writer:
        connection.execute(_OVERDUE)
        writer.settle(datetime.now(UTC))
        recently = "select last_run > now() - interval '1 minute', last_error from telemetry_upkeep"
        assert connection.execute(recently).fetchall() == [(True, None)]


@pytest.mark.parametrize(
    "without",
    [
        "revoke execute on function maintain_telemetry_if_due(interval) from public, elf_scribe",
        "drop function maintain_telemetry_if_due(interval)",
    ],
)
def test_a_writer_that_may_not_do_upkeep_settles_all_the_same(direct_url: str, without: str):
    with psycopg.connect(direct_url, autocommit=True) as connection:
        connection.execute("drop role if exists elf_scribe")
        connection.execute("create role elf_scribe")
        connection.execute(_OVERDUE)
        try:
            connection.execute(without.encode())
            connection.execute("grant execute on function settle_communications(timestamptz) to elf_scribe")
            with _writer(direct_url, role="elf_scribe") as writer:
                writer.settle(datetime.now(UTC))
            overdue = "select last_run < now() - interval '10 minutes' from telemetry_upkeep"
            assert connection.execute(overdue).fetchall() == [(True,)]
        finally:
            connection.execute("drop owned by elf_scribe")
            connection.execute("drop role elf_scribe")


@contextmanager
def _writer(url: str, role: str | None = None) -> Iterator[PostgresWriter]:
    writer = PostgresWriter(url if role is None else make_conninfo(url, options=f"-c role={role}"))
    try:
        yield writer
    finally:
        writer.close()


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A transaction that is taken back."""
    with psycopg.connect(database_url) as opened:
        yield opened
        opened.rollback()


def test_without_pg_cron_nothing_is_scheduled(connection: psycopg.Connection[Any]):
    assert rows(connection, "select schedule_telemetry_maintenance()") == [(False,)]


def test_pg_cron_is_given_the_upkeep_once(connection: psycopg.Connection[Any]):
    """A table stands in for cron.job, keyed by name and user as in pg_cron."""
    connection.execute("""
        create schema cron;
        create table cron.job (jobname text primary key, schedule text, command text);
        create function cron.schedule(job_name text, schedule text, command text) returns bigint language sql as $$
            insert into cron.job values ($1, $2, $3)
            on conflict (jobname) do update set schedule = excluded.schedule, command = excluded.command;
            select 1::bigint;
        $$
    """)
    assert rows(connection, "select schedule_telemetry_maintenance(), schedule_telemetry_maintenance()") == [
        (True, True)
    ]
    jobs = rows(connection, "select schedule, command from cron.job order by jobname")
    assert jobs == [
        ("* * * * *", "select public.evaluate_alerts()"),
        ("*/10 * * * *", "select public.maintain_telemetry()"),
    ]
    for _, command in jobs:
        connection.execute(command.encode())


def test_pg_cron_for_others_only_is_as_if_it_were_not_there(connection: psycopg.Connection[Any]):
    connection.execute("""
        create schema cron;
        create function cron.schedule(job_name text, schedule text, command text) returns bigint language plpgsql as
        $$ begin raise insufficient_privilege; end $$
    """)
    assert rows(connection, "select schedule_telemetry_maintenance()") == [(False,)]
