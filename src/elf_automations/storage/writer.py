"""Rows into Postgres: one transaction a batch, each row once however often it is delivered."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeVar
from uuid import UUID

import psycopg

from elf_automations.errors import ElfTelemetryError, StorageUnavailableError
from elf_automations.model import Communication, Entity
from elf_automations.storage.activity import recounted
from elf_automations.storage.columns import json_bytes
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.contract import RejectedRow, WriteResult
from elf_automations.storage.copy_rows import (
    COPY_FROM_ROWS,
    RowKey,
    copy_into_table,
    create_staging,
    insert_json,
    insert_through_staging,
)
from elf_automations.storage.settle_stored import settle_stored
from elf_automations.storage.sqlstate import ROW_ERRORS, classified, is_row_error, row_reason

_T = TypeVar("_T")

# SET LOCAL ends with the transaction: behind a transaction pooler anything longer leaks to other clients.
_LIMITS: Final = "SET LOCAL statement_timeout = '30s'"
_RECORD_ENTITIES: Final = "SELECT record_observed_entities(%s::jsonb)"
# What nobody schedules is done by who writes; a role that may not, or a schema from before it, is no matter.
_UPKEEP: Final = """
DO $$
BEGIN
    PERFORM maintain_telemetry_if_due();
EXCEPTION WHEN insufficient_privilege OR undefined_function THEN
    NULL;
END;
$$
"""
# Takes the right to write, and a database that is no standby, though it writes nothing.
_NO_ROWS: Final = "INSERT INTO communication_telemetry (id) SELECT NULL::uuid WHERE false"
_INGEST: Final = "SELECT ingest_communications(%s::jsonb)"

# Row security forbids COPY to whoever does not bypass it (0A000), and a role may have been granted the functions alone.
_NO_TABLE: Final = (psycopg.errors.FeatureNotSupported, psycopg.errors.InsufficientPrivilege)

_inherited: list[psycopg.Connection[Any]] = []
"""Connections a forked child got from its parent: kept open and untouched, for they are the parent's."""


