"""The in-process exporter and the sink give the same rows for the same spans."""

from __future__ import annotations

import math

import orjson
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from elf_automations.model import map_batch
from elf_automations.model.from_otlp_bytes import from_json, from_protobuf
from elf_automations.model.from_sdk import SdkSpans
from otlp import as_json, request_of
from spans import START_NS

_NAMES = (
    "mcp.method.name",
    "gen_ai.tool.name",
    "gen_ai.prompt.name",
    "mcp.resource.uri",
    "rpc.method",
    "error.type",
    "elf.outcome",
    "elf.target.id",
    "elf.source.id",
    "elf.operation",
    "elf.metadata",
    "elf.tokens.used",
    "elf.cost.usd",
    "elf.capabilities.required",
    "a2a.method",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "n8n.workflow.id",
    "n8n.workflow.name",
    "elf.caller.span_id",
    "made.up",
)
_TEXTS = st.sampled_from(["tools/call", "tools/list", "search", "error", "timeout", "SendMessage", "0" * 16]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=20
)
_VALUES = (
    _TEXTS
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.lists(_TEXTS, max_size=3).map(tuple)
)
_ATTRIBUTES = st.dictionaries(st.sampled_from(_NAMES), _VALUES, max_size=8)
_TRACES = st.integers(1, 3)
_SPANS = st.integers(1, 12)


@st.composite
def _spans(draw: st.DrawFn) -> ReadableSpan:
    trace, parent = draw(_TRACES), draw(st.none() | _SPANS)
    start = START_NS + draw(st.integers(0, 10**9))
    return ReadableSpan(
        name=draw(st.sampled_from(["tools/call search", "MCP send tools/call search", "workflow.execute"]) | _TEXTS),
        context=_context(trace, draw(_SPANS)),
        parent=_context(trace, parent) if parent else None,
        resource=Resource(draw(st.dictionaries(st.sampled_from(["service.name", "elf.entity.id"]), _TEXTS))),
        kind=draw(st.sampled_from(SpanKind)),
        attributes=draw(_ATTRIBUTES),
        events=[
            Event("exception", {"exception.type": draw(_TEXTS), "exception.message": draw(_TEXTS)}, start)
            for _ in range(draw(st.integers(0, 2)))
        ],
        links=[Link(_context(9, 9))] if draw(st.booleans()) else [],
        status=draw(st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.ERROR, "it failed")])),
        start_time=start,
        end_time=start + draw(st.integers(0, 10**10)),
        instrumentation_scope=InstrumentationScope(
            draw(st.sampled_from(["mcp-python-sdk", "fastmcp", "n8n", "x"])), "1"
        ),
    )


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(1))


@given(st.lists(_spans(), max_size=12, unique_by=lambda span: (span.context.trace_id, span.context.span_id)))
def test_the_same_spans_give_the_same_rows_and_entities(spans: list[ReadableSpan]) -> None:
    sdk = SdkSpans()
    direct = map_batch([record for span in spans if (record := sdk.record(span))])
    request = request_of(spans)
    # The encoder groups spans by resource and scope: the rows are the same, their order is not.
    for found in (from_protobuf(request.SerializeToString()), from_json(orjson.dumps(as_json(request)))):
        assert not found.refused
        mapped = map_batch(found.records)
        assert sorted(mapped.rows, key=_key) == sorted(direct.rows, key=_key)
        assert mapped.entities == direct.entities
        assert (mapped.ignored, mapped.repeated, mapped.faults) == (direct.ignored, 0, ())


def _key(row: object) -> str:
    return str(getattr(row, "id", row))


def test_infinite_numbers_pass_through_json() -> None:
    span = ReadableSpan(
        name="tools/call x",
        context=_context(1, 1),
        attributes={"mcp.method.name": "tools/call", "elf.cost.usd": math.inf},
        start_time=START_NS,
        end_time=START_NS,
        resource=Resource({}),
    )
    request = request_of([span])
    assert from_json(orjson.dumps(as_json(request))).records[0].attributes["elf.cost.usd"] == math.inf


def test_an_endless_number_costs_neither_its_span_nor_its_neighbours() -> None:
    attributes = {"mcp.method.name": "tools/call", "elf.tokens.used": math.inf, "elf.payload.size": -math.inf}
    span = ReadableSpan(
        name="tools/call x",
        context=_context(1, 1),
        attributes=attributes,
        start_time=START_NS,
        end_time=START_NS,
        resource=Resource({}),
    )
    (row,) = map_batch(from_protobuf(request_of([span]).SerializeToString()).records).rows
    assert (row.tokens_used, row.payload_size_bytes) == (None, None)
