"""OTLP request bodies, protobuf and JSON → `SpanRecord`; one bad span is refused alone, wherever the bytes allow.

Source of the rules: OpenTelemetry protocol specification, sections Binary Protobuf Encoding and JSON Protobuf Encoding
(hex ids, integer enums, lowerCamelCase keys, unknown fields ignored).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

import orjson
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from elf_automations.model.from_otlp import OtlpSpans, from_otlp
from elf_automations.model.otlp_messages import EncodedSpans

_Json: TypeAlias = dict[str, Any]

_LENGTH_DELIMITED: Final = 2
_FIXED: Final = {1: 8, 5: 4}
_VARINT_BYTES: Final = 10
_GROUP: Final = 1  # in a request resource_spans, in resource_spans the resource, in scope_spans the scope
_ITEMS: Final = 2  # in resource_spans the scope_spans, in scope_spans the spans
_ID_KEYS: Final = ("traceId", "spanId", "parentSpanId")
# A pair of surrogates, one alone, or any other escape: a backslash that is itself escaped begins nothing.
_ESCAPE: Final = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)
_BAD_BYTES: Final = "is not valid: invalid UTF-8, or nested too deeply"


class MalformedRequestError(ValueError):
    """The body is no OTLP trace request; the text says why, in one line."""


def from_protobuf(body: bytes) -> OtlpSpans:
    """Return the spans of a binary request; raises MalformedRequestError when not even its frame can be read."""
    try:
        return from_otlp(EncodedSpans.FromString(body).resource_spans)
    except DecodeError:
        refused: list[str] = []
        return _read([_bearable(group, refused) for group in _parts(body, _GROUP)], refused)


def from_json(body: bytes | str) -> OtlpSpans:
    """Return the spans of a JSON request; raises MalformedRequestError for what is no JSON object of that shape."""
    document = json_document(body)
    if not isinstance(document, dict):
        raise MalformedRequestError("the body is not a JSON object with resourceSpans")
    refused: list[str] = []
    groups: list[ResourceSpans] = []
    for group in _list(cast("_Json", document), "resourceSpans"):
        made = ResourceSpans()
        unknown = _fill(made.resource, group.get("resource"), "resource")
        for scope_spans in _list(group, "scopeSpans"):
            inner = made.scope_spans.add()
            _fill(inner.scope, scope_spans.get("scope"), "scope")
            for span in _list(scope_spans, "spans"):
                if unknown:
                    refused.append(f"a span's resource is not valid: {unknown}")
                    continue
                try:
                    ParseDict(_with_bytes_ids(span), inner.spans.add(), ignore_unknown_fields=True)
                except ParseError as error:
                    del inner.spans[-1]
                    refused.append(f"span {str(span.get('name'))[:100]!r} is not valid: {_first_line(error)}")
        groups.append(made)
    return _read(groups, refused)


def json_document(body: bytes | str) -> object:
    """Return what JSON text says; a character of which only a part is there becomes U+FFFD, as everywhere in a row.

    Raises MalformedRequestError when it is not JSON.
    """
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(body)
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        return orjson.loads(_ESCAPE.sub(_whole, text))
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(f"the body is not JSON: {error}") from None


def _read(groups: Iterable[ResourceSpans], refused: Iterable[str]) -> OtlpSpans:
    """Return the spans of messages that were decoded to the last attribute; `refused` are those lost on the way."""
    body = ExportTraceServiceRequest(resource_spans=groups).SerializeToString()
    found = from_otlp(EncodedSpans.FromString(body).resource_spans)
    return OtlpSpans(found.records, (*found.refused, *refused))


def _bearable(group: bytes, refused: list[str]) -> ResourceSpans:
    """Return what of one encoded ResourceSpans can be decoded; a line for each span that cannot goes to `refused`."""
    made = ResourceSpans()
    try:
        made.ParseFromString(group)
    except DecodeError:
        made.Clear()
    else:
        return made
    known = _merged(made.resource, Resource, _parts(group, _GROUP))
    for scope_spans in _parts(group, _ITEMS):
        inner = made.scope_spans.add()
        _merged(inner.scope, InstrumentationScope, _parts(scope_spans, _GROUP))
        for encoded in _parts(scope_spans, _ITEMS):
            if not known:
                refused.append(f"a span's resource {_BAD_BYTES}")
                continue
            try:
                inner.spans.append(Span.FromString(encoded))
            except DecodeError:
                refused.append(f"a span {_BAD_BYTES}")
    return made


def _merged(into: Message, kind: type[Resource | InstrumentationScope], parts: Iterator[bytes]) -> bool:
    """Decode `parts` into a message; False, and nothing changed, when one cannot be decoded."""
    try:
        for part in parts:
            into.MergeFrom(kind.FromString(part))
    except DecodeError:
        return False
    return True


def _parts(data: bytes, number: int) -> Iterator[bytes]:
    """Yield the length-delimited fields `number` of an encoded message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _LENGTH_DELIMITED:
            size, at = _varint(data, at)
            if at + size > len(data):
                raise MalformedRequestError("the body ends in the middle of a message")
            if tag >> 3 == number:
                yield data[at : at + size]
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            raise MalformedRequestError("the body is not a protobuf message")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_VARINT_BYTES):
        if at >= len(data):
            raise MalformedRequestError("the body ends in the middle of a message")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # noqa: PLR2004 - the continuation bit of a varint
            return value, at
    raise MalformedRequestError("the body is not a protobuf message")


def _whole(escape: re.Match[str]) -> str:
    return "\\ufffd" if escape["half"] else escape[0]


def _fill(message: Message, said: object, name: str) -> str:
    """Fill a message; return why nothing was, or nothing when all is well."""
    if said is None:
        return ""
    if not isinstance(said, dict):
        raise MalformedRequestError(f"a {name} is not valid: it is no object")
    try:
        ParseDict(cast("_Json", said), message, ignore_unknown_fields=True)
    except ParseError as error:
        message.Clear()
        return _first_line(error)
    return ""


def _list(document: _Json, name: str) -> list[_Json]:
    items: object = document.get(name)
    if items is None:
        return []
    if not isinstance(items, list):
        raise MalformedRequestError(f"{name} is not a list")
    for item in cast("list[object]", items):
        if not isinstance(item, dict):
            raise MalformedRequestError(f"an item of {name} is not an object")
    return cast("list[_Json]", items)


def _with_bytes_ids(span: _Json) -> _Json:
    """Return a span whose hex ids are base64, as protobuf's JSON has bytes; what is no hex becomes empty."""
    said = {key: _base64(value) if key in _ID_KEYS else value for key, value in span.items()}
    links = said.get("links")
    if isinstance(links, list):
        said["links"] = [_with_bytes_ids(cast("_Json", link)) for link in links if isinstance(link, dict)]  # pyright: ignore[reportUnknownVariableType]
    return said


def _base64(hexadecimal: object) -> str:
    try:
        return base64.b64encode(bytes.fromhex(hexadecimal)).decode() if isinstance(hexadecimal, str) else ""
    except ValueError:
        return ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
