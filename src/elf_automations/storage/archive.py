"""Old days of `communication_telemetry` as Parquet files, and letting go of the days that are safely in one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from elf_automations.errors import ConfigurationError, StorageRefusedError, StorageUnavailableError
from elf_automations.storage.connection import connect, translated
from elf_automations.storage.parquet import Column, read_archived, require_parquet, write_parquet

_BATCH_ROWS: Final = 10_000
_LOCK: Final = 0x656C662D617263  # "elf-arc": the key of the advisory lock
_SESSION: Final = "set local timezone = 'UTC'; set local datestyle = 'ISO'; set local extra_float_digits = 1;"
_READ: Final = f"set transaction isolation level repeatable read, read only; {_SESSION}"
_DROP: Final = f"set local lock_timeout = '5s'; {_SESSION}"
_COLUMNS: Final = """
select
    attribute.attname,
    format_type(attribute.atttypid, null),
    case when attribute.atttypid = 'numeric'::regtype and attribute.atttypmod > 0
        then ((attribute.atttypmod - 4) >> 16) & 65535 else 0 end,
    case when attribute.atttypid = 'numeric'::regtype and attribute.atttypmod > 0
        then (attribute.atttypmod - 4) & 2047 else 0 end
from pg_catalog.pg_attribute as attribute
where attribute.attrelid = 'public.communication_telemetry'::regclass
    and attribute.attnum > 0 and not attribute.attisdropped
