"""Reading what n8n says of itself, field by field: anything odd is None, never an error."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias, cast

Json: TypeAlias = Mapping[str, object]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FAR_FUTURE_MS: Final = 9_000_000_000_000  # year 2255; ns beyond it do not fit OTLP's 64 bits
_MAX_TEXT: Final = 4000
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """The span that triggered something: its ids as bytes (16, 8) and the trace state that came with them."""

    trace_id: bytes
    span_id: bytes
    trace_state: str = ""


def instant(value: object) -> int | None:
    """Return ISO 8601 text or ms since 1970 as ns since 1970, None for anything else."""
    number = milliseconds(value)
    if number is not None:
        return round(number * 1_000_000) or None
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    micros = (at - _EPOCH) // timedelta(microseconds=1)
    return micros * 1000 if 0 < micros < _FAR_FUTURE_MS * 1000 else None


def milliseconds(value: object) -> float | None:
    """Return a usable number of ms, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < _FAR_FUTURE_MS else None


def text(value: object) -> str | None:
    """Return a text, bounded, or a whole number as one; None for anything else and for the empty text."""
    if isinstance(value, str):
        return value[:_MAX_TEXT] or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def mapping(value: object) -> Json:
    """Return an object, an empty one for anything else."""
    return cast("Json", value) if isinstance(value, Mapping) else {}


def mappings(value: object) -> Sequence[Json]:
    """Return the objects of a list."""
    return [cast("Json", item) for item in items(value) if isinstance(item, Mapping)]


def items(value: object) -> Sequence[object]:
    """Return a list, an empty one for anything else."""
    return cast("list[object]", value) if isinstance(value, list) else []


def traceparent(header: object, state: object = None) -> TraceParent | None:
    """Return the caller a W3C `traceparent` names; n8n's own rule: version 00, lower case, no id all zeros."""
    found = _TRACEPARENT.fullmatch(header) if isinstance(header, str) else None
    if found is None:
        return None
    trace_id, span_id = bytes.fromhex(found[1]), bytes.fromhex(found[2])
    if not any(trace_id) or not any(span_id):
        return None
    return TraceParent(trace_id, span_id, text(state) or "")
