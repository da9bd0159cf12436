"""Over the older SSE transport, on both majors of the SDK: one trace, the address, headers, and the span around."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import ClientSession
from mcp.client.sse import sse_client
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind

from elf_automations import acting_as
from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from matrix.server import weather_tools
from matrix.stacks import MCP
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio


class Web:
    """The server as a web application in whose requests somebody else opens spans."""

    def __init__(self, spans: Spans) -> None:
        self.headers: list[dict[str, str]] = []
        self._tracer = spans.provider.get_tracer("http")

    def __call__(self, _: str) -> Any:
        application = weather_tools(f"mcp-{MCP}").sse_app()

        async def traced(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            if scope["method"] == "POST":
                self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
            with self._tracer.start_as_current_span(scope["method"], otel_context.Context(), SpanKind.SERVER):
                await application(scope, receive, send)

        return traced


@asynccontextmanager
async def client_of(web: Web, headers: dict[str, str] | None = None):
    async with (
        served(web) as url,
        sse_client(f"{url}/sse", headers=headers) as (read, write),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        yield session


@pytest.fixture
async def called():
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team"):
        web = Web(spans)
        async with client_of(web) as client:
            await client.call_tool("get_weather", {"city": "Oslo"})
            await client.call_tool("broken", {"city": "Oslo"})
    sides = {span.kind: span for span in spans.finished if span.name == "tools/call get_weather"}
    return spans, web, sides[SpanKind.CLIENT], sides[SpanKind.SERVER]


async def test_each_call_is_one_counted_row(called):
    spans, _, client, server = called
    rows = [(row.tool_name, row.status) for row in spans.counted() if row.operation == "tool_call"]
    assert rows == [("get_weather", "success"), ("broken", "error")]
    assert server.parent.span_id == client.context.span_id
    assert server.attributes["elf.source.id"] == "sales-team"
    for half in (client, server):
        assert (half.attributes["network.transport"], half.attributes["network.protocol.name"]) == ("tcp", "http")
    assert client.attributes["elf.target.endpoint"].endswith("/sse")


async def test_the_headers_of_the_request_say_what_meta_says(called):
    _, web, client, _ = called
    trace_id, span_id = f"{client.context.trace_id:032x}", f"{client.context.span_id:016x}"
    (mine,) = [headers for headers in web.headers if trace_id in headers.get("traceparent", "")]
    assert mine["traceparent"].split("-")[2] == span_id
    assert "sales-team" in mine["baggage"]


async def test_the_http_span_around_a_request_is_linked(called):
    spans, _, _, server = called
    posted = {span.context.span_id for span in spans.finished if span.name == "POST"}
    assert [link.context.span_id in posted for link in server.links] == [True]


async def test_headers_of_the_applications_own_stay():
    mine = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        web = Web(spans)
        async with client_of(web, mine) as client:
            await client.call_tool("get_weather", {"city": "Oslo"}, meta={"tracestate": "vendor=caf\u00e9"})
    assert {headers["traceparent"] for headers in web.headers} == {mine["traceparent"]}
    assert "baggage" in web.headers[-1]
