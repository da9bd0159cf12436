"""The registry's share of a batch: counting activity only for rows that were really stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from elf_automations.model import Communication, Entity, EntityRef

_FAILED: Final = frozenset({"error", "timeout"})


def recounted(entities: Sequence[Entity], stored: Iterable[Communication]) -> tuple[Entity, ...]:
    """Return `entities` with the activity of `stored` in place of the whole batch's.

    A re-delivered row added its activity the first time. Entities that only add activity and have none left
    are dropped; observed ones stay, for registering them again changes nothing.
    """
    calls: dict[tuple[str, str], int] = {}
    errors: dict[tuple[str, str], int] = {}
    latest: dict[tuple[str, str], datetime] = {}
    for row in stored:
        if not row.counted:
            continue
        ended = _ended(row)
        for end in {EntityRef(row.source_id, row.source_type), EntityRef(row.target_id, row.target_type)}:
            if end.registry_type is None:
                continue
            key = (end.registry_type, end.id)
            calls[key] = calls.get(key, 0) + 1
            errors[key] = errors.get(key, 0) + (row.status in _FAILED)
            latest[key] = max(latest.get(key, ended), ended)
    recount = (
        replace(seen, calls=calls.get(key, 0), errors=errors.get(key, 0), last_activity=latest.get(key))
        for seen in entities
        for key in [(seen.entity_type, seen.entity_id)]
    )
    return tuple(seen for seen in recount if seen.observed or seen.calls)


def _ended(row: Communication) -> datetime:
    try:
        return row.timestamp + timedelta(milliseconds=row.duration_ms or 0)
    except (OverflowError, ValueError):
        return row.timestamp
