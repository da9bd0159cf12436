"""Ending a command that goes on until it is told to."""

from __future__ import annotations

import queue
import signal
from types import FrameType


def told_to_end() -> queue.SimpleQueue[None]:
    """Return a queue that gets an item on SIGTERM or Ctrl-C: what is under way is finished, a second signal kills."""
    # Of all that wakes a waiting thread, only this may be used in a signal handler.
    told: queue.SimpleQueue[None] = queue.SimpleQueue()

    def end(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        told.put(None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    return told
