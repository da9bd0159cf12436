"""What every writer of rows promises, whichever way it reaches the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from elf_automations.model import Communication, Entity


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row the database will never take, and why."""

    row: Communication
    reason: str


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of one batch: `stored + duplicate + len(rejected)` is its number of rows.

    `rejected_entities` names the registry entries the database would not take; their rows are stored all the same.
    """

    stored: int = 0
    duplicate: int = 0
    rejected: tuple[RejectedRow, ...] = ()
    rejected_entities: tuple[str, ...] = ()


class Writer(Protocol):
    """Stores batches; used from one thread at a time, survives a fork by starting over in the child."""

    def write(self, rows: Sequence[Communication], entities: Sequence[Entity], *, retry: bool) -> WriteResult:
        """Store a batch and its registry entries, each row once however often it is delivered.

        `retry` says that an earlier attempt may have stored some of it.
        Raises StorageUnavailableError when trying again may help, StorageRefusedError when it will not.
        """
        ...

    def check(self) -> None:
        """Ask whether the database takes rows now, storing nothing; same errors as `write`."""
        ...

    def settle(self, since: datetime, *, wait: bool = True) -> bool:
        """Decide which rows count, over all that came since that was done last; same errors as `write`.

        `since` is when the earliest row begins that this writer knows to be unsettled. With `wait` all that is stored
        is settled on return; without it another session that is at it is left to it. Return whether nothing is left.
        """
        ...

    def close(self) -> None:
        """Let go of the connection; the next use opens a new one."""
        ...
