"""How far polled sources have been read, in `telemetry_sync`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg.types.json import Jsonb

from elf_automations.errors import ConfigurationError
from elf_automations.storage.connection import connect, translated

_LOAD: Final = "SELECT state, revision FROM telemetry_sync WHERE source = %s"
_BEGIN: Final = """
INSERT INTO telemetry_sync (source, state) VALUES (%s, %s) ON CONFLICT (source) DO NOTHING RETURNING revision
"""
_SAVE: Final = """
UPDATE telemetry_sync SET state = %s, revision = revision + 1, updated_at = now()
WHERE source = %s AND revision = %s RETURNING revision
"""


class SyncState:
    """The state of one source, a JSON object; `save` replaces it, and finds out when somebody else did meanwhile.

    Methods raise StorageUnavailableError when the database is away (calling again may help), SchemaMissingError before
    `elf-telemetry setup`, StorageRefusedError when it refuses.
    """

    def __init__(self, url: str, source: str) -> None:
        """Use the Postgres at `url`, connected to at first use and again after a failure."""
        self._url, self._source = url, source
        self._revision: int | None = None
        self._connection: psycopg.Connection[Any] | None = None

    def load(self) -> dict[str, Any]:
        """Return the state on record, an empty one when there is none."""
        found = self._row(_LOAD, (self._source,))
        self._revision = found[1] if found else None
        return dict(found[0]) if found else {}

    def save(self, state: Mapping[str, Any]) -> None:
        """Put `state` on record; raises ConfigurationError when another reader of the source has moved it on."""
        if self._revision is None:
            saved = self._row(_BEGIN, (self._source, Jsonb(dict(state))))
        else:
            saved = self._row(_SAVE, (Jsonb(dict(state)), self._source, self._revision))
        if saved is None:
            raise ConfigurationError(f"another process reads {self._source} at the same time: run one of them")
        self._revision = saved[0]

    def close(self) -> None:
        """Let go of the connection; the next use opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _row(self, statement: str, parameters: tuple[object, ...]) -> tuple[Any, ...] | None:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._url)
        try:
            with translated(self._url):
                return self._connection.execute(statement.encode(), parameters).fetchone()
        except BaseException:
            self.close()
            raise
