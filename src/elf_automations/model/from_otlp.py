"""OTLP trace messages → `SpanRecord`.

Source of the rules: OpenTelemetry protocol, `trace.proto` and `common.proto` (ids of 16 and 8 bytes that are not all
zero, times in ns since 1970, 0 for unknown).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from elf_automations.conventions import otel
from elf_automations.model.records import (
    AttributeValue,
    ExceptionRecord,
    LinkRecord,
    ResourceRecord,
    SpanKind,
    SpanRecord,
    StatusCode,
)

if TYPE_CHECKING:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_KINDS: Final = {kind.value: kind for kind in SpanKind}
_STATUSES: Final = {code.value: code for code in StatusCode}


@dataclass(frozen=True, slots=True)
class OtlpSpans:
    """The records of a request, and one line for each span that can be none."""

    records: tuple[SpanRecord, ...]
    refused: tuple[str, ...]


def from_otlp(resource_spans: Iterable[ResourceSpans]) -> OtlpSpans:
    """Return the records of all spans in `resource_spans`; a span without valid ids or a start is refused alone."""
    records: list[SpanRecord] = []
    refused: list[str] = []
    for group in resource_spans:
        resource = ResourceRecord(_attributes(group.resource.attributes))
        for scope_spans in group.scope_spans:
            for span in scope_spans.spans:
                problem = _problem(span)
                if problem:
                    refused.append(f"span {span.name!r} {problem}")
                else:
                    records.append(_record(span, scope_spans, resource))
    return OtlpSpans(tuple(records), tuple(refused))


def _problem(span: Span) -> str | None:
    if len(span.trace_id) != _TRACE_ID_BYTES or not any(span.trace_id):
        return "has no valid trace id (16 bytes, not all zero)"
    if len(span.span_id) != _SPAN_ID_BYTES or not any(span.span_id):
        return "has no valid span id (8 bytes, not all zero)"
    return None if span.start_time_unix_nano else "has no start time"


def _record(span: Span, scope_spans: ScopeSpans, resource: ResourceRecord) -> SpanRecord:
    parent = span.parent_span_id
    return SpanRecord(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=parent if len(parent) == _SPAN_ID_BYTES and any(parent) else None,
        trace_state=span.trace_state,
        name=span.name,
        kind=_KINDS.get(span.kind, SpanKind.UNSPECIFIED),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano or None,
        status=_STATUSES.get(span.status.code, StatusCode.UNSET),
        status_message=span.status.message,
        attributes=_attributes(span.attributes),
        exceptions=_exceptions(span) if span.events else (),
        links=tuple(
            LinkRecord(link.trace_id, link.span_id)
            for link in span.links
            if len(link.trace_id) == _TRACE_ID_BYTES and len(link.span_id) == _SPAN_ID_BYTES
        ),
        scope_name=scope_spans.scope.name,
        scope_version=scope_spans.scope.version,
        resource=resource,
    )


def _exceptions(span: Span) -> tuple[ExceptionRecord, ...]:
    found: list[ExceptionRecord] = []
    for event in span.events:
        if event.name == "exception":
            said = _attributes(event.attributes)
            kind, message = said.get(otel.EXCEPTION_TYPE), said.get(otel.EXCEPTION_MESSAGE)
            found.append(
                ExceptionRecord(kind if isinstance(kind, str) else "", message if isinstance(message, str) else "")
            )
    return tuple(found)


def _attributes(pairs: Iterable[KeyValue]) -> Mapping[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "array_value":
        return tuple(_value(item) for item in value.array_value.values)
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind) if kind else None
