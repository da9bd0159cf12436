"""A server that asks its client: the client answers in the same trace, with a span of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.trace import SpanKind

from elf_automations import acting_as
from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.asking import answering, asking_tools, refused, sampled
from tracing import Spans, instrumented

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("over", ["memory", "http"])]


@asynccontextmanager
async def asked(over: str, answer: Any):
    if over == "memory":
        async with answering(asking_tools(), answer) as client:
            yield client
        return
    async with (
        served(lambda _: asking_tools().streamable_http_app()) as url,
        answering(f"{url}/mcp", answer) as client,
    ):
        yield client


async def test_the_client_answers_in_the_trace_of_the_request(over):
    around: list[tuple[trace.SpanContext, dict[str, object]]] = []

    async def answer() -> Any:
        around.append((trace.get_current_span().get_span_context(), dict(baggage.get_all())))
        return sampled("yes")

    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team", correlation_id="order-7"):
        async with asked(over, answer) as client:
            result = await client.call_tool("sample", {})
    assert result.content[0].text == "yes"
    sides = {span.kind: span for span in spans.finished if span.name == "sampling/createMessage"}
    client_half, server_half = sides[SpanKind.CLIENT], sides[SpanKind.SERVER]
    assert server_half.parent.span_id == client_half.context.span_id
    ((handled_in, carried),) = around
    assert handled_in == server_half.context
    assert carried == {"elf.correlation.id": "order-7"}
    for half in (client_half, server_half):
        assert half.attributes["elf.source.id"] == "asking"
        assert (half.attributes["elf.target.id"], half.attributes["elf.target.type"]) == ("answering", "mcp_client")
        assert half.attributes["mcp.protocol.version"] == "2025-11-25"
        assert half.attributes.get("network.transport") == ("tcp" if over == "http" else None)
        assert ("mcp.session.id" in half.attributes) is (over == "http")
        assert half.attributes["elf.outcome"] == "success"
    assert client_half.attributes["jsonrpc.request.id"] == server_half.attributes["jsonrpc.request.id"]
    assert client_half.attributes["elf.response.size"] == server_half.attributes["elf.response.size"]
    rows = [row for row in spans.settled().rows if row.operation == "sampling"]
    assert [(row.observed_by, row.counted) for row in sorted(rows, key=lambda row: row.timestamp)] == [
        ("client", True),
        ("server", False),
    ]
    assert len({row.trace_id for row in spans.settled().rows if row.operation in {"tool_call", "sampling"}}) == 1


@pytest.mark.parametrize("raises", [False, True])
async def test_an_answer_that_fails_is_an_error_on_both_sides(over, raises):
    async def answer() -> Any:
        if raises:
            raise ValueError("no model")
        return refused("not now")

    async def seen() -> tuple[object, ...]:
        async with asked(over, answer) as client:
            return await outcome_of(client, "sample")

    without = await seen()
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        assert await seen() == without
    ends = {span.kind: span.attributes["elf.outcome"] for span in spans.finished if "sampling" in span.name}
    assert ends == {SpanKind.CLIENT: "error", SpanKind.SERVER: "error"}


async def test_a_client_that_cannot_answer_says_so(over):
    async def answer() -> Any:
        raise AssertionError

    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with asked(over, answer) as client:
            await outcome_of(client, "look_around")
    ends = {span.kind: span.attributes["elf.outcome"] for span in spans.finished if span.name == "roots/list"}
    assert ends == {SpanKind.CLIENT: "error", SpanKind.SERVER: "error"}


async def outcome_of(client: Any, tool: str) -> tuple[object, ...]:
    try:
        result = await client.call_tool(tool, {})
    except Exception as error:
        return type(error), str(error)
    return type(result), repr(result.content)
