"""Migrations: applied once, in order, safely; a changed or unknown one is refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from elf_automations.errors import ConfigurationError, MigrationError, StorageRefusedError, StorageUnavailableError
from elf_automations.storage import migrate as runner
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.migrate import MigrationReport, migrate, pending
from elf_automations.storage.sql_files import migration, migrations
from elf_automations.storage.writer import PostgresWriter
from spans import eventually, row

_NAMES = tuple(known.name for known in migrations())


def test_empty_database_is_brought_up_to_date_once(empty_database_url: str) -> None:
    """`setup` on a fresh machine, then again: the second run changes nothing."""
    told: list[str] = []
    assert pending(empty_database_url) == _NAMES
    assert migrate(empty_database_url, on_applied=told.append) == MigrationReport(_NAMES, present=0)
    assert tuple(told) == _NAMES
    assert pending(empty_database_url) == ()
    assert migrate(empty_database_url) == MigrationReport((), present=len(_NAMES))


def test_pending_changes_nothing(empty_database_url: str) -> None:
    """`setup --check` must be safe against any database."""
    pending(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        made = connection.execute("select relname from pg_class where relnamespace = 'public'::regnamespace").fetchall()
    assert made == []


def test_file_changed_after_it_was_applied_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update elf_schema_migrations set sha256 = 'other' where name like '0004_%'")
    expected = (
        f"migration 0004_telemetry_partitions was changed after it was applied to {shown(database_url)}: "
        "restore the file as released, and put the change into a new migration"
    )
    for run in (migrate, pending):
        with pytest.raises(MigrationError) as refused:
            run(database_url)
        assert str(refused.value) == expected


def test_database_newer_than_the_package_is_refused(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("insert into elf_schema_migrations (name, sha256) values ('9999_later', 'x')")
    with pytest.raises(MigrationError, match=r"has migration 9999_later, which .* does not know: upgrade the package"):
        migrate(database_url)


def test_runners_at_the_same_time_apply_each_migration_once(empty_database_url: str) -> None:
    """Several replicas of a service start together and all run setup."""
    together = Barrier(4)

    def run(_: int) -> MigrationReport:
        together.wait(timeout=30)
        return migrate(empty_database_url)

    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(run, range(4)))
    assert sorted(name for report in reports for name in report.applied) == sorted(_NAMES)


def test_failing_migration_leaves_nothing_and_keeps_the_earlier_ones(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = migration("0002_broken", "create table half (id int); select 1 / 0;")
    monkeypatch.setattr(runner, "migrations", lambda: (migration("0001_fine", "create table fine (id int);"), broken))
    with pytest.raises(
        MigrationError, match=r"^migration 0002_broken failed .* nothing of it was kept: division by zero"
    ):
        migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as connection:
        tables = connection.execute("select to_regclass('fine')::text, to_regclass('half')::text").fetchone()
        ledger = connection.execute("select name from elf_schema_migrations").fetchall()
    assert tables == ("fine", None)
    assert ledger == [("0001_fine",)]


@pytest.mark.parametrize(
    ("url", "kind", "line"),
    [
        (
            "mysql://root:hunter2@db/x",
            ConfigurationError,
            (
                "the database URL mysql://…@db/x is not a PostgreSQL URL: "
                "set ELF_DATABASE_URL=postgresql://user:password@host:5432/database"
            ),
        ),
        (
            "postgresql://elf:hunter2@127.0.0.1:1/telemetry",
            StorageUnavailableError,
            "cannot reach the database at postgresql://elf@127.0.0.1:1/telemetry: ",
        ),
    ],
)
def test_unusable_url_is_one_line_without_password(url: str, kind: type[Exception], line: str) -> None:
    with pytest.raises(kind) as refused:
        connect(url)
    assert str(refused.value).startswith(line)
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unknown_database_is_refused_not_unavailable(postgres_url: str) -> None:
    """Waiting does not help against a wrong name, so the exporter must not retry for ever."""
    with pytest.raises(StorageRefusedError, match=r'database "nowhere" does not exist; check ELF_DATABASE_URL$'):
        connect(postgres_url.replace("/postgres?", "/nowhere?"))


def test_a_user_without_rights_is_told_so(direct_url: str) -> None:
    url = make_conninfo(direct_url, options="-c role=pg_signal_backend")
    with pytest.raises(StorageRefusedError, match="refuses this user: permission denied for table elf_schema"):
        pending(url)
    with pytest.raises(MigrationError, match=r"permission denied for .*; run setup as the owner of the database$"):
        migrate(url)


_WAITING = """
select count(*) from pg_locks join pg_class on pg_class.oid = relation
where not granted and mode = 'AccessExclusiveLock' and relname = %s
"""
_BOTH = """
alter table communication_telemetry add column migrated integer;
alter table unified_registry add column migrated integer;
"""


@contextmanager
def _migrating(url: str, monkeypatch: pytest.MonkeyPatch, sql: str, told: list[str]) -> Iterator[Event]:
    """A `setup` with one more migration on its way; the event is set when it is over. Its result is told last."""
    monkeypatch.setattr(runner, "migrations", lambda: (*migrations(), migration("9000_more", sql)))
    over = Event()

    def run() -> None:
        try:
            told.append(f"applied {migrate(url, on_warning=told.append).applied}")
        except MigrationError as error:
            told.append(str(error))
        finally:
            over.set()

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        yield over
        done.result(60)


def _store(writer: PostgresWriter) -> None:
    now = datetime.now(UTC)
    assert writer.write([row(1, id=uuid4(), timestamp=now)], [], retry=False).stored == 1


def test_a_migration_that_waits_lets_writers_through(
    direct_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dump reads the table for an hour: behind a patient ALTER TABLE all telemetry would stand still."""
    monkeypatch.setattr(runner, "_LOCK_TIMEOUT_MS", 300)
    monkeypatch.setattr(runner, "_PAUSES_SECONDS", (0.05,) * 200)
    told: list[str] = []
    writer = PostgresWriter(database_url)
    try:
        _store(writer)
        with (
            psycopg.connect(database_url) as dump,
            psycopg.connect(direct_url, autocommit=True) as watching,
        ):
            dump.execute("select count(*) from communication_telemetry")
            with _migrating(database_url, monkeypatch, _BOTH, told) as over:
                for _ in range(3):
                    eventually(lambda: watching.execute(_WAITING, ["communication_telemetry"]).fetchone() != (0,))
                    _store(writer)
                assert not over.is_set()
                dump.rollback()
    finally:
        writer.close()
    assert told[0] == (
        "migration 9000_more waits for others that use its tables "
        "(canceling statement due to lock timeout): trying again"
    )
    assert told[-1] == "applied ('9000_more',)"


