"""The caller's trace and baggage reach the server, whatever the message, the era and the transport."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, format_trace_id

from elf_automations import acting_as
from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

TRANSPORTS = ["http", "http-legacy", "in-process", "in-process-legacy"]


class Observing:
    """A server that notes what its handlers find around them."""

    def __init__(self, spans: Spans) -> None:
        self.tracer = spans.provider.get_tracer("http")
        self.calls: list[dict[str, Any]] = []
        self.notified: list[dict[str, Any]] = []
        self.heard: list[dict[str, Any]] = []
        self.server = MCPServer("observing", log_level="CRITICAL")
        self.server.tool()(self.look)
        self.server._lowlevel_server.middleware.append(self.note)

    async def look(self, context: Context, *, loudly: bool = False) -> str:
        if loudly:
            await context.info("hello")
        request = context.request_context.request
        self.calls.append({**around(), "headers": dict(request.headers) if request is not None else None})
        return "seen"

    async def note(self, context: Any, call_next: Any) -> Any:
        if context.request_id is None:
            self.notified.append({"method": context.method, "meta": dict(context.meta or {}), **around()})
        return await call_next(context)

    async def hear(self, params: Any) -> None:
        self.heard.append(dict(params.meta or {}))

    @asynccontextmanager
    async def client(self, transport: str):
        settings = {
            "mode": "legacy" if transport.endswith("legacy") else "auto",
            "logging_callback": self.hear,
            "log_level": "info",
        }
        if transport.startswith("in-process"):
            async with Client(self.server, **settings) as client:
                yield client
            return
        async with served(self.application) as url, Client(f"{url}/mcp", **settings) as client:
            yield client

    def application(self, _: str) -> Any:
        inner = self.server.streamable_http_app()

        async def traced(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await inner(scope, receive, send)
                return
            with self.tracer.start_as_current_span("POST /mcp", otel_context.Context(), SpanKind.SERVER):
                await inner(scope, receive, send)

        return traced


def around() -> dict[str, Any]:
    return {
        "trace": format_trace_id(trace.get_current_span().get_span_context().trace_id),
        "baggage": dict(baggage.get_all()),
    }


@asynccontextmanager
async def called_by_a_tenant(transport: str):
    """Run the body in a span and with baggage of the application's own."""
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team", correlation_id="order-7"):
        observing = Observing(spans)
        async with observing.client(transport) as client:
            observing.notified.clear()
            token = otel_context.attach(baggage.set_baggage("tenant", "acme"))
            try:
                with spans.provider.get_tracer("app").start_as_current_span("work") as work:
                    trace_id = format_trace_id(work.get_span_context().trace_id)
                    yield observing, client, trace_id, spans
            finally:
                otel_context.detach(token)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_handler_runs_in_the_callers_trace_with_the_callers_baggage_but_as_itself(transport):
    async with called_by_a_tenant(transport) as (observing, client, trace_id, _):
        await client.call_tool("look", {})
    (call,) = observing.calls
    assert call["trace"] == trace_id
    assert call["baggage"] == {"tenant": "acme", "elf.correlation.id": "order-7"}


DEPRECATED = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")


@DEPRECATED
@pytest.mark.parametrize("transport", ["http-legacy", "in-process-legacy"])
async def test_a_notification_carries_the_context_too(transport):
    async with called_by_a_tenant(transport) as (observing, client, trace_id, _):
        await client.session.send_progress_notification("some-token", 0.5)
        await client.list_tools()
    (notified,) = [found for found in observing.notified if found["method"] == "notifications/progress"]
    assert notified["meta"]["traceparent"].split("-")[1] == notified["trace"] == trace_id
    assert notified["baggage"]["tenant"] == "acme"


@DEPRECATED
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_a_server_notifies_its_client_of_carries_the_context(transport):
    async with called_by_a_tenant(transport) as (observing, client, trace_id, _):
        await client.call_tool("look", {"loudly": True})
        deadline = time.monotonic() + 5
        while not observing.heard:
            assert time.monotonic() < deadline
            await anyio.sleep(0.01)
    (heard,) = observing.heard
    assert heard["traceparent"].split("-")[1] == trace_id


@pytest.mark.parametrize("transport", ["http", "http-legacy"])
async def test_the_headers_of_the_request_say_what_meta_says(transport):
    async with called_by_a_tenant(transport) as (observing, client, trace_id, spans):
        await client.call_tool("look", {})
    headers = observing.calls[0]["headers"]
    (client_span,) = [span for span in spans.finished if span.kind is SpanKind.CLIENT and "look" in span.name]
    assert headers["traceparent"] == f"00-{trace_id}-{client_span.context.span_id:016x}-03"
    assert "tenant=acme" in headers["baggage"]


@pytest.mark.parametrize("transport", ["http", "http-legacy"])
async def test_the_http_span_around_a_request_is_linked(transport):
    async with called_by_a_tenant(transport) as (_, client, _, spans):
        await client.call_tool("look", {})
    sides = {span.kind: span for span in spans.finished if span.name == "tools/call look"}
    server = sides[SpanKind.SERVER]
    assert server.parent.span_id == sides[SpanKind.CLIENT].context.span_id
    around_it = {span.context.span_id for span in spans.finished if span.name == "POST /mcp"}
    assert len(server.links) == 1
    assert server.links[0].context.span_id in around_it


async def test_a_caller_that_only_sends_headers_is_continued():
    spans = Spans()
    with instrumented(MCPInstrumentor(), spans):
        async with (
            served(lambda _: Observing(spans).server.streamable_http_app()) as url,
            httpx.AsyncClient() as client,
        ):
            answer = await client.post(
                f"{url}/mcp",
                json={
                    "jsonrpc": "2.0",
                    "id": 1,
                    "method": "tools/call",
                    "params": {
                        "name": "look",
                        "_meta": {
                            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                            "io.modelcontextprotocol/clientInfo": {"name": "curl", "version": "8"},
                            "io.modelcontextprotocol/clientCapabilities": {},
                        },
                    },
                },
                headers={
                    "accept": "application/json, text/event-stream",
                    "mcp-protocol-version": "2026-07-28",
                    "mcp-method": "tools/call",
                    "mcp-name": "look",
                    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                },
            )
    assert answer.status_code == 200, answer.text
    (row,) = spans.counted()
    assert (row.trace_id, row.parent_span_id, row.source_id, row.source_type) == (
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
        "curl",
        "mcp_client",
    )


async def test_a_malformed_context_costs_the_parent_and_nothing_else():
    spans = Spans()
    with instrumented(MCPInstrumentor(), spans):
        async with Client(Observing(spans).server) as client:
            session = client.session
            result = await session.call_tool("look", {}, meta={"traceparent": 5, "baggage": ["?"]})
    assert result.is_error is False
    assert [row.status for row in spans.counted()] == ["success"]
