"""What OTLP bodies say, whole and damaged."""

from __future__ import annotations

import orjson
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from elf_automations.model.from_otlp_bytes import MalformedRequestError, from_json, from_protobuf
from otlp import as_json, request_of
from spans import tool_call


def test_both_encodings_say_the_same() -> None:
    request = request_of([tool_call(number, error="503") for number in range(3)])
    binary = from_protobuf(request.SerializeToString())
    assert len(binary.records) == 3
    assert from_json(orjson.dumps(as_json(request))) == binary


def test_json_takes_ids_of_any_case_unknown_fields_and_numbers_as_numbers() -> None:
    document = as_json(request_of([tool_call(1)]))
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    span |= {
        "traceId": span["traceId"].upper(),
        "startTimeUnixNano": int(span["startTimeUnixNano"]),
        "somethingNew": {"deep": [1]},
    }
    assert from_json(orjson.dumps(document)) == from_json(orjson.dumps(as_json(request_of([tool_call(1)]))))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("traceId", "00" * 16, "no valid trace id"),
        ("traceId", "no hex", "no valid trace id"),
        ("spanId", "abcd", "no valid span id"),
        ("startTimeUnixNano", "0", "no start time"),
        ("kind", {"not": "an enum"}, "not valid"),
    ],
)
def test_a_bad_span_is_refused_alone(field: str, value: object, reason: str) -> None:
    document = as_json(request_of([tool_call(number) for number in range(3)]))
    document["resourceSpans"][0]["scopeSpans"][0]["spans"][1][field] = value
    found = from_json(orjson.dumps(document))
    assert [record.span_id[-1] for record in found.records] == [1, 3]
    assert len(found.refused) == 1
    assert reason in found.refused[0]


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (rb"cut \ud83d", "cut \ufffd"),
        (rb"\uDE00 alone", "\ufffd alone"),
        (rb"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (rb"\"\ud83d\"", '"\ufffd"'),
        (b"cut \xf0\x9f", "cut \ufffd"),
    ],
    ids=["high", "low", "before a pair", "after a backslash", "between quotes", "bytes"],
)
def test_text_cut_inside_a_character_costs_that_character(said: bytes, read: str) -> None:
    """JavaScript writes a string it cut inside an emoji with half of a surrogate pair."""
    document = as_json(request_of([tool_call(number) for number in range(3)]))
    span = document["resourceSpans"][0]["scopeSpans"][0]["spans"][1]
    span["attributes"].append({"key": "note", "value": {"stringValue": "MARK"}})
    found = from_json(orjson.dumps(document).replace(b"MARK", said))
    assert len(found.records) == 3
    assert not found.refused
    assert found.records[1].attributes["note"] == read
    assert found.records[0].attributes == from_json(orjson.dumps(document)).records[0].attributes


@pytest.mark.parametrize("place", ["resource", "scope"])
def test_a_value_nested_too_deeply_outside_the_spans_costs_what_it_does_in_protobuf(place: str) -> None:
    good, bad = request_of([tool_call(1)]), request_of([tool_call(2), tool_call(3)])
    group = bad.resource_spans[0]
    value = (group.resource if place == "resource" else group.scope_spans[0].scope).attributes.add(key="deep").value
    for _ in range(50):
        value = value.array_value.values.add()
    value.string_value = "bottom"
    documents = [as_json(request)["resourceSpans"][0] for request in (good, bad)]
    found = from_json(orjson.dumps({"resourceSpans": documents}))
    again = from_protobuf(good.SerializeToString() + bad.SerializeToString())
    assert [record.span_id for record in found.records] == [record.span_id for record in again.records]
    assert [line.partition(":")[0] for line in found.refused] == [line.partition(":")[0] for line in again.refused]
    assert len(found.refused) == (2 if place == "resource" else 0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"resourceSpans": {}}', "resourceSpans is not a list"),
        (b'{"resourceSpans": [1]}', "an item of resourceSpans is not an object"),
        (b'{"resourceSpans": [{"resource": 1}]}', "a resource is not valid"),
    ],
)
def test_json_that_is_no_request_says_what_is_wrong(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedRequestError, match=reason):
        from_json(body)


def test_invalid_text_in_one_span_costs_that_span() -> None:
    request = request_of([tool_call(number) for number in range(3)])
    request.resource_spans[0].scope_spans[0].spans[1].name = "MARK"
    found = from_protobuf(request.SerializeToString().replace(b"MARK", b"\xff\xfe\xfd\xfc"))
    assert [record.span_id[-1] for record in found.records] == [1, 3]
    assert found.refused == ("a span is not valid: invalid UTF-8, or nested too deeply",)


def test_invalid_text_in_a_resource_costs_its_spans() -> None:
    good, bad = request_of([tool_call(1)]), request_of([tool_call(2), tool_call(3)])
    bad.resource_spans[0].resource.attributes.add(key="MARK")
    body = good.SerializeToString() + bad.SerializeToString().replace(b"MARK", b"\xff\xfe\xfd\xfc")
    found = from_protobuf(body)
    assert [record.span_id[-1] for record in found.records] == [2]
    assert found.refused == ("a span's resource is not valid: invalid UTF-8, or nested too deeply",) * 2


def test_a_value_nested_too_deeply_costs_its_span() -> None:
    request = request_of([tool_call(1), tool_call(2)])
    span: Span = request.resource_spans[0].scope_spans[0].spans[0]
    value = span.attributes.add(key="deep").value
    for _ in range(200):
        value = value.array_value.values.add()
    value.string_value = "bottom"
    found = from_protobuf(request.SerializeToString())
    assert [record.span_id[-1] for record in found.records] == [3]
    assert len(found.refused) == 1


@pytest.mark.parametrize("cut", [1, 7, 50, 200])
def test_a_truncated_body_is_malformed(cut: int) -> None:
    body = request_of([tool_call(1), tool_call(2)]).SerializeToString()
    with pytest.raises(MalformedRequestError):
        from_protobuf(body[:-cut])


def test_bytes_that_are_no_protobuf_are_malformed() -> None:
    with pytest.raises(MalformedRequestError):
        from_protobuf(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
    with pytest.raises(MalformedRequestError):
        from_protobuf(b"hello, world")


def test_an_empty_request_holds_nothing() -> None:
    assert from_protobuf(b"").records == ()
    assert from_json(b"{}").records == ()
