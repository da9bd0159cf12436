"""The checks over a database connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from elf_automations.doctor import probe
from elf_automations.doctor.checks import Check, found
from elf_automations.errors import ElfTelemetryError, StorageRefusedError
from elf_automations.storage.connection import connect, shown, translated
from elf_automations.storage.migrate import pending
from elf_automations.storage.sql_files import migrations
from elf_automations.storage.target import PostgresTarget

_OLDEST_SERVER: Final = 150_000
_UPKEEP_EVERY: Final = timedelta(days=1)
_MAINTAIN: Final = "run `elf-telemetry maintain` at least once a day (pg_cron, cron, or --every)"

_THERE: Final = "SELECT to_regclass('public.communication_telemetry') IS NOT NULL"
_PARTITIONS: Final = r"""
SELECT max(substring(pg_get_expr(part.relpartbound, part.oid) FROM $$TO \('([^']+)'\)$$)::timestamptz)
FROM pg_inherits
INNER JOIN pg_class AS part ON part.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = 'public.communication_telemetry'::regclass
"""
_UPKEEP: Final = "SELECT last_run, last_error FROM telemetry_upkeep WHERE task = 'maintain_telemetry'"
_GAPS: Final = "SELECT gap_type, count(*) FROM check_registration_gaps() GROUP BY gap_type ORDER BY gap_type"
_READ_BACK: Final = "SELECT counted FROM communication_telemetry WHERE timestamp = %s AND id = %s"
_REMOVE: Final = "DELETE FROM communication_telemetry WHERE timestamp = %s AND id = %s AND NOT counted"


def examine_database(target: PostgresTarget, *, write: bool) -> list[Check]:
    """Return what is to say of the database at `target`; with `write`, also whether a row arrives."""
    started = time.monotonic()
    try:
        connection = connect(target.url)
    except ElfTelemetryError as error:
        return [found("database", error)]
    with connection:
        took = (time.monotonic() - started) * 1000
        server = connection.info.server_version
        checks = [
            Check("database", "ok", f"{shown(target.url)} answers in {took:.0f} ms, PostgreSQL {server // 10000}")
        ]
        if server < _OLDEST_SERVER:
            checks = [
                Check("database", "finding", f"PostgreSQL {server // 10000} is too old", "use PostgreSQL 15 or newer")
            ]
        schema = _safely("schema", _schema, connection, target)
        checks.append(schema)
        if schema.verdict != "finding":
            if write:
                checks.append(_safely("write", _write, connection, target))
            checks.append(_safely("partitions", _partitions, connection, target))
            checks.append(_safely("upkeep", _upkeep, connection, target))
            checks.append(_safely("registry", _gaps, connection, target))
    return checks


def _safely(name: str, look: Callable[[Any, PostgresTarget], Check], connection: Any, target: PostgresTarget) -> Check:
    try:
        return look(connection, target)
    except ElfTelemetryError as error:
        return found(name, error)


def _schema(connection: Any, target: PostgresTarget) -> Check:
    try:
        due = pending(target.url)
        ((there,),) = _rows(connection, target.url, _THERE)
    except StorageRefusedError:
        return Check("schema", "note", "this user may not see which migrations are applied")
    if there and len(due) == len(migrations()):
        # Not even the first is listed, yet its tables are there: the rows of the ledger are hidden from this user.
        return Check("schema", "note", "this user may not see which migrations are applied")
    if due:
        says = f"{len(due)} migrations are due, the first is {due[0]}"
        return Check("schema", "finding", says, "run `elf-telemetry setup`")
    return Check("schema", "ok", "every migration of this release is applied")


def _rows(connection: Any, url: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    with translated(url):
        return connection.execute(query, parameters or None).fetchall()


def _write(connection: Any, target: PostgresTarget) -> Check:
    sent = probe.send(target)
    if sent.problem:
        return found("write", sent.problem, "a span does not arrive: ")
    took = f"{sent.seconds * 1000:.0f} ms"
    try:
        row = _rows(connection, target.url, _READ_BACK, sent.timestamp, sent.id)
    except ElfTelemetryError as error:
        return Check(
            "write", "note", f"a span was stored in {took}, not counted; this user may not read it back: {error}"
        )
    if row != [(False,)]:
        return Check("write", "finding", "a span was stored and cannot be read back", "does a row policy hide it?")
    try:
        with translated(target.url):
            connection.execute(_REMOVE, (sent.timestamp, sent.id))
    except ElfTelemetryError:
        return Check("write", "ok", f"a span was stored and read back in {took}; its row stays, not counted")
    return Check("write", "ok", f"a span was stored and read back in {took}; its row is removed again")


def _partitions(connection: Any, target: PostgresTarget) -> Check:
    ((until,),) = _rows(connection, target.url, _PARTITIONS)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    if until is None or until < tomorrow:
        reach = f"until {until:%Y-%m-%d}" if until else "for no day"
        return Check(
            "partitions", "finding", f"partitions are made {reach}: new rows go to the slow DEFAULT", _MAINTAIN
        )
    return Check("partitions", "ok", f"days are prepared until {until:%Y-%m-%d}")


def _upkeep(connection: Any, target: PostgresTarget) -> Check:
    ran = _rows(connection, target.url, _UPKEEP)
    if not ran:
        return Check("upkeep", "note", f"upkeep never ran here; {_MAINTAIN}")
    ((last_run, last_error),) = ran
    if last_error:
        return Check(
            "upkeep",
            "finding",
            f"upkeep failed at {last_run:%Y-%m-%d %H:%M}: {last_error}",
            "run `elf-telemetry maintain`",
        )
    if last_run < datetime.now(UTC) - _UPKEEP_EVERY:
        return Check("upkeep", "finding", f"upkeep last ran at {last_run:%Y-%m-%d %H:%M}", _MAINTAIN)
    return Check("upkeep", "ok", f"upkeep ran at {last_run:%Y-%m-%d %H:%M}")


def _gaps(connection: Any, target: PostgresTarget) -> Check:
    return gaps_check({gap: int(count) for gap, count in _rows(connection, target.url, _GAPS)})


def gaps_check(counts: dict[str, int]) -> Check:
    """Return what is to say of registration gaps, given their number by type."""
    if not counts:
        return Check("registry", "ok", "no registration gaps")
    listed = ", ".join(f"{count} {gap}" for gap, count in sorted(counts.items()))
    mend = "`elf-telemetry gaps` names them: register them, or put lifecycle() around what makes them"
    return Check("registry", "finding", f"registration gaps: {listed}", mend)
