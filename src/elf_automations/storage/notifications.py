"""LISTEN: waking up when the database says so, where the connection can carry it."""

from __future__ import annotations

import uuid
from typing import Any, Final

import psycopg
from psycopg import sql

from elf_automations.storage.connection import connect, translated

ALERTS: Final = "elf_alerts"
"""Channel on which `evaluate_alerts()` tells each alert that fires or resolves."""

_PROBE_SECONDS: Final = 2.0


class Listener:
    """One connection that listens on one channel; a wake-up says "look", what happened is read from the tables.

    A transaction pooler (PgBouncer, Supavisor) gives each statement another server connection and loses
    notifications without an error, so `direct` is found out by sending one. Close it after use.
    """

    def __init__(self, url: str, channel: str) -> None:
        """Listen on `channel` at `url`. Raises what `connect` raises."""
        self._url = url
        self._connection = connect(url)
        try:
            self.direct = self._hears(f"elf_probe_{uuid.uuid4().hex}")
            if self.direct:
                self._execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        except BaseException:
            self.close()
            raise

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; True as soon as something was told. Raises StorageUnavailableError when cut off."""
        with translated(self._url):
            return next(self._connection.notifies(timeout=seconds, stop_after=1), None) is not None

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _hears(self, channel: str) -> bool:
        self._execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        # From a second connection: behind a pooler it may be the same server connection, and then hears it itself.
        with connect(self._url) as other:
            other.execute("select pg_notify(%s, '')", (channel,))
        heard = self.wait(_PROBE_SECONDS)
        self._execute(sql.SQL("unlisten {}").format(sql.Identifier(channel)))
        return heard

    def _execute(self, statement: sql.Composed) -> psycopg.Cursor[Any]:
        with translated(self._url):
            return self._connection.execute(statement)
