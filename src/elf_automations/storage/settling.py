"""When rows that were stored are settled: every few seconds, by whichever writer comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from elf_automations.model import Communication
from elf_automations.storage.contract import Writer

_EVERY_SECONDS: Final = 10.0
# The other half of a call may have come before: with another batch, or from another process.
_BEFORE: Final = timedelta(minutes=15)
# A row dated far back (a wrong clock) must not make every pass read the whole history.
_AT_MOST: Final = timedelta(days=1)


class Settling:
    """Remembers since when rows are unsettled, and settles them through a writer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: datetime | None = None
        self._settled_at = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether there is something to settle and it is time."""
        return self.seconds_left == 0

    @property
    def pending(self) -> bool:
        """Whether rows were stored since the last settling."""
        return self._since is not None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the next pass, None when nothing waits for one."""
        if self._since is None:
            return None
        return max(0.0, self._settled_at + _EVERY_SECONDS - time.monotonic())

    def note(self, rows: Iterable[Communication]) -> None:
        """Remember that `rows` were stored; any thread may."""
        earliest = min((row.timestamp for row in rows), default=None)
        if earliest is not None:
            self._remember(earliest)

    def run(self, writer: Writer, *, wait: bool = False) -> None:
        """Settle what waits, with `wait` all of it; what is left, or fails, stays for the next pass.

        Raises what `Writer.settle` raises.
        """
        now = datetime.now(UTC)
        with self._lock:
            unsettled, self._since = self._since or now, None
        self._settled_at = time.monotonic()
        try:
            if not writer.settle(max(unsettled - _BEFORE, now - _AT_MOST), wait=wait):
                self._remember(unsettled)
        except BaseException:
            self._remember(unsettled)
            raise

    def _remember(self, at: datetime) -> None:
        with self._lock:
            if self._since is None or at < self._since:
                self._since = at
