"""A server whose handler is a client itself: each request has its own end, whatever sessions were open meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import SpanKind

from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.client import connected
from matrix.in_memory import linked
from matrix.relays import relay
from matrix.server import http_application, weather_tools
from matrix.stacks import STACKS
from tracing import Spans, instrumented

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]


def going_to(stack: str, tool: str) -> Any:
    """Return a server with a tool that has called `tool` of another server in memory when it fails."""
    server, other = weather_tools(stack), weather_tools(stack)

    @server.tool()
    async def forwards() -> str:
        async with linked(stack, other) as (caller, _):
            await caller.tool(tool, {"city": "Oslo"})
        raise ValueError("the other one is no help")

    return server


def halves(spans: Spans, name: str) -> tuple[Any, Any]:
    sides = {span.kind: span for span in spans.finished if span.name == f"tools/call {name}"}
    return sides[SpanKind.CLIENT], sides[SpanKind.SERVER]


async def test_a_tool_that_fails_after_it_asked_another_server_is_an_error_on_its_own(stack):
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with linked(stack, going_to(stack, "get_weather")) as (caller, _):
            assert await failed(caller.tool("forwards", {}))
    versions = set()
    for name, outcome in (("forwards", "error"), ("get_weather", "success")):
        client, server = halves(spans, name)
        assert (client.attributes["elf.outcome"], server.attributes["elf.outcome"]) == (outcome, outcome)
        assert server.attributes["elf.response.size"] == client.attributes["elf.response.size"]
        versions |= {client.attributes["mcp.protocol.version"], server.attributes["mcp.protocol.version"]}
    assert len(versions) == 1


async def test_both_servers_of_a_proxied_tool_that_fails_say_so(stack):
    """What the inner server answered is not what the outer one did."""
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with linked(stack, proxy(stack)) as (caller, _):
            assert await failed(caller.tool("broken", {"city": "Oslo"}))
            assert not await failed(caller.tool("get_weather", {"city": "Oslo"}))
    for name, outcome in (("broken", "error"), ("get_weather", "success")):
        found = [span for span in spans.finished if span.name == f"tools/call {name}"]
        ends = [span.attributes["elf.outcome"] for span in found if span.kind is SpanKind.SERVER]
        assert ends == [outcome] * 2, name
        assert all("elf.response.size" in span.attributes for span in found if span.kind is SpanKind.SERVER)


async def test_a_call_passed_on_with_its_meta_is_the_next_servers_own(stack):
    """The first server is asked over HTTP, the next one is in memory: the mark of the first call is not for it."""
    front = relay(stack, weather_tools(stack))
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with served(lambda _: http_application(front, stack)) as url, connected(stack, f"{url}/mcp") as caller:
            assert "sunny" in (await caller.tool("get_weather", {"city": "Oslo"})).content[0].text
    found = [span for span in spans.finished if span.name == "tools/call get_weather"]
    inner = [span for span in found if span.kind is SpanKind.SERVER and "client.port" not in span.attributes]
    (server,) = [span for span in inner if not span.attributes.get("elf.implicit")]
    assert "elf.caller.span_id" not in server.attributes
    rows = [row for row in spans.counted() if row.operation == "tool_call"]
    assert {row.observed_by for row in rows} == {"client"}
    assert [row.target_id for row in rows] == (["relay"] if stack.startswith("fastmcp") else ["relay", "weather-tools"])


async def test_a_listing_made_for_a_listing_that_nobody_asked_for_says_so_itself(stack):
    """What is above it may come in another batch."""
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        front = relay(stack, weather_tools(stack))
        async with served(lambda _: http_application(front, stack)) as url, connected(stack, f"{url}/mcp") as caller:
            assert not await failed(caller.tool("get_weather", {"city": "Oslo"}))
    listings = {span.context.span_id: span for span in spans.finished if span.name == "tools/list"}
    below = [span for span in listings.values() if span.parent and span.parent.span_id in listings]
    for span in below:
        above = listings[span.parent.span_id]
        assert span.attributes.get("elf.implicit") == above.attributes.get("elf.implicit")
    assert any(span.attributes.get("elf.implicit") for span in below)


def proxy(stack: str) -> Any:
    inner = weather_tools(stack)
    if stack.startswith("fastmcp"):
        from fastmcp.server import create_proxy

        return create_proxy(inner, name="front")
    if stack == "mcp-1":
        from mcp.server.fastmcp import FastMCP

        front: Any = FastMCP("front", log_level="CRITICAL")
    else:
        from mcp.server.mcpserver import MCPServer

        front = MCPServer("front", log_level="CRITICAL")

    async def passed_on(tool: str, city: str) -> str:
        async with linked(stack, inner) as (caller, _):
            result = await caller.tool(tool, {"city": city})
        said = result.content[0].text
        if flagged(result):
            raise ValueError(said)
        return said

    @front.tool()
    async def broken(city: str) -> str:
        return await passed_on("broken", city)

    @front.tool()
    async def get_weather(city: str) -> str:
        return await passed_on("get_weather", city)

    return front


async def failed(call: Any) -> bool:
    """Return whether a tool call failed, as its client library says so."""
    try:
        return flagged(await call)
    except Exception:
        return True


def flagged(result: Any) -> bool:
    return result.is_error if hasattr(result, "is_error") else result.isError
