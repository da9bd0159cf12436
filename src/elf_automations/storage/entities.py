"""The registry in Postgres: calls its SQL functions and reads `unified_registry`."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString, Protocol, cast
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from elf_automations.model import Entity
from elf_automations.storage.columns import json_bytes
from elf_automations.storage.connection import connect, translated

__all__ = ["EntityQuery", "EntityStore", "PostgresEntities"]

_FIND: Final[LiteralString] = """
SELECT * FROM unified_registry
WHERE (%(entity_id)s::text IS NULL OR entity_id = %(entity_id)s)
  AND (%(entity_type)s::text IS NULL OR entity_type = %(entity_type)s)
  AND (%(state)s::text IS NULL OR current_state = %(state)s)
  AND (NOT %(hide_deleted)s OR current_state <> 'deleted')
  AND tags @> %(tags)s::text[]
ORDER BY last_updated DESC, entity_type, entity_id
LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityQuery:
    """Which entities to read, newest change first; None asks for any, `tags` must all be there."""

    entity_id: str | None = None
    entity_type: str | None = None
    state: str | None = None
    hide_deleted: bool = False
    tags: tuple[str, ...] = ()
    limit: int = 100


class EntityStore(Protocol):
    """A way to the registry: Postgres itself, or a Supabase project over HTTPS."""

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Return what an SQL function answers: a scalar, or a list of rows of a set-returning one."""
        ...

    def find(self, query: EntityQuery) -> list[dict[str, Any]]:
        """Return the rows of `unified_registry` that fit."""
        ...

    def close(self) -> None:
        """Let go of the connection; the next use opens a new one."""
        ...


@dataclass(slots=True)
class _Link:
    """The open connection and the process it belongs to: a forked child must not close its parent's."""

    connection: psycopg.Connection[Any] | None = None
    process: int = field(default_factory=os.getpid)

    def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None and self.process == os.getpid():
            connection.close()


class PostgresEntities:
    """The registry over one lazily opened connection; safe to use from several threads.

    A connection lost since the last use (a restart, an idle limit) is opened again once. Methods raise
    StorageUnavailableError, SchemaMissingError or StorageRefusedError.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._link = _Link()
        # Closes when the owner is forgotten too: nobody has to close a registry.
        weakref.finalize(self, self._link.close)

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Return what `function` answers to named `arguments`; mappings and entities go as jsonb, texts as text[]."""
        names = list(arguments)
        statement = sql.SQL("SELECT * FROM {}({})").format(
            sql.Identifier(function),
            sql.SQL(", ").join(
                sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in names
            ),
        )
        rows = self._rows(statement, {name: _parameter(arguments[name]) for name in names})
        if len(rows) == 1 and list(rows[0]) == [function]:
            return rows[0][function]
        return rows

    def find(self, query: EntityQuery) -> list[dict[str, Any]]:
        """Return the rows of `unified_registry` that fit."""
        parameters = {
            "entity_id": query.entity_id,
            "entity_type": query.entity_type,
            "state": query.state,
            "hide_deleted": query.hide_deleted,
            "tags": list(query.tags),
            "limit": query.limit,
        }
        return self._rows(sql.SQL(_FIND), parameters)

    def close(self) -> None:
        """Close the connection; the next use opens a new one."""
        with self._lock:
            self._link.close()

    def _rows(self, statement: sql.Composed | sql.SQL, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        with self._lock, translated(self._url):
            reused = self._link.connection
            try:
                return self._execute(statement, parameters)
            except psycopg.OperationalError:
                if reused is None or not reused.closed:
                    raise
                return self._execute(statement, parameters)

    def _execute(self, statement: sql.Composed | sql.SQL, parameters: Mapping[str, Any]) -> list[dict[str, Any]]:
        connection = self._link.connection
        if connection is None or connection.closed:
            connection = connect(self._url)
            self._link.connection, self._link.process = connection, os.getpid()
        with connection.cursor(row_factory=dict_row) as cursor:
            cursor.execute(statement, parameters)
            return [{name: _plain(value) for name, value in row.items()} for row in cursor.fetchall()]


def _parameter(value: object) -> object:
    return Jsonb(value, dumps=json_bytes) if isinstance(value, Mapping) or _has_entities(value) else value


def _has_entities(value: object) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(each, Entity) for each in cast("list[object]", value))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, UUID) else value
