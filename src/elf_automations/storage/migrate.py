"""Bring a database to the schema of this package: ordered files, each applied once, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from elf_automations.errors import MigrationError
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.sql_files import Migration, migrations, sql_text

_LOCK: Final = 0x656C662D73716C  # "elf-sql": the key of the advisory lock
_PREPARE: Final = """
set local search_path = public, pg_temp;
set local client_min_messages = warning;
set local statement_timeout = 0;
set local lock_timeout = 0;
select pg_advisory_xact_lock({key});
set local lock_timeout = '30s';
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

    `on_applied` is called with the name of each migration after its commit, `on_warning` with what a migration
    could not carry over and wants a person to know. Raises MigrationError when a file
    was changed after it was applied, when the database is newer than this package, or when a migration fails
    (nothing of that file is kept then); StorageUnavailableError when the database does not answer.
    """
    applied: list[str] = []
    with connect(url) as connection:
        if on_warning:
            connection.add_notice_handler(lambda notice: on_warning(notice.message_primary or ""))
        _apply(connection, url, "the ledger of migrations", sql_text("ledger.sql"))
        for migration in _due(url, _recorded(connection)):
            if _apply_once(connection, url, migration):
                applied.append(migration.name)
                if on_applied:
                    on_applied(migration.name)
        if applied:
            connection.execute("notify pgrst, 'reload schema'")
    return MigrationReport(tuple(applied), len(migrations()) - len(applied))


def pending(url: str) -> tuple[str, ...]:
    """Return the names of the migrations that are due at `url`; changes nothing. Raises as `migrate` does."""
    with connect(url) as connection:
        return tuple(migration.name for migration in _due(url, _recorded(connection)))


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


def _apply_once(connection: psycopg.Connection[Any], url: str, migration: Migration) -> bool:
    """Apply one migration unless another runner did meanwhile; True when this runner did."""
    return _apply(
        connection,
        url,
        f"migration {migration.name}",
        migration.sql,
        record=(migration.name, migration.sha256),
    )


def _apply(
    connection: psycopg.Connection[Any], url: str, what: str, sql: str, record: tuple[str, str] | None = None
) -> bool:
    try:
        with connection.transaction():
            connection.execute(_PREPARE.format(key=_LOCK).encode())
            if record:
                query = "select from elf_schema_migrations where name = %s"
                if connection.execute(query, record[:1]).fetchone() is not None:
                    return False
            connection.execute(sql.encode())
            if record:
                connection.execute("insert into elf_schema_migrations (name, sha256) values (%s, %s)", record)
    except psycopg.Error as error:
        cause = error.diag.message_primary or str(error)
        message = f"{what} failed on {shown(url)}, and nothing of it was kept: {cause}"
        raise MigrationError(message) from error
    return True
