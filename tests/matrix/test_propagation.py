"""The caller's trace and baggage reach handlers of requests and notifications on every stack, headers included."""

from __future__ import annotations

import asyncio
import time
import warnings
from contextlib import asynccontextmanager
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind

from elf_automations import acting_as
from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.client import connected
from matrix.in_memory import linked
from matrix.server import http_application, weather_tools
from matrix.stacks import MCP, STACKS
from tracing import Spans, instrumented

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]


class Looking:
    """A server that notes what the handlers of its requests and notifications find around them, and the headers."""

    def __init__(self, stack: str, spans: Spans) -> None:
        self.stack = stack
        self.handled: list[dict[str, Any]] = []
        self.notified: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.server = weather_tools(stack)
        self.server.tool()(self.look)
        self._tracer = spans.provider.get_tracer("http")

    async def look(self) -> str:
        self.handled.append(around())
        return "seen"

    def __call__(self, _: str) -> Any:
        application = http_application(self.server, self.stack)

        async def traced(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            with self._tracer.start_as_current_span("HTTP", otel_context.Context(), SpanKind.SERVER):
                await application(scope, receive, send)

        return traced


def around() -> dict[str, Any]:
    return {"span": trace.get_current_span().get_span_context(), "baggage": dict(baggage.get_all())}


@asynccontextmanager
async def working(spans: Spans):
    """Run the body in a span and with baggage of the application's own."""
    token = otel_context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        with spans.provider.get_tracer("app").start_as_current_span("work") as work:
            yield work.get_span_context().trace_id
    finally:
        otel_context.detach(token)


async def test_headers_and_handler_have_the_callers_context_and_the_http_span_is_linked(stack):
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team", correlation_id="order-7"):
        looking = Looking(stack, spans)
        async with served(looking) as url, connected(stack, f"{url}/mcp") as caller, working(spans) as trace_id:
            await caller.tool("look", {})
    sides = {span.kind: span for span in spans.finished if span.name == "tools/call look"}
    client, server = sides[SpanKind.CLIENT], sides[SpanKind.SERVER]
    assert (client.context.trace_id, server.parent.span_id) == (trace_id, client.context.span_id)
    (found,) = looking.handled
    assert found["span"].trace_id == trace_id
    assert found["baggage"] == {"tenant": "acme", "elf.correlation.id": "order-7"}
    parent = f"00-{trace_id:032x}-{client.context.span_id:016x}-"
    (mine,) = [headers for headers in looking.headers if headers.get("traceparent", "").startswith(parent)]
    assert "tenant=acme" in mine["baggage"]
    http = {span.context.span_id for span in spans.finished if span.name == "HTTP"}
    assert [link.context.span_id in http for link in server.links] == [True]


async def test_a_notification_is_handled_in_the_senders_trace(stack):
    """The modern protocol has none for its servers."""
    era = stack.replace("modern", "legacy")
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team"):
        looking = Looking(stack, spans)
        listen(looking)
        async with linked(era, looking.server) as (_, session), working(spans) as trace_id:
            await tell_progress(session)
            deadline = time.monotonic() + 5
            while not looking.notified:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
    (notified,) = looking.notified
    assert notified["span"].trace_id == trace_id
    assert notified["baggage"]["tenant"] == "acme"


def listen(looking: Looking) -> None:
    """Have a handler for progress that notes what it finds."""
    low_level = next(
        found
        for name in ("_mcp_server", "_lowlevel_server")
        if (found := getattr(looking.server, name, None)) is not None
    )
    if MCP == 1:
        from mcp.types import ProgressNotification

        async def noted(_: Any) -> None:
            looking.notified.append(around())

        low_level.notification_handlers[ProgressNotification] = noted
        return

    async def note(context: Any, call_next: Any) -> Any:
        if context.method == "notifications/progress":
            looking.notified.append(around())
        return await call_next(context)

    low_level.middleware.append(note)


async def tell_progress(session: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        await session.send_progress_notification("some-token", 0.5)
