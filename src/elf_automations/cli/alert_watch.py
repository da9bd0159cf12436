"""Alerts as they fire and resolve, each once and in order, across outages of the database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from elf_automations.errors import StorageUnavailableError
from elf_automations.storage.connection import connect
from elf_automations.storage.notifications import ALERTS, Listener
from elf_automations.storage.queries import fetch

Change = dict[str, Any]
"""A row of `alert_history` with `change` (fired or resolved), `at` and `number`, the place among all changes."""

_RECONNECT_S: Final = 5.0


class AlertWatch:
    """Evaluates every `every` seconds, and looks for changes then and when another evaluator tells of one.

    Changes are read from the table by their number, so none is missed when a notification is. `complain` is told,
    in one line, what a person should know. Close it after use.
    """

    def __init__(self, url: str, every: float, complain: Callable[[str], None]) -> None:
        self._url, self._every, self._complain = url, every, complain
        self._connection: Any = None
        self._listener: Listener | None = None
        self._warned = self._away = False
        self._due = 0.0
        self._seen = 0

    def open(self) -> list[Change]:
        """Evaluate, and return what fires now; `changes` goes on from there. Raises what `fetch` raises."""
        connection = self._connected()
        self._evaluate(connection)
        self._seen = int(fetch(connection, "last_alert_change")[0]["number"])
        return [row for row in fetch(connection, "firing_alerts") if row["number"] <= self._seen]

    def changes(self) -> Iterator[Change]:
        """Yield each change as it happens, without end; waits out a database that is away.

        Raises StorageRefusedError when it turns this user down.
        """
        while True:
            try:
                for change in self._look():
                    self._seen = int(change["number"])
                    yield change
                self._rest()
            except StorageUnavailableError as error:
                if not self._away:
                    self._complain(str(error))
                self._away = True
                self.close()
                time.sleep(min(self._every, _RECONNECT_S))

    def close(self) -> None:
        """Let go of the connections; the next use opens new ones."""
        for held in (self._connection, self._listener):
            if held is not None:
                held.close()
        self._connection = self._listener = None

    def _look(self) -> list[Change]:
        connection = self._connected()
        if time.monotonic() >= self._due:
            self._evaluate(connection)
        found = fetch(connection, "alert_changes", after=self._seen)
        if self._away:
            self._away = False
            self._complain("the database is back")
        return found

    def _evaluate(self, connection: Any) -> None:
        self._due = time.monotonic() + self._every
        fetch(connection, "evaluate_alerts")

    def _rest(self) -> None:
        seconds = max(0.0, self._due - time.monotonic())
        if self._listener is not None and self._listener.direct:
            self._listener.wait(seconds)
        else:
            time.sleep(seconds)

    def _connected(self) -> Any:
        # Listening comes first: what happens between the two is then seen by the first look.
        if self._listener is None:
            self._listener = Listener(self._url, ALERTS)
            if not self._listener.direct and not self._warned:
                self._warned = True
                self._complain(
                    "this connection goes through a transaction pooler, which cannot carry notifications: changes that "
                    f"others find show within {self._every:g} s; a direct connection shows them at once"
                )
        if self._connection is None:
            self._connection = connect(self._url)
        return self._connection
