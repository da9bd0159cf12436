"""Calls recorded by hand: one span, already over when it is made."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, get_args

import orjson
from opentelemetry.trace import SpanKind, Status, StatusCode, get_tracer
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.identity import correlation_of
from elf_automations.model import Status as CallStatus

logger = logging.getLogger(__name__)

SCOPE: Final = "elf-automations.telemetry"
_STATUSES: Final = frozenset(get_args(CallStatus))


def record_call(
    name: str,
    attributes: Mapping[str, AttributeValue | None],
    *,
    status: str,
    duration_ms: float | None = None,
    error_message: str | None = None,
    error_code: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Make the span of a call that is over: it ends now and began `duration_ms` earlier.

    A status that is none of success, error, timeout, cancelled is recorded as an error and kept in the metadata.
    Never raises and never does I/O.
    """
    try:
        told = dict(metadata or {})
        if status not in _STATUSES:
            told["status"] = status
            status = "error"
        known = duration_ms if isinstance(duration_ms, int | float) and duration_ms >= 0 else None
        ended = time.time_ns()
        span = get_tracer(SCOPE).start_span(
            name, kind=SpanKind.CLIENT, start_time=ended - int((known or 0) * 1_000_000)
        )
        if span.is_recording():
            said: dict[str, AttributeValue | None] = {
                elf.ELF_CORRELATION_ID: correlation_of(),
                **{name: value for name, value in attributes.items() if value is not None},
                elf.ELF_OBSERVED_BY: "manual",
                elf.ELF_OUTCOME: status,
                elf.ELF_DURATION_MS: float(known) if known is not None else None,
                elf.ELF_ERROR_MESSAGE: error_message,
                elf.ELF_ERROR_CODE: error_code,
                otel.ERROR_TYPE: (error_code or status) if status in {"error", "timeout"} else None,
                elf.ELF_METADATA: orjson.dumps(told, default=str).decode() if told else None,
            }
            span.set_attributes({key: value for key, value in said.items() if value is not None})
            if status in {"error", "timeout"}:
                span.set_status(Status(StatusCode.ERROR, error_message))
        span.end(ended)
    except Exception:
        logger.debug("a call could not be recorded", exc_info=True)


def texts(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return a list of strings as a span attribute, None when it is empty or missing."""
    return tuple(str(value) for value in cast("Sequence[object]", values)) if values else None
