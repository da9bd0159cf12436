"""What the exporter says in the log: one line a minute and kind at most, and never a failure of its own."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import Final

_EVERY_SECONDS: Final = 60.0

logger = logging.getLogger("elf_exporters")


class Notices:
    """Log lines of one exporter, each kind at most once a minute."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._said: dict[str, float] = {}

    def say(self, kind: str, level: int, message: str, *arguments: object) -> bool:
        """Log `message` unless one of this `kind` was logged within the last minute; return whether it was."""
        now = time.monotonic()
        with self._lock:
            last = self._said.get(kind)
            if last is not None and now - last < _EVERY_SECONDS:
                return False
            self._said[kind] = now
        say_once(level, message, *arguments)
        return True

    def forget(self, kind: str) -> None:
        """Let the next line of this `kind` through at once: what it warned of is over."""
        with self._lock:
            self._said.pop(kind, None)


def say_once(level: int, message: str, *arguments: object) -> None:
    """Log one line; a log handler that raises is the application's affair, not a reason to lose spans."""
    with suppress(Exception):
        logger.log(level, message, *arguments)
