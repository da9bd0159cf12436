"""The answer of a recogniser for its protocol's chatter: handshakes, notifications, queue internals."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noise:
    """A span of `protocol` that is no call; with `listing` one that lists what there is, for a library's own sake."""

    protocol: str
    listing: bool = False