order by attribute.attnum
"""
_DAYS: Final = """
select distinct (call.timestamp at time zone 'UTC')::date
from public.communication_telemetry as call
where call.timestamp < %s::date::timestamp at time zone 'UTC' and call.timestamp >= '0001-01-02'
order by 1
"""
_DIGEST: Final = """
select count(*), coalesce(sum(hashtextextended(call::text, 0)::numeric), 0)::text
from public.communication_telemetry as call
where call.timestamp >= %(since)s and call.timestamp < %(until)s
"""
_HOLDERS: Final = """
select distinct part.relname, part.relname = public.telemetry_partition_name(%(day)s)
from public.communication_telemetry as call
inner join pg_catalog.pg_class as part on call.tableoid = part.oid
where call.timestamp >= %(since)s and call.timestamp < %(until)s
"""


@dataclass(frozen=True, slots=True)
class ArchivedDay:
    """One day: its calls in `file`, whether this run wrote it, whether this run dropped the day from the database."""

    day: date
    rows: int
    file: Path
    written: bool
    dropped: bool


def today() -> date:
    """Return the current day, UTC: partitions hold UTC days."""
    return datetime.now(UTC).date()


def days_before(url: str, day: date) -> tuple[date, ...]:
    """Return the days before `day` that have calls, oldest first, wherever they are kept."""
    with connect(url) as connection, translated(url):
        return tuple(found for (found,) in connection.execute(_DAYS, [day]).fetchall())


def archive_day(url: str, day: date, folder: Path, *, drop: bool = False) -> ArchivedDay | None:
    """Write the calls of `day` (UTC) to `folder`/communication_telemetry_YYYY-MM-DD.parquet.

    Returns None when there is neither a call nor a file. A file that holds exactly these rows is left; one that
    holds others is never overwritten. With `drop` the day leaves the database, after the file was read back, and
    only if its rows are still those of the file; the rollups keep what they counted. Raises ConfigurationError for
    a day that is not over or without pyarrow, StorageRefusedError for another file in the way or an unwritable
    folder, StorageUnavailableError when rows of the day changed meanwhile or another run is at work.
    """
    if day >= today():
        message = f"{day} is not over (days are UTC): its calls are still being written; archive a day before {today()}"
        raise ConfigurationError(message)
    require_parquet()
    file = folder / f"communication_telemetry_{day}.parquet"
    with connect(url) as connection, translated(url):
        rows, digest, written = _write(connection, day, file)
        if not rows:
            return (
                ArchivedDay(day, read_archived(file).rows, file, written=False, dropped=False)
                if file.exists()
                else None
            )
        _verify(file, rows, digest)
        if drop:
            _drop(connection, day, file, (rows, digest))
    return ArchivedDay(day, rows, file, written, dropped=drop)


def _write(connection: psycopg.Connection[Any], day: date, file: Path) -> tuple[int, str, bool]:
    """Write the file unless it is there; return rows and digest of the day, and whether it was written."""
    with connection.transaction():
        connection.execute(_READ.encode())
        lock = connection.execute("select pg_try_advisory_xact_lock(%s)", [_LOCK]).fetchone()
        if not lock or not lock[0]:
            message = "another `elf-telemetry archive` is at work on this database: wait until it is done"
            raise StorageUnavailableError(message)
        rows, digest = _digest(connection, day)
        if not rows or file.exists():
            return rows, digest, False
        columns = tuple(Column(*column) for column in connection.execute(_COLUMNS.encode()).fetchall())
        _make(file.parent)
        write_parquet(file, columns, _batches(connection, day, columns), digest)
    return rows, digest, True


def _batches(
    connection: psycopg.Connection[Any], day: date, columns: tuple[Column, ...]
) -> Iterator[list[tuple[Any, ...]]]:
    values = sql.SQL(", ").join(
        sql.SQL(column.selected).format(sql.Identifier(column.name))  # pyright: ignore[reportArgumentType]
        for column in columns
    )
    query = sql.SQL(
        "select {} from public.communication_telemetry where timestamp >= %(since)s and timestamp < %(until)s "
        "order by timestamp, id"
    ).format(values)
    with connection.cursor("elf_archive", binary=True) as cursor:
        cursor.execute(query, _span(day))
        while rows := cursor.fetchmany(_BATCH_ROWS):
            yield rows


def _verify(file: Path, rows: int, digest: str) -> None:
    held = read_archived(file)
    if (held.rows, held.digest) != (rows, digest):
        message = (
            f"{file} is there with other rows ({held.rows}, the database has {rows}): "
            "move it away or choose another folder; nothing was dropped"
        )
        raise StorageRefusedError(message)


def _drop(connection: psycopg.Connection[Any], day: date, file: Path, archived: tuple[int, str]) -> None:
    # Upkeep and writers lock the whole table first as well: nothing comes between looking and dropping.
    with connection.transaction():
        connection.execute(_DROP.encode())
        connection.execute("lock table only public.communication_telemetry in share row exclusive mode")
        if _digest(connection, day) != archived:
            message = f"calls of {day} came or changed while {file} was written: move it away, then archive again"
            raise StorageUnavailableError(message)
        span = _span(day)
        for name, is_day in connection.execute(_HOLDERS.encode(), {**span, "day": day}).fetchall():
            part = sql.Identifier("public", name)
            if is_day:
                connection.execute(sql.SQL("drop table {}").format(part))
                continue
            # By the name of the partition, as all upkeep: the rollups keep what they counted.
            remove = sql.SQL("delete from {} where timestamp >= %(since)s and timestamp < %(until)s").format(part)
            connection.execute(remove, span)
            if name == "communication_telemetry_adopted":
                _drop_if_empty(connection, part)


def _drop_if_empty(connection: psycopg.Connection[Any], part: sql.Identifier) -> None:
    left = connection.execute(sql.SQL("select exists (select from {})").format(part)).fetchone()
    if left and not left[0]:
        connection.execute(sql.SQL("drop table {}").format(part))


def _digest(connection: psycopg.Connection[Any], day: date) -> tuple[int, str]:
    """Return the number of the day's rows and a number that is another one when any value of any row is."""
    row = connection.execute(_DIGEST.encode(), _span(day)).fetchone()
    return (row[0], row[1]) if row else (0, "0")


def _span(day: date) -> dict[str, datetime]:
    since = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return {"since": since, "until": since + timedelta(days=1)}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make the folder {folder}: {error.strerror}; choose another with --to"
        raise ConfigurationError(message) from None
