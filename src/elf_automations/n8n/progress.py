"""How far the executions of an n8n have been read: what `telemetry_sync` keeps between pages, passes and processes.

n8n lists ended executions newest first. A walk goes from the newest one known at its start (`top`) down to where the
last walk began (`done`), page by page; what runs or waits meanwhile is noted beforehand (`pending`) and asked for by
its id later. So nothing falls between two walks, and one that is cut off goes on at its last page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from elf_automations.model.n8n_fields import instant, items, mapping, text


@dataclass(frozen=True, slots=True)
class Mark:
    """One execution: its id, and when it started, ISO 8601."""

    execution_id: str
    started_at: str | None = None

    @property
    def started_ns(self) -> int | None:
        """When it started, ns since 1970."""
        return instant(self.started_at)

    def is_newer_than(self, execution_id: str) -> bool:
        """Return whether this one came after another; n8n counts, and ids that are no numbers are only told apart."""
        mine = self.execution_id
        if mine.isdecimal() and execution_id.isdecimal():
            return int(mine) > int(execution_id)
        return mine != execution_id

    def began_anew(self, last: Mark) -> bool:
        """Return whether n8n counts from the beginning again: this one has a lower id than `last` and started later."""
        mine, theirs = self.execution_id, last.execution_id
        lower = mine.isdecimal() and theirs.isdecimal() and int(mine) < int(theirs)
        return lower and (self.started_ns or 0) > (last.started_ns or self.started_ns or 0)


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk under way: `cursor` is n8n's for the next page, None for the first.

    `since` (ns since 1970) is set when it goes back to a time and not to where the last walk began.
    """

    top: Mark
    cursor: str | None = None
    since: int | None = None


@dataclass(slots=True)
class Progress:
    """All that is kept; `pending` is in the order it was noted."""

    done: Mark | None = None
    walk: Walk | None = None
    pending: dict[str, None] = field(default_factory=dict[str, None])

    @classmethod
    def read(cls, state: Mapping[str, Any]) -> Progress:
        """Return what `as_state` made; what cannot be read is as if it were not there."""
        walk = mapping(state.get("walk"))
        top, since = _mark(walk.get("top")), walk.get("since")
        return cls(
            done=_mark(state.get("done")),
            walk=Walk(top, text(walk.get("cursor")), since if isinstance(since, int) else None) if top else None,
            pending={each: None for each in items(state.get("pending")) if isinstance(each, str)},
        )

    def as_state(self) -> dict[str, Any]:
        """Return it as JSON."""
        walk = self.walk
        return {
            "done": _told(self.done),
            "walk": {"top": _told(walk.top), "cursor": walk.cursor, "since": walk.since} if walk else None,
            "pending": list(self.pending),
        }


def _mark(value: object) -> Mark | None:
    said = mapping(value)
    execution_id = text(said.get("id"))
    return Mark(execution_id, text(said.get("started_at"))) if execution_id else None


def _told(mark: Mark | None) -> dict[str, Any] | None:
    return {"id": mark.execution_id, "started_at": mark.started_at} if mark else None
