"""A call that takes several rounds of requests is one call: one counted row, one trace, its whole duration."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from mcp import Client, MCPError
from mcp.client.session import ClientSession
from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from mcp_types import ElicitResult
from opentelemetry import trace
from pydantic import BaseModel, Field

from elf_automations import acting_as
from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

PONDERED = 0.2


class Confirmed(BaseModel):
    ok: bool


async def confirm(path: str) -> Elicit[Confirmed]:
    return Elicit(f"Delete {path}?", Confirmed)


def file_tools() -> MCPServer:
    server = MCPServer("file-tools", log_level="CRITICAL")

    @server.tool()
    async def delete(path: str, confirmed: Annotated[Confirmed, Resolve(confirm)]) -> str:
        if not confirmed.ok:
            raise ValueError("not confirmed")
        return f"deleted {path}"

    @server.tool()
    async def move(path: Annotated[str, Field(json_schema_extra={"x-mcp-header": "Path"})]) -> str:
        return f"moved {path}"

    return server


@asynccontextmanager
async def client_of(transport: str, answer: Any):
    if transport == "in-process":
        async with Client(file_tools(), elicitation_callback=answer) as client:
            yield client
        return
    async with (
        served(lambda _: file_tools().streamable_http_app()) as url,
        Client(f"{url}/mcp", elicitation_callback=answer) as client,
    ):
        yield client


def answering(*, ok: bool, around: list[trace.SpanContext] | None = None) -> Any:
    async def answer(*_: Any) -> ElicitResult:
        if around is not None:
            around.append(trace.get_current_span().get_span_context())
        await asyncio.sleep(PONDERED)
        return ElicitResult(action="accept", content={"ok": ok})

    return answer


@pytest.mark.parametrize("transport", ["in-process", "http"])
@pytest.mark.parametrize(("ok", "status"), [(True, "success"), (False, "error")])
async def test_a_call_that_asks_for_input_is_one_row_in_one_trace(transport, ok, status):
    around: list[trace.SpanContext] = []
    before = trace.get_current_span()
    with instrumented(MCPInstrumentor(), Spans()) as spans, acting_as("sales-team"):
        async with client_of(transport, answering(ok=ok, around=around)) as client:
            result = await client.call_tool("delete", {"path": "x"})
            assert trace.get_current_span() is before
    rows = [row for row in spans.settled().rows if row.operation == "tool_call"]
    (counted,) = [row for row in rows if row.counted]
    assert (counted.tool_name, counted.status, counted.target_id) == ("delete", status, "file-tools")
    assert counted.duration_ms >= PONDERED * 1000
    assert sorted(row.observed_by for row in rows) == ["client", "client", "server", "server"]
    assert {row.trace_id for row in rows} == {f"{around[0].trace_id:032x}"}
    assert counted.metadata["response_size_bytes"] == len(
        result.model_dump_json(by_alias=True, exclude_none=True).encode()
    )


async def test_the_application_sees_the_same():
    async def seen() -> list[object]:
        async with client_of("http", answering(ok=True)) as client:
            return [
                (await client.call_tool(name, {"path": "x"})).model_dump(mode="json", exclude={"meta"})
                for name in ("delete", "move")
            ]

    without = await seen()
    with instrumented(MCPInstrumentor(), Spans()):
        assert await seen() == without


async def test_a_call_that_is_sent_again_with_the_headers_the_server_wants_is_one_row():
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with client_of("http", None) as client:
            result = await client.call_tool("move", {"path": "x"})
    assert result.content[0].text == "moved x"
    assert "-32020" in [span.attributes.get("error.type") for span in spans.finished]
    assert [(row.operation, row.tool_name, row.status) for row in spans.counted()] == [("tool_call", "move", "success")]
    assert len({row.trace_id for row in spans.settled().rows if row.operation == "tool_call"}) == 1


async def test_a_call_whose_headers_are_refused_for_good_is_one_error(monkeypatch):
    monkeypatch.setattr(ClientSession, "_resolve_param_headers", lambda *_: {})
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with client_of("http", None) as client:
            with pytest.raises(MCPError) as refused:
                await client.call_tool("move", {"path": "x"})
    assert refused.value.code == -32020
    (row,) = spans.counted()
    assert (row.tool_name, row.status, row.error_code) == ("move", "error", "-32020")


async def test_a_call_given_up_between_its_rounds_is_one_cancelled_row():
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with client_of("in-process", answering(ok=True)) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(PONDERED / 2):
                    await client.call_tool("delete", {"path": "x"})
    assert [(row.tool_name, row.status) for row in spans.counted()] == [("delete", "cancelled")]


async def test_an_application_that_asks_in_rounds_itself_ends_each_of_them():
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with client_of("in-process", answering(ok=True)) as client:
            before = trace.get_current_span()
            await client.session.call_tool("delete", {"path": "x"}, allow_input_required=True)
            assert trace.get_current_span() is before
            assert [span.name for span in spans.finished if span.kind is trace.SpanKind.CLIENT][-1:] == [
                "tools/call delete"
            ]
