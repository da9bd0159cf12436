"""Finished spans that were made elsewhere, through a tracer: with their own ids, times and resource."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import otel
from elf_automations.model import SpanRecord


def emit(records: Sequence[SpanRecord], tracer: Tracer) -> bool:
    """Make the spans of `records`, of one trace and parents first, through `tracer`.

    An SDK tracer gives them the ids and the resource of their records; another one makes ids of its own, and keeps
    the nesting. Whoever asked from outside is taken to be sampled, as n8n does in its own export.

    Returns whether they were recorded: False when tracing is off or the first one is sampled out.
    """
    made: dict[bytes, Span] = {}
    for record in records:
        above = made.get(record.parent_span_id or b"")
        context = trace.set_span_in_context(above or _caller(record), Context())
        span = _with_its_ids(tracer, record).start_span(
            record.name,
            context=context,
            kind=SpanKind.INTERNAL,
            start_time=record.start_ns,
            attributes=cast("Mapping[str, AttributeValue]", record.attributes),
            links=[Link(_remote(link.trace_id, link.span_id)) for link in record.links],
        )
        if not made and not span.is_recording():
            return False
        made[record.span_id] = span
    for record in reversed(records):
        _end(made[record.span_id], record)
    return bool(made)


def _end(span: Span, record: SpanRecord) -> None:
    for thrown in record.exceptions:
        said = {otel.EXCEPTION_TYPE: thrown.type, otel.EXCEPTION_MESSAGE: thrown.message}
        span.add_event("exception", {name: value for name, value in said.items() if value}, record.end_ns)
    span.set_status(Status(StatusCode(record.status.value), record.status_message or None))
    span.end(record.end_ns)


def _caller(record: SpanRecord) -> Span:
    if record.parent_span_id is None:
        return trace.INVALID_SPAN
    return NonRecordingSpan(_remote(record.trace_id, record.parent_span_id, record.trace_state))


def _remote(trace_id: bytes, span_id: bytes, state: str = "") -> SpanContext:
    return SpanContext(
        int.from_bytes(trace_id),
        int.from_bytes(span_id),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
        trace_state=TraceState.from_header([state]) if state else None,
    )


def _with_its_ids(tracer: Tracer, record: SpanRecord) -> Tracer:
    if not isinstance(tracer, _SdkTracer):
        return tracer
    # A copy: the provider hands the tracer itself to everybody.
    mine = copy.copy(tracer)
    mine.id_generator = _Ids(record)
    mine.resource = type(mine.resource)(record.resource.attributes)
    return cast("Tracer", mine)


@runtime_checkable
class _SdkTracer(Protocol):
    """The SDK's tracer by what it has; this layer knows the API alone."""

    id_generator: Any
    resource: Any


class _Ids:
    """Generates the ids of one record, as the SDK's `IdGenerator`."""

    def __init__(self, record: SpanRecord) -> None:
        self._record = record

    def generate_span_id(self) -> int:
        """Return the record's span id."""
        return int.from_bytes(self._record.span_id)

    def generate_trace_id(self) -> int:
        """Return the record's trace id."""
        return int.from_bytes(self._record.trace_id)

    def is_trace_id_random(self) -> bool:
        """Return that its bytes are spread evenly: those of a hash are."""
        return True