class PostgresWriter:
    """Writes batches over one connection, opened at first use and again after a failure or a fork.

    `url` is a Postgres URL; direct, session-pooled and transaction-pooled connections serve alike. A role that the
    table is closed to writes through `ingest_communications`, slower and to the same end.
    Use from one thread at a time.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = shown(url)
        self._connection: psycopg.Connection[Any] | None = None
        self._owner = 0
        self._table_is_open = True

    def write(self, rows: Sequence[Communication], entities: Sequence[Entity], *, retry: bool) -> WriteResult:
        """Store a batch and its registry entries in one transaction; see `Writer.write`.

        A row the database refuses is returned in `rejected` and the rest is stored. Activity is added to the
        registry only for rows that were not there before.
        """
        if not rows and not entities:
            return WriteResult()
        return self._run(lambda connection, again: self._write(connection, rows, entities, retry=retry or again))

    def check(self) -> None:
        """Ask whether the database takes rows now, see `Writer.check`."""

        def run(connection: psycopg.Connection[Any], _again: bool) -> None:
            if self._table_is_open:
                with suppress(*_NO_TABLE), connection.transaction():
                    connection.execute(_LIMITS)
                    connection.execute(_NO_ROWS)
                    return
            with connection.transaction():
                connection.execute(_LIMITS)
                connection.execute(_INGEST, ("[]",))

        self._run(run)

    def settle(self, since: datetime, *, wait: bool = True) -> bool:
        """Settle what came, see `Writer.settle`, and do all upkeep when nobody did it for ten minutes.

        `since` matters to a role that may only call `settle_communications`, and to a schema older than 0045.
        """

        def run(connection: psycopg.Connection[Any], _again: bool) -> bool:
            settled = settle_stored(connection, since, wait=wait)
            with connection.transaction():
                connection.execute(_LIMITS)
                connection.execute(_UPKEEP)
            return settled

        return self._run(run)

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._owner == os.getpid():
            connection.close()
        else:
            _inherited.append(connection)

    def _write(
        self,
        connection: psycopg.Connection[Any],
        rows: Sequence[Communication],
        entities: Sequence[Entity],
        *,
        retry: bool,
    ) -> WriteResult:
        if self._table_is_open:
            with suppress(*_NO_TABLE):
                return _write(connection, rows, entities, retry=retry)
        result = _write_by_function(connection, rows, entities)
        self._table_is_open = False
        return result

    def _run(self, work: Callable[[psycopg.Connection[Any], bool], _T]) -> _T:
        """Run `work`; a kept connection that proves dead (idle timeout, restart) is replaced once, unreported."""
        if self._connection is not None and (self._owner != os.getpid() or self._connection.closed):
            self.close()
        kept = self._connection is not None
        try:
            return self._attempt(work, again=False)
        except StorageUnavailableError:
            if not kept or self._connection is not None:
                raise
        return self._attempt(work, again=True)

    def _attempt(self, work: Callable[[psycopg.Connection[Any], bool], _T], *, again: bool) -> _T:
        if self._connection is None:
            self._connection, self._owner = connect(self._url), os.getpid()
        connection = self._connection
        try:
            return work(connection, again)
        except psycopg.Error as error:
            raise self._failed(connection, error) from error
        except BaseException:
            self.close()
            raise

    def _failed(self, connection: psycopg.Connection[Any], error: psycopg.Error) -> ElfTelemetryError:
        idle = connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
        if connection.closed or not idle:
            self.close()
        return classified(error, self._place)


def _write(
    connection: psycopg.Connection[Any],
    rows: Sequence[Communication],
    entities: Sequence[Entity],
    *,
    retry: bool,
) -> WriteResult:
    if len(rows) >= COPY_FROM_ROWS and not retry:
        try:
            with connection.transaction():
                connection.execute(_LIMITS)
                copy_into_table(connection, rows)
                _record(connection, entities)
            return WriteResult(stored=len(rows))
        except ROW_ERRORS as error:
            # Some row is there already or is bad, or some entity is: the careful way finds out which.
            if not is_row_error(error):
                raise
    with connection.transaction():
        connection.execute(_LIMITS)
        return _write_carefully(connection, rows, entities)


def _write_carefully(
    connection: psycopg.Connection[Any], rows: Sequence[Communication], entities: Sequence[Entity]
) -> WriteResult:
    insert = insert_json
    if len(rows) >= COPY_FROM_ROWS:
        create_staging(connection)
        insert = insert_through_staging
    keys: set[RowKey] = set()
    refused = _each_bearable(connection, rows, lambda part: keys.update(insert(connection, part)))
    return _with_entities(connection, rows, entities, keys, refused)


def _write_by_function(
    connection: psycopg.Connection[Any], rows: Sequence[Communication], entities: Sequence[Entity]
) -> WriteResult:
    keys: set[RowKey] = set()
    refused: list[tuple[Communication, str]] = []

    def ingest(part: Sequence[Communication]) -> None:
        found = connection.execute(_INGEST, (json_bytes(part).decode(),)).fetchone()
        answer: dict[str, Any] = found[0] if found else {}
        bad: list[dict[str, Any]] = answer["rejected"]
        refused.extend((part[int(line["index"])], str(line["reason"])) for line in bad)
        # It names the new ones only when some were not: all of them were when nothing is named.
        named: list[str] | None = answer.get("stored_ids")
        new = {row.id for row in part} if named is None else set(map(UUID, named))
        keys.update((row.timestamp, row.id) for row in part if row.id in new)

    with connection.transaction():
        connection.execute(_LIMITS)
        refused += _each_bearable(connection, rows, ingest)
        return _with_entities(connection, rows, entities, keys, refused)


def _with_entities(
    connection: psycopg.Connection[Any],
    rows: Sequence[Communication],
    entities: Sequence[Entity],
    keys: set[RowKey],
    refused: Sequence[tuple[Communication, str]],
) -> WriteResult:
    """Record the entities of a batch of which the rows at `keys` were new, and say what became of it."""
    bad = {id(row) for row, _ in refused}
    # The first of those with one key is what is stored: that one adds its activity.
    stored: dict[RowKey, Communication] = {}
    for row in rows:
        key = (row.timestamp, row.id)
        if key in keys and id(row) not in bad:
            stored.setdefault(key, row)
    active = entities if len(stored) == len(rows) else recounted(entities, stored.values())
    unregistered = _each_bearable(connection, active, lambda part: _record(connection, part))
    return WriteResult(
        stored=len(stored),
        duplicate=len(rows) - len(stored) - len(refused),
        rejected=tuple(RejectedRow(row, reason) for row, reason in refused),
        rejected_entities=tuple(f"{seen.entity_type} {seen.entity_id}: {reason}" for seen, reason in unregistered),
    )


def _record(connection: psycopg.Connection[Any], entities: Sequence[Entity]) -> None:
    if entities:
        connection.execute(_RECORD_ENTITIES, (json_bytes(entities).decode(),))


def _each_bearable(
    connection: psycopg.Connection[Any], items: Sequence[_T], store: Callable[[Sequence[_T]], None]
) -> list[tuple[_T, str]]:
    """Store `items`, halving what the database refuses until the bad ones stand alone; return these with reasons."""
    if not items:
        return []
    try:
        with connection.transaction():
            store(items)
    except ROW_ERRORS as error:
        if not is_row_error(error):
            raise
        if len(items) == 1:
            return [(items[0], row_reason(error))]
    else:
        return []
    middle = len(items) // 2
    return [
        *_each_bearable(connection, items[:middle], store),
        *_each_bearable(connection, items[middle:], store),
    ]
