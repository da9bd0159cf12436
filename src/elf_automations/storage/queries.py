"""Named queries of `sql/queries.sql`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import dict_row

from elf_automations.storage.connection import translated
from elf_automations.storage.sql_files import sql_text

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def queries() -> Mapping[str, str]:
    """Return the text of every query by its name; parameters are spelled `%(name)s`."""
    _, *blocks = _NAME.split(sql_text("queries.sql"))
    return dict(zip(blocks[::2], (block.strip() for block in blocks[1::2]), strict=True))


def fetch(connection: psycopg.Connection[Any], name: str, /, **parameters: object) -> list[dict[str, Any]]:
    """Run the query `name` and return its rows as dictionaries keyed by column.

    Raises KeyError for a name `queries.sql` does not have, SchemaMissingError before `elf-telemetry setup`,
    StorageUnavailableError when the connection is lost.
    """
    query = queries()[name]
    with translated(connection.info.dsn), connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), parameters).fetchall()
