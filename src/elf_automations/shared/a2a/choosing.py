"""Which team gets a task that names only what must be known: a pure choice from the registry's rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from elf_automations.errors import ElfTelemetryError

__all__ = ["TeamNotFoundError", "choose_team", "why_none_fits"]

# A degraded team answers; of one whose health nobody reports, that is not known.
_PREFERENCE: Final = ("healthy", "degraded", "unknown")
_NOT_SERVING: Final = frozenset({"stopped", "error", "inactive", "archived", "deleted"})
_SHOWN: Final = 5


class TeamNotFoundError(ElfTelemetryError):
    """Nobody knows where a team is, or no team can do what is asked."""


def choose_team(rows: Iterable[Mapping[str, Any]], needed: Collection[str]) -> str | None:
    """Return the id of the best team that has all of `needed` and is not unhealthy; None when there is none.

    `rows` are rows of `unified_registry`. Healthy before degraded before unknown, then who was active last, then the
    id: the same rows always give the same team.
    """
    fitting = [row for row in rows if not _lacks(row, needed) and not _unfit(row)]
    best = min(fitting, key=_rank, default=None)
    return str(best["entity_id"]) if best is not None else None


def why_none_fits(rows: Iterable[Mapping[str, Any]], needed: Collection[str]) -> str:
    """Return, in words, what was missing: capabilities nobody has, and who came close but for what."""
    known = list(rows)
    if not known:
        return "no team with an endpoint is registered"
    had = {capability for row in known for capability in row["capabilities"]}
    nobody = sorted(set(needed) - had)
    if nobody:
        return f"no team has {_quoted(nobody)}"
    close = [
        f"{row['entity_id']} lacks {_quoted(lacks)}" if lacks else f"{row['entity_id']} is {_unfit(row)}"
        for row in sorted(known, key=lambda row: (len(_lacks(row, needed)), row["entity_id"]))
        if len(lacks := _lacks(row, needed)) < len(set(needed))
    ]
    return ", ".join(close[:_SHOWN])


def _lacks(row: Mapping[str, Any], needed: Collection[str]) -> list[str]:
    return sorted(set(needed) - set(row["capabilities"]))


def _unfit(row: Mapping[str, Any]) -> str | None:
    if row["current_state"] in _NOT_SERVING:
        return str(row["current_state"])
    return None if row["health_status"] in _PREFERENCE else str(row["health_status"])


def _rank(row: Mapping[str, Any]) -> tuple[int, float, str]:
    seen = row["last_activity"]
    active = seen.timestamp() if isinstance(seen, datetime) else 0.0
    return _PREFERENCE.index(row["health_status"]), -active, str(row["entity_id"])


def _quoted(capabilities: Iterable[str]) -> str:
    return ", ".join(map(repr, capabilities))
