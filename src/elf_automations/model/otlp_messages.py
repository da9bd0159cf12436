"""The messages a request is read with: OTLP's own, but a span's attributes stay encoded until they are asked for.

On the wire a message and bytes are the same, so what was declared as the one can be read as the other. Reading an
attribute costs more than all else of decoding, and nearly every attribute has been seen before: encoded, it can be
looked up. Source: Protocol Buffers documentation, Encoding, length-delimited records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from google.protobuf.message import Message
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource
    from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
    from opentelemetry.proto.trace.v1.trace_pb2 import Status

    class EncodedSpan(Protocol):
        """A span whose attributes are encoded key-values."""

        trace_id: bytes
        span_id: bytes
        parent_span_id: bytes
        trace_state: str
        name: str
        kind: int
        start_time_unix_nano: int
        end_time_unix_nano: int
        attributes: Sequence[bytes]
        events: Sequence[OtlpSpan.Event]
        links: Sequence[OtlpSpan.Link]
        status: Status

    class EncodedScopeSpans(Protocol):
        """The spans of one scope."""

        scope: InstrumentationScope
        spans: Sequence[EncodedSpan]

    class EncodedResourceSpans(Protocol):
        """The spans of one resource."""

        resource: Resource
        scope_spans: Sequence[EncodedScopeSpans]

    class EncodedRequest(Message):
        """A request; the field has the number it has in ExportTraceServiceRequest."""

        resource_spans: Sequence[EncodedResourceSpans]


def _request_type() -> type[EncodedRequest]:
    pool = DescriptorPool()
    for file in (common_pb2, resource_pb2):
        pool.AddSerializedFile(file.DESCRIPTOR.serialized_pb)
    trace = FileDescriptorProto.FromString(trace_pb2.DESCRIPTOR.serialized_pb)
    (span,) = (message for message in trace.message_type if message.name == "Span")
    (attributes,) = (field for field in span.field if field.name == "attributes")
    attributes.type = FieldDescriptorProto.TYPE_BYTES
    attributes.ClearField("type_name")
    pool.Add(trace)
    found = pool.FindMessageTypeByName(trace_pb2.TracesData.DESCRIPTOR.full_name)
    return cast("type[EncodedRequest]", GetMessageClass(found))


EncodedSpans: Final = _request_type()
"""Reads the bytes of an ExportTraceServiceRequest; raises DecodeError as that does, save for attributes of spans."""
