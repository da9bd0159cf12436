"""What a call's two halves say of the connection between them, when there is none but memory."""

from __future__ import annotations

import asyncio

import pytest

from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.in_memory import linked
from matrix.server import weather_tools
from matrix.stacks import STACKS
from tracing import Spans, instrumented

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]


async def test_a_session_in_memory_goes_over_no_transport(stack):
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with linked(stack, weather_tools(stack)) as (caller, _):
            await caller.tool("get_weather", {"city": "Oslo"})
    halves = [span for span in spans.finished if span.name == "tools/call get_weather"]
    assert [span.attributes.get("network.transport") for span in halves] == [None, None]


async def test_calls_at_the_same_time_have_the_same_id_on_both_sides(stack):
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with linked(stack, weather_tools(stack)) as (caller, _):
            await asyncio.gather(*(caller.tool("slow", {"seconds": 0.05 * (3 - n)}) for n in range(3)))
    ids: dict[int, list[str]] = {}
    for span in spans.finished:
        if span.name == "tools/call slow":
            ids.setdefault(span.context.trace_id, []).append(span.attributes["jsonrpc.request.id"])
    assert len(ids) == 3
    assert all(len(pair) == 2 and len(set(pair)) == 1 for pair in ids.values()), ids
