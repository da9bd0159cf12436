"""Registry updates that nobody waits for: one daemon thread a registry, in the order they were given."""

from __future__ import annotations

import atexit
import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from opentelemetry.instrumentation.utils import suppress_instrumentation

from elf_automations.errors import ElfTelemetryError, StorageUnavailableError
from elf_automations.registry.unified import UnifiedRegistry

__all__ = ["Background", "background_of", "flush_registry"]

logger = logging.getLogger(__name__)

CAPACITY: Final = 1000
EXIT_SECONDS: Final = 2.0
_FIRST_PAUSE_SECONDS: Final = 0.5
_LONGEST_PAUSE_SECONDS: Final = 30.0
_IDLE_SECONDS: Final = 5.0
_NOTICE_EVERY_SECONDS: Final = 60.0

_Work = Callable[[UnifiedRegistry], object]


@dataclass(slots=True)
class _Errand:
    registry: UnifiedRegistry
    about: tuple[str, str]
    kind: str
    work: _Work


class Background:
    """A bounded queue of updates and the thread that makes them; nothing here raises, nothing waits but `flush`.

    While the database is away the first update is tried again, after 0.5 s at first, 30 s at most, and the others
    stay behind it: the order of one entity's updates is kept. A full queue drops what comes, counted; an update that
    is refused is dropped. Both, and waiting, are one line a minute in the log.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Keep at most `capacity` updates."""
        self._capacity = capacity
        self._said: dict[str, float] = {}
        self.start_over()

    def start_over(self) -> None:
        """Begin with an empty queue: at first, and in a forked child, whose queue is its parent's to work off."""
        self._condition = threading.Condition(threading.RLock())
        self._errands: deque[_Errand] = deque()
        self._running = self._hurry = False
        self._given = self._ended = 0
        self._missed = 0

    def submit(self, registry: UnifiedRegistry, about: tuple[str, str], kind: str, work: _Work) -> bool:
        """Queue `work(registry)`, an update of the entity `about` (id, type); return whether it found room.

        A heartbeat takes the place of the entity's last update where that is a heartbeat too and still waits.
        """
        with self._condition:
            last = next((errand for errand in reversed(self._errands) if errand.about == about), None)
            if kind == "heartbeat" and last is not None and last.kind == kind and last is not self._errands[0]:
                last.work = work
                return True
            full = len(self._errands) >= self._capacity
            if full:
                self._missed += 1
            else:
                self._errands.append(_Errand(registry, about, kind, work))
                self._given += 1
                self._condition.notify_all()
                self._running = self._running or self._started()
        if full:
            text = "%d registry updates were dropped: %d wait for the database"
            self._say("full", text, self._missed, self._capacity)
        return not full

    def flush(self, seconds: float) -> bool:
        """Wait until all updates given so far are made or dropped, at most `seconds`; return whether that came.

        Returns sooner when the database proves to be away.
        """
        deadline = time.monotonic() + seconds
        with self._condition:
            mark = self._given
            if self._ended >= mark:
                return True
            if not self._running:
                return False
            self._hurry = True
            self._condition.notify_all()
            # An attempt that fails takes the hurry away: waiting longer would not help.
            self._condition.wait_for(lambda: self._ended >= mark or not self._hurry, deadline - time.monotonic())
            self._hurry = False
            return self._ended >= mark

    @property
    def waiting(self) -> int:
        """How many updates are queued or under way."""
        with self._condition:
            return len(self._errands)

    def _started(self) -> bool:
        try:
            threading.Thread(target=self._run, args=(self._errands,), name="elf-registry", daemon=True).start()
        except RuntimeError:  # the interpreter is ending
            return False
        return True

    def _run(self, mine: deque[_Errand]) -> None:
        pause = _FIRST_PAUSE_SECONDS
        with suppress_instrumentation():
            while mine is self._errands:  # not after a fresh start
                with self._condition:
                    if not self._condition.wait_for(lambda: mine, _IDLE_SECONDS):
                        self._running = False
                        return
                    errand = mine[0]
                if self._done(errand):
                    pause = _FIRST_PAUSE_SECONDS
                    with self._condition:
                        mine.popleft()
                        self._ended += 1
                        self._condition.notify_all()
                else:
                    with self._condition:
                        self._hurry = False
                        self._condition.notify_all()
                        self._condition.wait_for(lambda: self._hurry, pause * random.uniform(0.8, 1.2))  # noqa: S311
                    pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def _done(self, errand: _Errand) -> bool:
        """Make one update; return whether it is over with, made or given up."""
        try:
            known = errand.work(errand.registry)
        except StorageUnavailableError as error:
            self._say("waits", "the registry is not updated now, %d updates wait: %s", self.waiting, error)
            return False
        except ElfTelemetryError as error:
            self._say("refused", "%s %s is not updated in the registry: %s", errand.about[1], errand.about[0], error)
        except Exception as error:
            self._say("fault", "%s %s is not updated in the registry: %r", errand.about[1], errand.about[0], error)
        else:
            if known is False:
                text = "%s %s is not in the registry, its %s is not kept"
                self._say("unknown", text, errand.about[1], errand.about[0], errand.kind)
        return True

    def _say(self, kind: str, message: str, *arguments: object) -> None:
        with self._condition:
            now = time.monotonic()
            if now - self._said.get(kind, -_NOTICE_EVERY_SECONDS) < _NOTICE_EVERY_SECONDS:
                return
            self._said[kind] = now
        with suppress(Exception):  # a log handler that raises is the application's affair
            logger.warning(message, *arguments)


_backgrounds: weakref.WeakKeyDictionary[UnifiedRegistry, Background] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


def background_of(registry: UnifiedRegistry) -> Background:
    """Return the queue of `registry`, the same for everybody who uses this object."""
    with _lock:
        return _backgrounds.setdefault(registry, Background())


def flush_registry(seconds: float = EXIT_SECONDS) -> bool:
    """Wait until what `lifecycle` and health reporters of this process said is in the registry, at most `seconds`.

    Called by itself when the process ends. Returns False, with one line in the log, when something is left.
    """
    deadline = time.monotonic() + seconds
    with _lock:
        known = list(_backgrounds.values())
    left = sum(queue.waiting for queue in known if not queue.flush(max(deadline - time.monotonic(), 0.0)))
    if left:
        logger.warning("%d registry updates were not made within %.1f s", left, seconds)
    return left == 0


def _after_fork_in_child() -> None:
    global _lock  # noqa: PLW0603  (the parent may have held it)
    _lock = threading.RLock()
    for queue in list(_backgrounds.values()):
        queue.start_over()


atexit.register(flush_registry)
os.register_at_fork(after_in_child=_after_fork_in_child)
