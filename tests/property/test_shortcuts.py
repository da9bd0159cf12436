"""What is done the quick way for most spans gives what the thorough way gives for all."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from elf_automations.model import Communication, SpanKind, from_otlp, settle
from elf_automations.model import redact as redaction
from elf_automations.model.from_otlp_bytes import from_protobuf
from elf_automations.model.immutable import changed, record
from elf_automations.model.redact import bounded, redact
from records import span
from spans import row

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=140)


def _any(draw: st.DrawFn, depth: int) -> tuple[AnyValue, Any]:
    """Return a value as OTLP encodes it, and as records have it."""
    kinds = ["string", "bool", "int", "double", "bytes", "nothing", *(["array", "kvlist"] if depth else [])]
    value, kind = AnyValue(), draw(st.sampled_from(kinds))
    said: Any = None
    match kind:
        case "string":
            said = value.string_value = draw(_TEXT)
        case "bool":
            said = value.bool_value = draw(st.booleans())
        case "int":
            said = value.int_value = draw(st.integers(-(2**63), 2**63 - 1))
        case "double":
            said = value.double_value = draw(st.floats(allow_nan=False))
        case "bytes":
            said = value.bytes_value = draw(st.binary(max_size=140))
        case "array":
            value.array_value.SetInParent()
            items = [_any(draw, depth - 1) for _ in range(draw(st.integers(0, 2)))]
            value.array_value.values.extend(item for item, _ in items)
            said = tuple(item for _, item in items)
        case "kvlist":
            value.kvlist_value.SetInParent()
            said = {}
            for name in draw(st.lists(_TEXT, max_size=2)):
                inner, said[name] = _any(draw, depth - 1)
                value.kvlist_value.values.add(key=name).value.CopyFrom(inner)
    return value, said


@st.composite
def _attributes(draw: st.DrawFn) -> list[tuple[str, AnyValue, Any]]:
    return [(name, *_any(draw, 2)) for name in draw(st.lists(st.sampled_from(["a", "b"]) | _TEXT, max_size=4))]


@given(st.lists(_attributes(), min_size=1, max_size=3))
def test_attributes_that_were_seen_before_are_read_as_the_first_time(spans):
    """A name that comes twice has the value it had last, as in a protobuf map."""
    request = ExportTraceServiceRequest()
    inner = request.resource_spans.add().scope_spans.add()
    for attributes in spans:
        one = inner.spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=1)
        for name, value, _ in attributes:
            one.attributes.add(key=name).value.CopyFrom(value)
    body = request.SerializeToString()
    expected = [{name: said for name, _, said in attributes} for attributes in spans]
    for _ in range(2):
        assert [dict(one.attributes) for one in from_protobuf(body).records] == expected


def test_what_is_remembered_of_attributes_and_texts_has_an_end():
    request = ExportTraceServiceRequest()
    inner = request.resource_spans.add().scope_spans.add()
    for number in range(10_000):
        one = inner.spans.add(trace_id=b"t" * 16, span_id=b"s" * 8, start_time_unix_nano=1)
        one.attributes.add(key="n").value.int_value = number
        one.attributes.add(key="long").value.string_value = f"{number}" * 100
        redact(f"text {number}")
    assert len(from_protobuf(request.SerializeToString()).records) == 10_000
    assert len(from_otlp._KNOWN) <= 8192
    assert max(map(len, from_otlp._KNOWN)) <= 128
    assert len(redaction._harmless) <= 4096


@given(
    st.text(max_size=300)
    | st.sampled_from([pattern for pattern, _ in redaction._PATTERNS]).flatmap(st.from_regex)
    | st.text("?&=:@/. -_keysigtokenpwdbasicAKIA0", max_size=12)
)
def test_a_text_is_redacted_as_by_every_pattern_in_turn(text):
    thorough = text
    for pattern, replacement in redaction._PATTERNS:
        thorough = pattern.sub(replacement, thorough)
    assert redact(text) == thorough
    assert redact(text) == thorough


_ODD = st.text(max_size=20) | st.sampled_from(["x" * 300, "é" * 260, "a\x00b", "\ud800", "x" * 254 + "\x00\x00"])


@given(
    st.dictionaries(st.sampled_from(["elf.source.id", "elf.target.id", "gen_ai.tool.name", "elf.workflow.name"]), _ODD)
)
def test_names_are_bounded_one_by_one_when_they_are_not_plain_and_short_together(said):
    (made,) = settle([span(1, "x", SpanKind.CLIENT, {"mcp.method.name": "tools/call", **said})]).rows
    assert (made.source_id, made.target_id) == (
        bounded(said.get("elf.source.id") or "planner", 255),
        bounded(said.get("elf.target.id") or "unknown", 255),
    )
    assert (made.tool_name or "") == bounded(said.get("gen_ai.tool.name", ""), 255)
    assert (made.workflow_name or "") == bounded(said.get("elf.workflow.name", ""), 500)


def test_a_record_is_a_dataclass_in_all_but_the_check_at_run_time():
    @record(frozen=True, slots=True, kw_only=True)
    class Quick:
        number: int
        name: str = ""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Thorough:
        number: int
        name: str = ""

    one, same = Quick(number=1), Quick(number=1)
    assert (one, hash(one), [field.name for field in fields(one)]) == (same, hash(same), ["number", "name"])
    assert repr(one).replace("Quick", "Thorough") == repr(Thorough(number=1))
    assert changed(one, name="x") == replace(one, name="x") == Quick(number=1, name="x")
    assert changed(row(1), tokens_used=7) == replace(row(1), tokens_used=7)


def test_every_text_of_a_row_has_its_limit():
    texts = {field.name for field in fields(Communication) if field.type in {"str", "str | None"}}
    prose, made_here = {"task_description", "error_message"}, {"trace_id", "span_id", "parent_span_id"}
    bounded_ones = set(sys.modules[Communication.__module__]._LIMITS)
    assert texts == bounded_ones | prose | made_here
