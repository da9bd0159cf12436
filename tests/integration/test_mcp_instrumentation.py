"""Every MCP call is one counted row with its true outcome, and the application notices nothing."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp.client import stdio
from mcp.client.session import ClientSession
from mcp.server.mcpserver import MCPServer
from mcp.server.runner import ServerRunner
from mcp.shared import jsonrpc_dispatcher
from mcp_types import Implementation
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from elf_automations import acting_as
from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from mcp_server import weather_tools
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

STDIO = StdioServerParameters(
    command=sys.executable, args=[str(Path(__file__).parents[1] / "mcp_server.py")], env={"PYTHONWARNINGS": "ignore"}
)
TRANSPORTS = ["http", "http-legacy", "stdio", "in-process", "in-process-legacy"]


@asynccontextmanager
async def client_of(transport: str):
    mode = "legacy" if transport.endswith("legacy") else "auto"
    if transport.startswith("http"):
        async with (
            served(lambda _: weather_tools().streamable_http_app()) as url,
            Client(f"{url}/mcp", mode=mode) as client,
        ):
            yield client
    else:
        async with Client(STDIO if transport == "stdio" else weather_tools(), mode=mode) as client:
            yield client


async def everything(client: Client) -> list[object]:
    """Call everything in every way it can end; return what the application sees."""
    seen: list[object] = []

    async def see(call):
        try:
            result = await call
            seen.append(result.model_dump(mode="json", exclude={"meta"}))
        except Exception as error:
            seen.append((type(error), str(error)))

    async def impatiently():
        async with asyncio.timeout(0.2):
            return await client.call_tool("slow", {"seconds": 5})

    await see(client.call_tool("get_weather", {"city": "Oslo"}))
    await see(client.call_tool("broken", {"city": "Oslo"}))
    await see(client.session.call_tool("slow", {"seconds": 5}, read_timeout_seconds=0.2))
    await see(impatiently())
    await see(client.call_tool("nothing", {}))
    await see(client.call_tool("get_weather", {}))
    await see(client.get_prompt("greet", {"name": "Ada"}))
    await see(client.read_resource("weather://today"))
    await see(client.read_resource("weather://never"))
    await see(client.list_tools())
    return seen


EXPECTED = [
    ("tool_call", "get_weather", "success", None),
    ("tool_call", "broken", "error", "tool_error"),
    ("tool_call", "slow", "timeout", "-32001"),
    ("tool_call", "slow", "cancelled", None),
    ("tool_call", "nothing", "error", "tool_error"),
    ("tool_call", "get_weather", "error", "tool_error"),
    ("prompt_get", None, "success", None),
    ("resource_read", None, "success", None),
    ("resource_read", None, "error", "-32602"),
    ("tool_list", None, "success", None),
]


async def settled_down(spans: Spans) -> None:
    """Wait until the servers have ended their half of the calls that were given up."""
    deadline = asyncio.get_running_loop().time() + 5
    while asyncio.get_running_loop().time() < deadline:
        before = len(spans.finished)
        await asyncio.sleep(0.1)
        if len(spans.finished) == before:
            return


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_each_call_is_one_counted_row_with_its_true_outcome(transport):
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
        async with client_of(transport) as client:
            await everything(client)
            await settled_down(spans)
    rows = spans.counted()
    assert [(row.operation, row.tool_name, row.status, row.error_code) for row in rows] == EXPECTED
    assert {(row.source_id, row.source_type, row.target_id, row.target_type) for row in rows} == {
        ("marketing-team", "team", "weather-tools", "mcp")
    }
    assert {row.observed_by for row in rows} == {"client"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_the_application_sees_the_same_with_and_without_telemetry(transport):
    async with client_of(transport) as client:
        without = await everything(client)
    with instrumented(MCPInstrumentor(), Spans()):
        async with client_of(transport) as client:
            assert await everything(client) == without


@pytest.mark.parametrize("transport", ["http", "http-legacy", "in-process"])
async def test_the_server_continues_the_callers_trace_and_knows_its_caller(transport):
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team", correlation_id="order-7"):
        async with client_of(transport) as client:
            await client.call_tool("get_weather", {"city": "Oslo"})
    sides = {row.observed_by: row for row in spans.settled().rows if row.tool_name}
    client_row, server_row = sides["client"], sides["server"]
    assert server_row.trace_id == client_row.trace_id
    assert server_row.parent_span_id == client_row.span_id
    assert (server_row.source_id, server_row.source_type) == ("sales-team", "team")
    assert server_row.correlation_id == client_row.correlation_id == "order-7"
    assert not server_row.counted


async def test_an_untraced_caller_is_named_by_its_client_info(monkeypatch):
    with instrumented(MCPInstrumentor(), Spans()) as spans, monkeypatch.context() as patched:
        patched.setattr(ClientSession, "send_request", ClientSession.send_request.__wrapped__)
        patched.setattr(jsonrpc_dispatcher, "otel_span", _no_span)
        async with (
            served(lambda _: weather_tools().streamable_http_app()) as url,
            Client(f"{url}/mcp", client_info=Implementation(name="cursor", version="1")) as client,
        ):
            await client.call_tool("get_weather", {"city": "Oslo"})
    calls = [row for row in spans.counted() if row.operation == "tool_call"]
    assert [(row.observed_by, row.source_id, row.source_type, row.target_id) for row in calls] == [
        ("server", "cursor", "mcp_client", "weather-tools")
    ]


@contextmanager
def _no_span(*_, **__):
    yield trace.INVALID_SPAN


async def test_a_handshake_made_inside_an_in_process_call_leaves_that_calls_span_alone():
    """The SDK's own span of a nested `server/discover` must not be taken for the outer call's."""
    async with served(lambda _: weather_tools().streamable_http_app()) as url:
        relay = MCPServer("relay", log_level="CRITICAL")

        @relay.tool()
        async def forward(city: str) -> str:
            async with Client(f"{url}/mcp") as inner:
                return (await inner.call_tool("get_weather", {"city": city})).content[0].text

        with instrumented(MCPInstrumentor(), Spans()) as spans:
            async with Client(relay) as client:
                await client.call_tool("forward", {"city": "Oslo"})
    outer, inner = spans.counted()
    assert (outer.target_id, outer.tool_name, inner.source_id, inner.target_id) == (
        "relay",
        "forward",
        "relay",
        "weather-tools",
    )
    (half,) = [row for row in spans.settled().rows if row.parent_span_id == outer.span_id and row.target_id == "relay"]
    assert outer.metadata["jsonrpc_request_id"] == half.metadata["jsonrpc_request_id"]
    assert inner.trace_id == outer.trace_id


async def test_a_servers_registry_entry_carries_its_name_address_and_tools():
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with client_of("http") as client:
            await client.list_tools()
            await client.call_tool("get_weather", {"city": "Oslo"})
    (entity,) = [entity for entity in spans.settled().entities if entity.entity_type == "mcp_server"]
    assert entity.entity_id == "weather-tools"
    assert entity.endpoint_url is not None
    assert entity.endpoint_url.endswith("/mcp")
    assert entity.capabilities == ("get_weather", "broken", "slow")


async def test_a_suppressed_call_is_not_recorded():
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with client_of("in-process-legacy") as client:
            spans.clear()
            with suppress_instrumentation():
                await client.list_tools()
    assert [span.name for span in spans.finished if span.kind is SpanKind.CLIENT and "elf" in scope_of(span)] == []


def scope_of(span: ReadableSpan) -> str:
    return span.instrumentation_scope.name if span.instrumentation_scope else ""


async def test_what_a_result_tells_of_its_usage_is_on_both_sides():
    server = MCPServer("model-tools", log_level="CRITICAL")

    @server.tool()
    def ask(question: str) -> dict[str, object]:
        return {"answer": question, "usage": {"input_tokens": 20, "output_tokens": 5}, "model": "claude-sonnet-4-5"}

    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with Client(server) as client:
            await client.call_tool("ask", {"question": "why"})
    (row,) = spans.counted()
    assert row.tokens_used == 25
    assert row.payload_size_bytes == len(b'{"question":"why"}')
    for span in spans.finished:
        if span.name == "tools/call ask":
            assert span.attributes["gen_ai.response.model"] == "claude-sonnet-4-5"
            assert span.attributes["elf.response.size"] > 100


def test_a_patch_point_that_moved_costs_one_line_and_only_that_part(monkeypatch, caplog):
    monkeypatch.delattr(ServerRunner, "_on_request")
    monkeypatch.delattr(stdio, "stdio_client")
    instrumentor = MCPInstrumentor()
    instrumentor.instrument(tracer_provider=Spans().provider)
    try:
        assert sorted((record.levelname, record.getMessage().split(":")[0]) for record in caplog.records) == [
            ("WARNING", "mcp has no mcp.client.stdio.stdio_client"),
            ("WARNING", "mcp has no mcp.server.runner.ServerRunner._on_request"),
        ]
        assert hasattr(ClientSession.send_request, "__wrapped__")
    finally:
        instrumentor.uninstrument()
    assert not hasattr(ClientSession.send_request, "__wrapped__")
