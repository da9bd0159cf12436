"""The columns a writer fills, and a row's values in the two forms Postgres takes them: COPY and jsonb."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final

import orjson
from psycopg import sql
from psycopg.types.json import Jsonb

from elf_automations.model import Communication

COLUMNS: Final = tuple(field.name for field in fields(Communication))
COLUMN_LIST: Final = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))

_TYPES: Final[Mapping[str, str]] = {
    "id": "uuid",
    "timestamp": "timestamptz",
    "duration_ms": "float8",
    "capabilities_required": "text[]",
    "payload_size_bytes": "int8",
    "tokens_used": "int8",
    "estimated_cost": "numeric",
    "metadata": "jsonb",
    "counted": "bool",
}
COPY_TYPES: Final = tuple(_TYPES.get(name, "text") for name in COLUMNS)

_METADATA: Final = COLUMNS.index("metadata")
_values = attrgetter(*COLUMNS)


def copy_values(row: Communication) -> Sequence[Any]:
    """Return the values of `row` in column order, ready for a binary COPY."""
    values: list[Any] = list(_values(row))
    values[_METADATA] = Jsonb(values[_METADATA], dumps=json_bytes)
    return values


def json_bytes(value: object) -> bytes:
    """Return `value` (rows, mappings, entities) as JSON; raises TypeError for what JSON cannot say."""
    return orjson.dumps(value, default=_spelled)


def _spelled(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, bytes):
        return value.hex()
    message = f"{type(value).__name__} has no place in JSON"
    raise TypeError(message)
