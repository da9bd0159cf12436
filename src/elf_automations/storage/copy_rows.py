"""The three statements that put rows into `communication_telemetry`, inside the caller's transaction.

Measured (storage performance sheet, section B): COPY straight into the table is fastest and cannot meet a row
twice; through a staging table it can; below 64 rows one jsonb statement is cheaper than either.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

import psycopg
from psycopg import sql

from elf_automations.model import Communication
from elf_automations.storage.columns import COLUMN_LIST, COPY_TYPES, copy_values, json_bytes

RowKey: TypeAlias = tuple[datetime, uuid.UUID]

COPY_FROM_ROWS: Final = 64

_TABLE: Final = sql.Identifier("communication_telemetry")
_STAGING: Final = sql.Identifier("elf_staging")
_COPY: Final = "COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)"
_COPY_TABLE: Final = sql.SQL(_COPY).format(table=_TABLE, columns=COLUMN_LIST)
_COPY_STAGING: Final = sql.SQL(_COPY).format(table=sql.SQL("pg_temp.{}").format(_STAGING), columns=COLUMN_LIST)
_CREATE_STAGING: Final = sql.SQL(
    "CREATE TEMPORARY TABLE {staging} ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA"
).format(staging=_STAGING, columns=COLUMN_LIST, table=_TABLE)
_MERGE_STAGING: Final = sql.SQL(
    "WITH fresh AS (DELETE FROM pg_temp.{staging} RETURNING {columns}) "
    "INSERT INTO {table} ({columns}) SELECT {columns} FROM fresh "
    'ON CONFLICT ("timestamp", id) DO NOTHING RETURNING "timestamp", id'
).format(staging=_STAGING, columns=COLUMN_LIST, table=_TABLE)
_INSERT_JSON: Final = sql.SQL(
    "INSERT INTO {table} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{table}, %s::jsonb) "
    'ON CONFLICT ("timestamp", id) DO NOTHING RETURNING "timestamp", id'
).format(table=_TABLE, columns=COLUMN_LIST)


def copy_into_table(connection: psycopg.Connection[Any], rows: Sequence[Communication]) -> None:
    """COPY `rows` into the table; UniqueViolation when even one of them is there already."""
    _copy(connection, _COPY_TABLE, rows)


def create_staging(connection: psycopg.Connection[Any]) -> None:
    """Create the staging table that lives as long as this transaction (safe behind a transaction pooler)."""
    connection.execute(_CREATE_STAGING)


def insert_through_staging(connection: psycopg.Connection[Any], rows: Sequence[Communication]) -> set[RowKey]:
    """Store what is new of `rows` through the staging table and return its keys."""
    _copy(connection, _COPY_STAGING, rows)
    return set(connection.execute(_MERGE_STAGING).fetchall())


def insert_json(connection: psycopg.Connection[Any], rows: Sequence[Communication]) -> set[RowKey]:
    """Store what is new of `rows` in one statement and return its keys."""
    return set(connection.execute(_INSERT_JSON, (json_bytes(rows).decode(),)).fetchall())


def _copy(connection: psycopg.Connection[Any], statement: sql.Composed, rows: Sequence[Communication]) -> None:
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(COPY_TYPES)
        for row in rows:
            copy.write_row(copy_values(row))
