"""What the sink answers, in the request's own encoding.

Source of the rules: OTLP specification, OTLP/HTTP Response and OTLP/gRPC Response (200 with partial success, 400 for
bad data, 503 with Retry-After for now; a failure is a `google.rpc.Status`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import orjson
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

PROTOBUF: Final = "application/x-protobuf"
JSON: Final = "application/json"
INVALID_ARGUMENT: Final = 3
RESOURCE_EXHAUSTED: Final = 8
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16
_LINES_SHOWN: Final = 5


def accepted(refused: Sequence[str]) -> ExportTraceServiceResponse:
    """Return the answer to a stored request; `refused` has one line for each span that never will be."""
    answer = ExportTraceServiceResponse()
    if refused:
        answer.partial_success.rejected_spans = len(refused)
        more = len(refused) - _LINES_SHOWN
        answer.partial_success.error_message = "; ".join(refused[:_LINES_SHOWN]) + (
            f"; and {more} more" if more > 0 else ""
        )
    return answer


def failure(code: int, message: str, *, retry_seconds: float | None = None) -> Status:
    """Return the status of a failed request: gRPC `code`, one line, and when to come again."""
    status = Status(code=code, message=message)
    if retry_seconds is not None:
        status.details.append(_packed(retry_info(retry_seconds)))
    elif code == INVALID_ARGUMENT:
        violation = BadRequest.FieldViolation(field="resourceSpans", description=message)
        status.details.append(_packed(BadRequest(field_violations=[violation])))
    return status


def retry_info(seconds: float) -> RetryInfo:
    """Return when to come again."""
    whole = math.floor(seconds)
    return RetryInfo(retry_delay=Duration(seconds=whole, nanos=int((seconds - whole) * 1e9)))


def encoded(message: Message, content_type: str) -> bytes:
    """Return `message` in the encoding of `content_type`; JSON has lowerCamelCase keys, as OTLP asks."""
    if content_type != JSON:
        return message.SerializeToString()
    return orjson.dumps(MessageToDict(message))


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