def test_a_table_that_is_never_free_is_said_to_be_in_use(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(runner, "_PAUSES_SECONDS", (0.01, 0.01))
    told: list[str] = []
    with psycopg.connect(database_url, application_name="nightly-dump") as dump:
        dump.execute("select count(*) from communication_telemetry")
        pid = dump.execute("select pg_backend_pid()").fetchone()
        with _migrating(database_url, monkeypatch, _BOTH, told) as over:
            assert over.wait(60)
        dump.rollback()
    assert pid is not None
    assert told[-1] == (
        f"migration 9000_more found its tables in use on {shown(database_url)} 3 times, and nothing of it was kept: "
        f"canceling statement due to lock timeout; the oldest open transaction is 0 s old, pid {pid[0]}, nightly-dump; "
        "run setup again when less is going on"
    )
    with psycopg.connect(database_url) as connection:
        assert connection.execute("select count(*) from elf_schema_migrations where name = '9000_more'").fetchone() == (
            0,
        )


def test_a_migration_that_runs_into_a_deadlock_is_tried_again(
    direct_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer holds the registry and comes for the calls, the migration the other way round."""
    told: list[str] = []
    with psycopg.connect(database_url) as writer, psycopg.connect(direct_url, autocommit=True) as watching:
        writer.execute("select register_entity('sales', 'team', 'Sales', 'factory')")
        with _migrating(database_url, monkeypatch, _BOTH, told):
            eventually(lambda: watching.execute(_WAITING, ["unified_registry"]).fetchone() != (0,))
            writer.execute("select count(*) from communication_telemetry")
            writer.commit()
    assert told == [
        "migration 9000_more waits for others that use its tables (deadlock detected): trying again",
        "applied ('9000_more',)",
    ]


def test_writers_and_settling_go_on_while_migrations_are_applied(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`setup` of a new release on a system at work: nothing written is lost, nobody fails, and it comes to its end."""
    several = [migration(f"900{n}_more", _BOTH.replace("migrated", f"migrated_{n}")) for n in range(4)]
    monkeypatch.setattr(runner, "migrations", lambda: (*migrations(), *several))
    monkeypatch.setattr(runner, "_PAUSES_SECONDS", (0.1,) * 60)
    over = Event()

    def write(number: int) -> int:
        writer = PostgresWriter(database_url)
        written = 0
        try:
            while not over.is_set() or written == 0:
                now = datetime.now(UTC)
                sides = {"timestamp": now, "trace_id": uuid4().hex, "status": "success"}
                client = row(1, id=uuid4(), span_id="1" * 16, source_id=f"team-{number}", **sides)
                server = row(1, id=uuid4(), parent_span_id="1" * 16, observed_by="server", **sides)
                assert writer.write([client], [], retry=False).stored == 1
                assert writer.write([server], [], retry=False).stored == 1
                writer.settle(now - timedelta(minutes=1))
                written += 1
        finally:
            writer.close()
        return written

    with ThreadPoolExecutor(3) as pool:
        writing = [pool.submit(write, number) for number in range(3)]
        try:
            applied = migrate(database_url).applied
        finally:
            over.set()
        written = sum(one.result(60) for one in writing)
    assert applied == tuple(one.name for one in several)
    with psycopg.connect(database_url) as connection:
        connection.execute("select settle_communications()")
        counted = "select count(*), count(*) filter (where counted) from communication_telemetry"
        assert connection.execute(counted).fetchone() == (2 * written, written)
