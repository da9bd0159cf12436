"""One trace from a team to n8n and from n8n to teams and tools, and rows that show who called whom."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import psycopg
import pytest
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor

from a2a_agents import agent
from asking import asked
from elf_automations import acting_as, configure, inject_context
from elf_automations.demo.serving import served
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.instrumentation.mcp import MCPInstrumentor
from elf_automations.instrumentation.trace_state import CallerPropagator, join_propagator
from mcp_server import weather_tools
from n8n_instance import Instance, Node
from sink_process import Sink, sink
from telemetry import fresh_pipeline
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

_SEND = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "complete"}]}},
}
_HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "n8n-mcp-client", "version": "2.41.1"},
    },
}
_CALL = {
    "jsonrpc": "2.0",
    "id": 2,
    "method": "tools/call",
    "params": {"name": "get_weather", "arguments": {"city": "Oslo"}},
}
_ROWS = (
    "select protocol, operation, source_id, source_type, target_id, target_type, workflow_node, status, observed_by, "
    "counted from communication_telemetry order by timestamp, id"
)
_EXPECTED = [
    ("n8n", "workflow_execution", "sales-team", "team", "wf_quotes", "workflow", None, "success", "internal", True),
    ("n8n", "workflow_step", "wf_quotes", "workflow", "pricing-team", "team", "Ask", "success", "internal", True),
    ("a2a", "send_task", "wf_quotes", "workflow", "pricing-team", "team", None, "success", "server", True),
    ("n8n", "workflow_step", "wf_quotes", "workflow", "weather-tools", "mcp", "Look", "success", "internal", True),
    ("mcp", "tool_call", "wf_quotes", "workflow", "weather-tools", "mcp", None, "success", "server", True),
]


@pytest.fixture
def collecting(database_url: str) -> Iterator[Sink]:
    with sink(database_url) as running:
        yield running


@pytest.fixture(autouse=True)
def _propagator() -> Iterator[None]:
    before = propagate.get_global_textmap()
    yield
    propagate.set_global_textmap(before)


@pytest.mark.parametrize("client", ["instrumented", "instrumented, HTTP servers too", "by hand", "by hand, no span"])
async def test_team_to_n8n_to_team_and_tool(
    database_url: str, collecting: Sink, client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each span of n8n goes to the sink in a request of its own; the called ones come before their callers or after."""
    spans = Spans()
    exporter = OTLPSpanExporter(f"{collecting.url}/v1/traces")
    traced = client.endswith("HTTP servers too")
    # The span of an HTTP server makes no row: it has to come together with the one it is around.
    spans.provider.add_span_processor(BatchSpanProcessor(exporter) if traced else SimpleSpanProcessor(exporter))

    def within(app: Any) -> Any:
        return OpenTelemetryMiddleware(app, tracer_provider=spans.provider) if traced else app

    tracer = spans.provider.get_tracer("sales")
    monkeypatch.setattr("opentelemetry.trace.get_tracer", lambda name, *_, **__: spans.provider.get_tracer(name))
    tools = weather_tools()
    async with (
        agent("pricing-team", within=within) as pricing,
        served(lambda _: within(tools.streamable_http_app())) as mcp_url,
    ):
        nodes = [
            Node("Ask", f"{pricing.url}/rpc", [_SEND], {"A2A-Version": "1.0"}),
            Node("Look", f"{mcp_url}/mcp", [_HELLO, _CALL], {"accept": "application/json, text/event-stream"}),
        ]
        instance = Instance(OTLPSpanExporter(f"{collecting.url}/v1/traces"), nodes)
        async with served(lambda _: instance.app) as n8n_url:
            with ExitStack() as stack:
                stack.enter_context(instrumented(A2AInstrumentor(), spans))
                stack.enter_context(instrumented(MCPInstrumentor(), spans))
                stack.enter_context(acting_as("sales-team"))
                headers: dict[str, str] = {}
                if client.startswith("instrumented"):
                    join_propagator()
                    stack.enter_context(instrumented(HTTPXClientInstrumentor(), spans))
                if client != "by hand, no span":
                    stack.enter_context(tracer.start_as_current_span("quote"))
                if client.startswith("by hand"):
                    headers = inject_context({})
                async with httpx.AsyncClient(timeout=30) as http:
                    answer = await http.post(f"{n8n_url}/webhook", headers=headers)
        instance.shutdown()
        spans.provider.shutdown()
    assert [reply["jsonrpc"] for reply in answer.json()] == ["2.0"] * 3, answer.json()
    asked(database_url, "select settle_communications_if_due(p_wait => true)")
    assert asked(database_url, _ROWS) == _EXPECTED
    assert asked(database_url, "select count(distinct trace_id) from communication_telemetry") == [(1,)]
    assert asked(database_url, _BELOW) == [
        ("workflow_step", "workflow_execution"),
        ("send_task", "workflow_step"),
        ("workflow_step", "workflow_execution"),
        ("tool_call", "workflow_step"),
    ]
    assert asked(database_url, "select settle_communications('-infinity')") == [(0,)]
    assert _activity(database_url) == {"wf_quotes": 5, "pricing-team": 2, "weather-tools": 2}


_BELOW = """
select row.operation, above.operation
from communication_telemetry as row
inner join communication_telemetry as above
    on row.trace_id = above.trace_id
    and above.span_id = coalesce(row.metadata ->> 'http_caller_span_id', row.parent_span_id)
order by row.timestamp, row.id
"""


def _activity(url: str) -> dict[str, Any]:
    with psycopg.connect(url) as connection:
        query = b"select entity_id, activity_count from unified_registry where activity_count > 0"
        return dict(connection.execute(query).fetchall())


def test_configure_joins_the_propagator_that_is_there(database_url: str) -> None:
    with fresh_pipeline():
        before = propagate.get_global_textmap()._propagators
        configure(database_url=database_url, instrument=False)
        assert propagate.get_global_textmap()._propagators is before
        for _ in range(2):
            configure(database_url=database_url)
        parts = propagate.get_global_textmap()._propagators
    assert [*before] == parts[:-1]
    assert isinstance(parts[-1], CallerPropagator)
