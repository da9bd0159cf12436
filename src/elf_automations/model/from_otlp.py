"""OTLP trace messages → `SpanRecord`.

Source of the rules: OpenTelemetry protocol, `trace.proto` and `common.proto` (ids of 16 and 8 bytes that are not all
zero, times in ns since 1970, 0 for unknown).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.proto.common.v1.common_pb2 import KeyValue

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
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from elf_automations.model.otlp_messages import EncodedResourceSpans, EncodedSpan

_TRACE_ID_BYTES: Final = 16
_SPAN_ID_BYTES: Final = 8
_NO_TRACE: Final = bytes(_TRACE_ID_BYTES)
_NO_SPAN: Final = bytes(_SPAN_ID_BYTES)
_KINDS: Final = {kind.value: kind for kind in SpanKind}
_STATUSES: Final = {code.value: code for code in StatusCode}


@dataclass(frozen=True, slots=True)
class OtlpSpans:
    """The records of a request, and one line for each span that can be none."""

    records: tuple[SpanRecord, ...]
    refused: tuple[str, ...]


def from_otlp(resource_spans: Iterable[EncodedResourceSpans]) -> OtlpSpans:
    """Return the records of all spans in `resource_spans`; a span without valid ids or a start is refused alone.

    Raises DecodeError when the attributes of a span cannot be decoded.
    """
    records: list[SpanRecord] = []
    refused: list[str] = []
    for group in resource_spans:
        resource = ResourceRecord(_attributes(group.resource.attributes))
        for scope_spans in group.scope_spans:
            scope = scope_spans.scope
            name, version = scope.name, scope.version
            for span in scope_spans.spans:
                problem = _problem(span)
                if problem:
                    refused.append(f"span {span.name!r} {problem}")
                else:
                    records.append(_record(span, name, version, resource))
    return OtlpSpans(tuple(records), tuple(refused))


def _problem(span: EncodedSpan) -> str | None:
    trace_id, span_id = span.trace_id, span.span_id
    if len(trace_id) != _TRACE_ID_BYTES or trace_id == _NO_TRACE:
        return "has no valid trace id (16 bytes, not all zero)"
    if len(span_id) != _SPAN_ID_BYTES or span_id == _NO_SPAN:
        return "has no valid span id (8 bytes, not all zero)"
    return None if span.start_time_unix_nano else "has no start time"


def _record(span: EncodedSpan, scope_name: str, scope_version: str, resource: ResourceRecord) -> SpanRecord:
    parent = span.parent_span_id
    status, events, links = span.status, span.events, span.links
    return SpanRecord(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=parent if len(parent) == _SPAN_ID_BYTES and parent != _NO_SPAN else None,
        trace_state=span.trace_state,
        name=span.name,
        kind=_KINDS.get(span.kind, SpanKind.UNSPECIFIED),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano or None,
        status=_STATUSES.get(status.code, StatusCode.UNSET),
        status_message=status.message,
        attributes=dict(map(_KNOWN.__getitem__, span.attributes)),
        exceptions=_exceptions(events) if events else (),
        links=_links(links) if links else (),
        scope_name=scope_name,
        scope_version=scope_version,
        resource=resource,
    )


class _Known(dict[bytes, tuple[str, AttributeValue]]):
    """Attributes by their encoded form: the processes of a fleet send the same few over and over.

    Holds at most `_MOST` short ones and then begins anew, which is cheaper than remembering which were used last.
    """

    _MOST: Final = 8192
    _SHORT: Final = 128

    def __missing__(self, encoded: bytes) -> tuple[str, AttributeValue]:
        pair = KeyValue.FromString(encoded)
        found = pair.key, _value(pair.value)
        if len(encoded) <= self._SHORT:
            if len(self) >= self._MOST:
                self.clear()
            self[encoded] = found
        return found


_KNOWN: Final = _Known()


def _exceptions(events: Iterable[Span.Event]) -> tuple[ExceptionRecord, ...]:
    found: list[ExceptionRecord] = []
    for event in events:
        if event.name == "exception":
            said = _attributes(event.attributes)
            kind, message = said.get(otel.EXCEPTION_TYPE), said.get(otel.EXCEPTION_MESSAGE)
            found.append(
                ExceptionRecord(kind if isinstance(kind, str) else "", message if isinstance(message, str) else "")
            )
    return tuple(found)


def _links(links: Iterable[Span.Link]) -> tuple[LinkRecord, ...]:
    return tuple(
        LinkRecord(link.trace_id, link.span_id)
        for link in links
        if len(link.trace_id) == _TRACE_ID_BYTES and len(link.span_id) == _SPAN_ID_BYTES
    )


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
