"""Turned off while sessions are open: calls in flight end truly, and what is called later leaves no trace."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.in_memory import linked
from matrix.server import weather_tools
from matrix.stacks import STACKS
from tracing import Spans

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]


class Switched:
    """The instrumentation, turned on and off by a test."""

    def __init__(self) -> None:
        self.spans = Spans()
        self._instrumentor = MCPInstrumentor()

    def on(self) -> None:
        self._instrumentor.instrument(tracer_provider=self.spans.provider)

    def off(self) -> None:
        if self._instrumentor.is_instrumented_by_opentelemetry:
            self._instrumentor.uninstrument()

    def ends(self) -> set[tuple[str, str]]:
        return {(span.kind.name, span.attributes["elf.outcome"]) for span in self.spans.finished}


@pytest.fixture
def telemetry():
    switched = Switched()
    switched.on()
    yield switched
    switched.off()


async def test_an_open_session_is_no_longer_recorded(stack, telemetry):
    async with linked(stack, weather_tools(stack)) as (caller, _):
        await caller.tool("get_weather", {"city": "Oslo"})
        telemetry.off()
        telemetry.spans.clear()
        assert "sunny" in (await caller.tool("get_weather", {"city": "Oslo"})).content[0].text
    assert telemetry.spans.finished == ()


async def test_an_open_session_is_recorded_once_when_turned_on_again(stack, telemetry):
    async with linked(stack, weather_tools(stack)) as (caller, _):
        await caller.tool("get_weather", {"city": "Oslo"})
        telemetry.off()
        telemetry.on()
        telemetry.spans.clear()
        await caller.tool("get_weather", {"city": "Oslo"})
    rows = telemetry.spans.settled().rows
    assert sorted((row.observed_by, row.counted) for row in rows) == [("client", True), ("server", False)]


@pytest.mark.parametrize(("fails", "outcome"), [(False, "success"), (True, "error")])
async def test_a_call_in_flight_ends_as_it_does(stack, telemetry, fails, outcome):
    server, started, go_on = weather_tools(stack), asyncio.Event(), asyncio.Event()

    @server.tool()
    async def waits() -> str:
        started.set()
        await go_on.wait()
        if fails:
            raise ValueError("no station")
        return "at last"

    async with linked(stack, server) as (caller, _):
        await caller.tool("get_weather", {"city": "Oslo"})
        telemetry.spans.clear()
        call = asyncio.create_task(seen(caller.tool("waits", {})))
        await started.wait()
        telemetry.off()
        go_on.set()
        await call
    assert telemetry.ends() == {("CLIENT", outcome), ("SERVER", outcome)}


async def seen(call: Any) -> Any:
    try:
        return await call
    except Exception as error:
        return error
