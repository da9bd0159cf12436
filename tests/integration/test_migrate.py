"""Migrations: applied once, in order, safely; a changed or unknown one is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest

from elf_automations.errors import ConfigurationError, MigrationError, StorageRefusedError, StorageUnavailableError
from elf_automations.storage import migrate as runner
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.migrate import MigrationReport, migrate, pending
from elf_automations.storage.sql_files import migration, migrations

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
