"""What the bodies that are being received may hold together, so that many slow clients do not fill the memory."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from elf_automations.sink.failures import BusyError


class Room:
    """`size` bytes for all bodies together; for the tasks of one event loop."""

    def __init__(self, size: int) -> None:
        self._free = size

    @contextmanager
    def part(self) -> Generator[Callable[[int], None]]:
        """Give a body its part, larger with each call of what is yielded; at the end it is free again.

        That call raises BusyError when there is no room for so many bytes more.
        """
        held = 0

        def hold(more: int) -> None:
            nonlocal held
            if more > self._free:
                raise BusyError("too many requests are being received")
            held += more
            self._free -= more

        try:
            yield hold
        finally:
            self._free += held
