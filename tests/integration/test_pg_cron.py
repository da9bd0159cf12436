"""The upkeep by the real pg_cron, where the session's server has it (`make test-15`)."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from asking import asked
from elf_automations.storage.migrate import migrate
from private_postgres import CRON_DATABASE
from spans import eventually


@pytest.fixture
def cron_url(postgres_url: str) -> Iterator[str]:
    """The one database that may have the extension, with it."""
    name = sql.Identifier(CRON_DATABASE)
    url = postgres_url.replace("/postgres?", f"/{CRON_DATABASE}?")
    with psycopg.connect(postgres_url, autocommit=True) as server:
        server.execute(sql.SQL("create database {} template template0").format(name))
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("create extension pg_cron")
            yield url
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(name))


def test_setup_schedules_the_upkeep_once_and_pg_cron_runs_it(cron_url: str) -> None:
    """Without a daemon of ours: alerts every minute, all the rest every ten."""
    migrate(cron_url)
    assert asked(cron_url, "select schedule_telemetry_maintenance()") == [(True,)]
    jobs = "select jobname, schedule, command, active from cron.job order by jobname"
    assert asked(cron_url, jobs) == [
        ("elf-telemetry-alerts", "* * * * *", "select public.evaluate_alerts()", True),
        ("elf-telemetry-maintain", "*/10 * * * *", "select public.maintain_telemetry()", True),
    ]
    # Its clock ticks once a minute at best; the maintenance is not left to the next full ten.
    asked(cron_url, "select cron.schedule('elf-telemetry-maintain', '* * * * *', 'select public.maintain_telemetry()')")
    ran = (
        "select command, status from cron.job_run_details where status not in ('starting', 'running') order by command"
    )
    eventually(lambda: len(asked(cron_url, ran)) >= 2, within=150)
    assert set(asked(cron_url, ran)) == {
        ("select public.evaluate_alerts()", "succeeded"),
        ("select public.maintain_telemetry()", "succeeded"),
    }


def test_setup_by_somebody_pg_cron_is_not_for_goes_on_without(cron_url: str) -> None:
    """Then writers do the upkeep."""
    with psycopg.connect(cron_url, autocommit=True) as connection:
        connection.execute("drop role if exists elf_no_cron")
        connection.execute("create role elf_no_cron")
        try:
            migrate(cron_url)
            connection.execute("grant execute on function schedule_telemetry_maintenance() to elf_no_cron")
            connection.execute("set role elf_no_cron")
            assert connection.execute("select schedule_telemetry_maintenance()").fetchall() == [(False,)]
            connection.execute("reset role")
        finally:
            connection.execute("drop owned by elf_no_cron")
            connection.execute("drop role elf_no_cron")
