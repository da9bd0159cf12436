"""Bring a database to the schema of this package: ordered files, each applied once, in one transaction."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from elf_automations.errors import MigrationError
from elf_automations.storage.connection import connect, shown, translated
from elf_automations.storage.sql_files import Migration, migrations, sql_text

_LOCK: Final = 0x656C662D73716C  # "elf-sql": the key of the advisory lock
_PREPARE: Final = """
set local search_path = public, pg_temp;
set local client_min_messages = warning;
set local statement_timeout = 0;
set local lock_timeout = 0;
select pg_advisory_xact_lock({key});
set local lock_timeout = {lock_timeout_ms};
"""
# Whoever waits for a table lock has all later writers behind it, so it waits shortly and comes again.
_LOCK_TIMEOUT_MS: Final = 3000
_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
_IN_THE_WAY: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_OLDEST_TRANSACTION: Final = """
select format(
    'the oldest open transaction is %s s old, pid %s%s', round(extract(epoch from now() - xact_start)), pid,
    coalesce(', ' || nullif(application_name, ''), '')
)
from pg_stat_activity
where datname = current_database() and pid <> pg_backend_pid() and xact_start is not null
order by xact_start
limit 1
"""


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a run did: names applied now, in order, and how many were there before."""

    applied: tuple[str, ...]
    present: int


def migrate(
    url: str, *, on_applied: Callable[[str], None] | None = None, on_warning: Callable[[str], None] | None = None
) -> MigrationReport:
    """Apply what is due to the database at `url`; a second run does nothing, two runs at once are safe.

    Writers may go on meanwhile: a migration waits 3 s at most for a lock they hold, and is tried again up to six
    times within half a minute, also when it ran into a deadlock with them.

    `on_applied` is called with the name of each migration after its commit, `on_warning` with what a migration
    could not carry over and wants a person to know, and with why one is tried again. Raises MigrationError when a file
    was changed after it was applied, when the database is newer than this package, or when a migration fails
    (nothing of that file is kept then); StorageUnavailableError when the database does not answer.
    """
    applied: list[str] = []
    warn = on_warning or _unheard
    with connect(url) as connection:
        connection.add_notice_handler(lambda notice: warn(notice.message_primary or ""))
        _patiently(connection, url, "the ledger of migrations", warn, sql_text("ledger.sql"))
        for migration in _due(url, _recorded(connection)):
            record = (migration.name, migration.sha256)
            if _patiently(connection, url, f"migration {migration.name}", warn, migration.sql, record):
                applied.append(migration.name)
                if on_applied:
                    on_applied(migration.name)
        if applied:
            connection.execute("notify pgrst, 'reload schema'")
    return MigrationReport(tuple(applied), len(migrations()) - len(applied))


def pending(url: str) -> tuple[str, ...]:
    """Return the names of the migrations that are due at `url`; changes nothing. Raises as `migrate` does."""
    with translated(url), connect(url) as connection:
        return tuple(migration.name for migration in _due(url, _recorded(connection)))


def _unheard(_: str) -> None:
    pass


def _recorded(connection: psycopg.Connection[Any]) -> Mapping[str, str]:
    row = connection.execute("select to_regclass('public.elf_schema_migrations') is not null").fetchone()
    if not row or not row[0]:
        return {}
    return dict(connection.execute("select name, sha256 from public.elf_schema_migrations").fetchall())


def _due(url: str, recorded: Mapping[str, str]) -> tuple[Migration, ...]:
    known = {migration.name: migration for migration in migrations()}
    newer = sorted(recorded.keys() - known.keys())
    if newer:
        message = (
            f"the database {shown(url)} has migration {newer[-1]}, which this elf-automations does not know: "
            "upgrade the package"
        )
        raise MigrationError(message)
    for name, sha256 in sorted(recorded.items()):
        if known[name].sha256 != sha256:
            message = (
                f"migration {name} was changed after it was applied to {shown(url)}: "
                "restore the file as released, and put the change into a new migration"
            )
            raise MigrationError(message)
    return tuple(migration for migration in migrations() if migration.name not in recorded)


def _patiently(
    connection: psycopg.Connection[Any],
    url: str,
    what: str,
    warn: Callable[[str], None],
    sql: str,
    record: tuple[str, str] | None = None,
) -> bool:
    """Apply `sql` in spite of live writers; False when another runner had done it meanwhile."""
    for pause in (*_PAUSES_SECONDS, None):
        try:
            return _apply(connection, url, what, sql, record)
        except MigrationError as error:
            if not isinstance(error.__cause__, _IN_THE_WAY):
                raise
            if pause is None:
                raise _gave_up(connection, url, what, error.__cause__) from error.__cause__
            warn(f"{what} waits for others that use its tables ({_cause(error.__cause__)}): trying again")
            time.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311  (keeps two runners apart, protects nothing)
    raise AssertionError  # the last attempt returns or raises


def _apply(connection: psycopg.Connection[Any], url: str, what: str, sql: str, record: tuple[str, str] | None) -> bool:
    try:
        with connection.transaction():
            connection.execute(_PREPARE.format(key=_LOCK, lock_timeout_ms=_LOCK_TIMEOUT_MS).encode())
            if record:
                query = "select from elf_schema_migrations where name = %s"
                if connection.execute(query, record[:1]).fetchone() is not None:
                    return False
            connection.execute(sql.encode())
            if record:
                connection.execute("insert into elf_schema_migrations (name, sha256) values (%s, %s)", record)
    except psycopg.Error as error:
        message = f"{what} failed on {shown(url)}, and nothing of it was kept: {_cause(error)}"
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            message += "; run setup as the owner of the database"
        raise MigrationError(message) from error
    return True


def _gave_up(connection: psycopg.Connection[Any], url: str, what: str, cause: psycopg.Error) -> MigrationError:
    held = connection.execute(_OLDEST_TRANSACTION).fetchone()
    return MigrationError(
        f"{what} found its tables in use on {shown(url)} {len(_PAUSES_SECONDS) + 1} times, and nothing of it was kept: "
        f"{_cause(cause)}{f'; {held[0]}' if held else ''}; run setup again when less is going on"
    )


def _cause(error: psycopg.Error) -> str:
    return error.diag.message_primary or str(error)
