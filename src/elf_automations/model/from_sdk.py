"""`ReadableSpan` of the OpenTelemetry SDK → `SpanRecord`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from opentelemetry.trace import SpanKind as SdkSpanKind

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
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

_KINDS: Mapping[SdkSpanKind, SpanKind] = {
    SdkSpanKind.INTERNAL: SpanKind.INTERNAL,
    SdkSpanKind.SERVER: SpanKind.SERVER,
    SdkSpanKind.CLIENT: SpanKind.CLIENT,
    SdkSpanKind.PRODUCER: SpanKind.PRODUCER,
    SdkSpanKind.CONSUMER: SpanKind.CONSUMER,
}


class SdkSpans:
    """Turns SDK spans into records, making each resource's record once.

    `defaults` are resource attributes for resources that do not state them, such as the `elf.entity.*` of a
    process that joined somebody else's provider.
    """

    def __init__(self, defaults: Mapping[str, AttributeValue] | None = None) -> None:
        self._defaults = defaults or {}
        self._resources: dict[int, tuple[Resource, ResourceRecord]] = {}

    def record(self, span: ReadableSpan) -> SpanRecord | None:
        """Return the record of a finished SDK span; None for one without a context or a start."""
        context = span.get_span_context()
        if context is None or span.start_time is None:
            return None
        scope = span.instrumentation_scope
        return SpanRecord(
            trace_id=context.trace_id.to_bytes(16),
            span_id=context.span_id.to_bytes(8),
            parent_span_id=span.parent.span_id.to_bytes(8) if span.parent else None,
            trace_state=context.trace_state.to_header() if context.trace_state else "",
            name=span.name,
            kind=_KINDS.get(span.kind, SpanKind.UNSPECIFIED),
            start_ns=span.start_time,
            end_ns=span.end_time,
            status=StatusCode(span.status.status_code.value),
            status_message=span.status.description or "",
            attributes=span.attributes or {},
            exceptions=_exceptions(span),
            links=tuple(
                LinkRecord(link.context.trace_id.to_bytes(16), link.context.span_id.to_bytes(8)) for link in span.links
            ),
            scope_name=scope.name if scope else "",
            scope_version=(scope.version or "") if scope else "",
            resource=self._resource(span.resource),
        )

    def _resource(self, resource: Resource) -> ResourceRecord:
        known = self._resources.get(id(resource))
        if known is None:
            known = (resource, ResourceRecord({**self._defaults, **resource.attributes}))
            self._resources[id(resource)] = known
        return known[1]


def _exceptions(span: ReadableSpan) -> tuple[ExceptionRecord, ...]:
    return tuple(
        ExceptionRecord(
            _text((event.attributes or {}).get(otel.EXCEPTION_TYPE)),
            _text((event.attributes or {}).get(otel.EXCEPTION_MESSAGE)),
        )
        for event in span.events
        if event.name == "exception"
    )


def _text(value: AttributeValue) -> str:
    return value if isinstance(value, str) else ""
