"""What a server alone knows of a call in rounds: the request that brings the input goes on with the one before."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import pytest
from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from opentelemetry import trace
from pydantic import BaseModel

from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

# Answers as often as it is asked with the words it is given, the last of them for ever; "-" gives up.
CLIENT = """
import asyncio, sys
from mcp import Client
from mcp_types import ElicitResult

url, tool, *words = sys.argv[1:]

async def answer(*_):
    word = words.pop(0) if len(words) > 1 else words[0]
    if word == "-":
        raise SystemExit
    return ElicitResult(action="accept", content={"word": word})

async def main():
    async with Client(url, elicitation_callback=answer) as client:
        await client.call_tool(tool, {"path": "x"})

asyncio.run(main())
"""


class Said(BaseModel):
    word: str


async def sure(path: str) -> Elicit[Said]:
    return Elicit(f"Delete {path}?", Said)


async def really(path: str, first: Annotated[Said, Resolve(sure)]) -> Elicit[Said]:
    return Elicit(f"{first.word}, but really {path}?", Said)


def file_tools() -> MCPServer:
    server = MCPServer("file-tools", log_level="CRITICAL")

    @server.tool()
    async def delete(path: str, second: Annotated[Said, Resolve(really)]) -> str:
        if second.word != "yes":
            raise ValueError("not confirmed")
        return f"deleted {path}"

    return server


async def called(*conversations: list[str]) -> Spans:
    """Return the spans of an instrumented server that clients without any telemetry called, one after the other."""
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with served(lambda _: file_tools().streamable_http_app()) as url:
            for words in conversations:
                client = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CLIENT, f"{url}/mcp", "delete", *words, stderr=asyncio.subprocess.DEVNULL
                )
                await client.wait()
    return spans


def outcomes(spans: Spans) -> list[str]:
    return [row.status for row in spans.counted() if row.operation == "tool_call"]


@pytest.mark.parametrize(("last", "status"), [("yes", "success"), ("no", "error")])
async def test_the_rounds_of_a_call_are_one_row_with_the_last_ones_end(last, status):
    spans = await called(["well", last])
    rows = [row for row in spans.settled().rows if row.operation == "tool_call"]
    assert len(rows) == 3
    assert len({row.trace_id for row in rows}) == 1
    assert outcomes(spans) == [status]


async def test_a_round_that_nobody_goes_on_with_is_a_call():
    spans = await called(["-"], ["yes"], ["well", "-"])
    assert outcomes(spans) == ["success"] * 3
    assert len([row for row in spans.settled().rows if row.operation == "tool_call"]) == 1 + 3 + 2


async def test_calls_at_once_keep_their_own_rounds():
    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with served(lambda _: file_tools().streamable_http_app()) as url:
            clients = [
                await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CLIENT, f"{url}/mcp", "delete", word, stderr=asyncio.subprocess.DEVNULL
                )
                for word in ("yes", "no")
            ]
            await asyncio.gather(*(client.wait() for client in clients))
    assert sorted(outcomes(spans)) == ["error", "success"]


async def test_the_request_around_a_later_round_is_a_link():
    around: list[trace.SpanContext] = []

    def tracing(application):
        async def traced(scope, receive, send):
            if scope["type"] != "http":
                return await application(scope, receive, send)
            with spans.provider.get_tracer("http").start_as_current_span("POST", kind=trace.SpanKind.SERVER) as span:
                around.append(span.get_span_context())
                return await application(scope, receive, send)

        return traced

    with instrumented(MCPInstrumentor(), Spans()) as spans:
        async with served(lambda _: tracing(file_tools().streamable_http_app())) as url:
            client = await asyncio.create_subprocess_exec(sys.executable, "-c", CLIENT, f"{url}/mcp", "delete", "yes")
            await client.wait()
    assert outcomes(spans) == ["success"]
    first, *later = (span for span in spans.finished if span.name == "tools/call delete")
    assert first.parent in around
    assert [link.context in around for span in later for link in span.links] == [True] * 2
