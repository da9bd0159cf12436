"""What a message's `_meta` holds never breaks the HTTP request that carries it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.client import connected
from matrix.in_memory import linked
from matrix.relays import relay
from matrix.server import http_application, weather_tools
from matrix.stacks import STACKS
from tracing import Spans, instrumented

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]

UNFIT = ["vendor=caf\u00e9", "a=1\r\nx-more: 1", "a=\u20ac", " a=1", "a=1\t", "a=" + "b" * 200_000]


class Listening:
    """A server over HTTP that notes the headers it is sent."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.headers: list[dict[str, str]] = []

    def __call__(self, _: str) -> Any:
        application = http_application(weather_tools(self.stack), self.stack)

        async def noting(scope: Any, receive: Any, send: Any) -> None:
            self.headers.append({name.decode(): value.decode() for name, value in scope.get("headers", ())})
            await application(scope, receive, send)

        return noting


@contextmanager
def traced_by(provider: TracerProvider | None) -> Iterator[None]:
    if provider is None:
        yield
        return
    instrumentor = MCPInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()


async def seen(
    stack: str, meta: dict[str, str], provider: TracerProvider | None, *, relayed: bool = False
) -> tuple[object, ...]:
    """Return what a caller sees, and which of the headers that `meta` could have brought about arrived."""
    listening = Listening(stack)
    async with AsyncExitStack() as opened:
        opened.enter_context(traced_by(provider))
        await opened.enter_async_context(asyncio.timeout(10))
        url = await opened.enter_async_context(served(listening))
        if relayed:
            caller, _ = await opened.enter_async_context(linked(stack, relay(stack, f"{url}/mcp")))
        else:
            caller = await opened.enter_async_context(connected(stack, f"{url}/mcp"))
        result = await caller.tool("get_weather", {"city": "Oslo"}, meta=meta)
        brought = {name for headers in listening.headers for name in headers if name in {"x-more", "vendor"}}
        return type(result), result.content[0].text, brought


@pytest.mark.parametrize("value", UNFIT, ids=lambda value: ascii(value)[:16])
async def test_a_value_unfit_for_a_header_stays_in_meta(stack, value):
    meta = {"tracestate": value}
    assert await seen(stack, meta, Spans().provider) == await seen(stack, meta, None)


@pytest.mark.parametrize("value", UNFIT, ids=lambda value: ascii(value)[:16])
async def test_so_it_does_where_no_provider_puts_a_context_in_its_place(stack, value):
    meta = {"traceparent": value, "tracestate": value, "baggage": value}
    assert await seen(stack, meta, NoOpTracerProvider()) == await seen(stack, meta, None)


@pytest.mark.parametrize("value", UNFIT[:2], ids=ascii)
async def test_a_server_that_passes_on_what_is_unfit_for_a_header_answers(stack, value):
    meta = {"tracestate": value}
    assert await seen(stack, meta, Spans().provider, relayed=True) == await seen(stack, meta, None, relayed=True)


async def test_a_trace_state_is_a_header_too(stack):
    listening = Listening(stack)
    with instrumented(MCPInstrumentor(), Spans()):
        async with served(listening) as url, connected(stack, f"{url}/mcp") as caller:
            await caller.tool("get_weather", {"city": "Oslo"}, meta={"tracestate": "vendor=1, other=a b"})
    assert "vendor=1, other=a b" in [headers.get("tracestate") for headers in listening.headers]
