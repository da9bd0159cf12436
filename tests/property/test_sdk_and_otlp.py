"""The in-process exporter and the sink give the same rows for the same spans."""

from __future__ import annotations

import math
from typing import Any

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
_SCALARS = (
    _TEXTS
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.binary(max_size=20)
    | st.none()
)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(_TEXTS.filter(bool), inner, max_size=3),
    max_leaves=6,
)
_STATES = st.sampled_from(
    ["COMPLETED", "FAILED", "REJECTED", "CANCELED", "AUTH_REQUIRED", "INPUT_REQUIRED", "SUBMITTED", "WORKING"]
)
_STATUSES = st.sampled_from([200, 202, 400, 401, 404, 503, "200", "503", 503.0])
_MCP_METHODS = st.sampled_from(["tools/call", "tools/list", "initialize", "ping", "prompts/get", "resources/read"])
_JSON = st.sampled_from(
    [
        '{"params": {"name": "search", "arguments": {"city": "Oslo"}}}',
        '{"content": [{"type": "text", "text": "no"}], "isError": true}',
        '{"code": -32001, "message": "timed out"}',
        '{"content": []}',
        "[",
    ]
)
# Whose spans say what: the scope, span names, and attributes with the values that mean something there.
_DIALECTS: dict[str, tuple[st.SearchStrategy[str], dict[str, st.SearchStrategy[Any]]]] = {
    "a2a": (
        st.sampled_from(["SendMessage", "a2a"]),
        {
            "a2a.method.name": st.sampled_from(["SendMessage", "SendStreamingMessage", "GetTask", "CancelTask", "x"]),
            "a2a.method": st.sampled_from(["message/send", "tasks/get", "tasks/resubscribe"]),
            "a2a.task.state": _STATES.map("TASK_STATE_{}".format)
            | _STATES.map(lambda state: state.lower().replace("_", "-")),
            "gen_ai.a2a.task.state": _STATES,
            "a2a.task.id": _TEXTS,
            "a2a.message.id": _TEXTS,
            "a2a.message.reference_task_ids": st.lists(_TEXTS, max_size=2).map(tuple),
            "gen_ai.agent.name": _TEXTS,
            "server.address": _TEXTS,
            "server.port": st.integers(1, 65_535),
            "error.type": st.sampled_from(["-32001", "CancelledError", "500"]),
        },
    ),
    "agentgateway": (
        st.sampled_from(["call_tool search", "list_tools"]),
        {
            "mcp.method.name": _MCP_METHODS,
            "gen_ai.tool.name": _TEXTS,
            "mcp.target": _TEXTS,
            "jwt.sub": _TEXTS,
            "src.identity": _TEXTS,
            "http.status": _STATUSES,
            "http.response.status_code": _STATUSES,
            "mcp.error.code": st.sampled_from(["-32601", "-32001", -32000]),
            "mcp.error.message": _TEXTS,
            "error": _TEXTS,
            "retry.attempt": st.integers(0, 3),
            "agw.ai.usage.cost.total": st.floats(0, 10),
        },
    ),
    "openlit.otel.tracing": (
        st.sampled_from(["mcp tools/call", "mcp tools/list", "mcp server"]),
        {
            "mcp.tool.name": _TEXTS,
            "mcp.error.code": st.sampled_from(["-32601", "-32001", -32000]),
            "mcp.error.message": _TEXTS,
            "mcp.response.size": st.integers(0, 10_000),
        },
    ),
    "logfire.mcp": (
        st.sampled_from(["MCP request: tools/call search", "MCP server handle request: tools/call"]),
        {
            "rpc.method": _MCP_METHODS,
            "request": _JSON,
            "response": _JSON,
            "logfire.span_type": st.sampled_from(["span", "pending_span"]),
        },
    ),
    "opentelemetry.instrumentation.mcp.instrumentation": (
        st.sampled_from(["search.tool", "tools/list.mcp"]),
        {"traceloop.entity.name": _TEXTS, "traceloop.entity.input": _JSON},
    ),
    "n8n-workflow": (
        st.sampled_from(["workflow.execute", "node.execute"]),
        {
            "n8n.workflow.id": _TEXTS,
            "n8n.execution.id": _TEXTS,
            "n8n.execution.status": st.sampled_from(["success", "error", "crashed", "canceled", "waiting", "running"]),
            "n8n.execution.mode": st.sampled_from(["webhook", "integrated", "error", "manual"]),
            "n8n.node.name": _TEXTS,
            "n8n.node.type": st.sampled_from(["n8n-nodes-base.httpRequest", "n8n-nodes-base.set"]),
            "n8n.node.termination_reason": st.just("workflow_cancelled"),
        },
    ),
}
_MIXED: tuple[st.SearchStrategy[str], dict[str, st.SearchStrategy[Any]]] = (
    st.sampled_from(["tools/call search", "MCP send tools/call search", "workflow.execute"]) | _TEXTS,
    dict.fromkeys(_NAMES, _VALUES),
)
_TRACES = st.integers(1, 3)
_SPANS = st.integers(1, 12)


@st.composite
def _some(draw: st.DrawFn, named: dict[str, st.SearchStrategy[Any]], most: int) -> dict[str, Any]:
    return {name: draw(named[name]) for name in draw(st.sets(st.sampled_from(sorted(named)), max_size=most))}


@st.composite
def _spans(draw: st.DrawFn) -> ReadableSpan:
    trace, parent = draw(_TRACES), draw(st.none() | _SPANS)
    scope = draw(st.sampled_from(["mcp-python-sdk", "fastmcp", "n8n", "x", *_DIALECTS]))
    names, attributes = _DIALECTS.get(scope, _MIXED)
    start = START_NS + draw(st.integers(0, 10**9))
    return ReadableSpan(
        name=draw(names),
        context=_context(trace, draw(_SPANS)),
        parent=_context(trace, parent) if parent else None,
        resource=Resource(draw(st.dictionaries(st.sampled_from(["service.name", "elf.entity.id"]), _TEXTS))),
        kind=draw(st.sampled_from(SpanKind)),
        attributes=draw(_some(dict.fromkeys(_NAMES, _VALUES), most=3)) | draw(_some(attributes, most=8)),
        events=[
            Event("exception", {"exception.type": draw(_TEXTS), "exception.message": draw(_TEXTS)}, start)
            for _ in range(draw(st.integers(0, 2)))
        ],
        links=[Link(_context(9, 9))] if draw(st.booleans()) else [],
        status=draw(st.sampled_from([Status(StatusCode.UNSET), Status(StatusCode.ERROR, "it failed")])),
        start_time=start,
        end_time=start + draw(st.integers(0, 10**10)),
        instrumentation_scope=InstrumentationScope(scope, "1"),
    )


def _context(trace: int, span: int) -> SpanContext:
    return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(1))


@given(st.lists(_spans(), max_size=12, unique_by=lambda span: (span.context.trace_id, span.context.span_id)))
def test_the_same_spans_give_the_same_rows_and_entities(spans: list[ReadableSpan]) -> None:
    sdk = SdkSpans()
    records = {(record.trace_id, record.span_id): record for span in spans if (record := sdk.record(span))}
    request = request_of(spans)
    for found in (from_protobuf(request.SerializeToString()), from_json(orjson.dumps(as_json(request)))):
        assert not found.refused
        mapped = map_batch(found.records)
        assert sorted(mapped.rows, key=_key) == sorted(map_batch(list(records.values())).rows, key=_key)
        # The encoder groups spans by resource and scope, and of two that describe one entity the first is believed.
        direct = map_batch([records[record.trace_id, record.span_id] for record in found.records])
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
