"""OTLP requests for tests, made by the SDK's own encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan

_IDS = ("traceId", "spanId", "parentSpanId")


def request_of(spans: Sequence[ReadableSpan]) -> ExportTraceServiceRequest:
    return encode_spans(spans)


def as_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """Return the request as OTLP's JSON has it: hex ids, integer enums, int64 as strings."""
    document = MessageToDict(request, use_integers_for_enums=True)
    for group in document.get("resourceSpans", []):
        for scope in group.get("scopeSpans", []):
            for span in scope.get("spans", []):
                _hex(span)
                for link in span.get("links", []):
                    _hex(link)
    return document


def _hex(holder: dict[str, Any]) -> None:
    from base64 import b64decode

    for name in _IDS:
        if name in holder:
            holder[name] = b64decode(holder[name]).hex()
