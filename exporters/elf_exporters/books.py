"""The accounts of one exporter: what became of every span it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

QUEUE_FULL: Final = "queue_full"
MAPPING: Final = "mapping"
REFUSED: Final = "refused"
INTERNAL: Final = "internal"
SHUTDOWN: Final = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Counts of spans since the exporter was made (or since the fork that made this process).

    `started` were given to the exporter; `ignored` are no call of ours; `rejected` the database refused one by one;
    `dropped` counts the lost by reason: queue_full, mapping, refused (the database refuses everything), internal
    (a fault of this package), shutdown. The design's section 7 names the balance they keep.
    """

    started: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    ignored: int = 0
    queued: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every span given is accounted for."""
        ended = self.stored + self.duplicate + self.rejected + sum(self.dropped.values()) + self.ignored
        return self.started == ended + self.queued
