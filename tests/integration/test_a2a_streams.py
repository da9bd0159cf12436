"""Streams as applications really use them: left early, forgotten, cut off, used without a client."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from a2a.client import ClientCallContext
from a2a.client.base_client import BaseClient
from a2a.client.client import Client
from a2a.client.errors import A2AClientError
from a2a.client.interceptors import AfterArgs, BeforeArgs, ClientCallInterceptor
from a2a.client.transports.jsonrpc import JsonRpcTransport
from a2a.client.transports.rest import RestTransport
from a2a.types.a2a_pb2 import GetTaskRequest
from opentelemetry import trace

from a2a_agents import BINDINGS, agent, events_of, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio


async def ended(spans: Spans, count: int) -> None:
    async with asyncio.timeout(10):
        while len(spans.finished) < count:
            gc.collect()
            await asyncio.sleep(0.02)


async def first_event(client: Client) -> None:
    """Take one event of a stream and forget the rest without closing it."""
    async for _ in client.send_message(task("hang")):
        return


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_stream_that_is_forgotten_ends_as_cancelled_on_both_sides(binding):
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding, streaming=True)
            await first_event(client)
            await ended(spans, 1)
            await client.close()  # gRPC keeps a forgotten call open until its channel goes, with or without us
            await ended(spans, 2)
    rows = spans.settled().rows
    assert sorted((row.observed_by, row.status, row.counted) for row in rows) == [
        ("client", "cancelled", True),
        ("server", "cancelled", False),
    ]
    assert {row.metadata["events"] for row in rows if row.observed_by == "client"} == {1}


async def test_the_calls_span_is_current_while_the_stream_works_and_not_while_its_reader_does():
    inside: list[int] = []

    class Look(ClientCallInterceptor):
        async def before(self, args: BeforeArgs) -> None:
            inside.append(trace.get_current_span().get_span_context().span_id)

        async def after(self, args: AfterArgs) -> None:
            inside.append(trace.get_current_span().get_span_context().span_id)

    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(streaming=True)
            await client.add_interceptor(Look())
            async with aclosing(client.send_message(task("complete"))) as events:
                async for _ in events:
                    assert not trace.get_current_span().get_span_context().is_valid
            await client.close()
    (call,) = [span for span in spans.finished if span.kind.name == "CLIENT"]
    assert len(inside) > 3
    assert set(inside) == {call.context.span_id}


async def test_an_agent_that_dies_in_the_middle_is_an_error_for_its_caller():
    """A server that promises a stream, sends one event and drops the connection."""
    event = '{"jsonrpc":"2.0","id":"1","result":{"statusUpdate":{"taskId":"t","contextId":"c","status":{"state":2}}}}'

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        data = f"data: {event}\n\n".encode()
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await writer.drain()
        writer.close()

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(drop, sock=listener)
    async with agent("sales-team") as sales, server:
        sales.card.supported_interfaces[0].url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(streaming=True)
            with pytest.raises(A2AClientError, match="Network communication error"):
                await events_of(client, "complete")
            await client.close()
    (row,) = spans.counted()
    assert (row.status, row.metadata["task_state"], row.metadata["events"]) == ("error", "TASK_STATE_WORKING", 1)
    assert "peer closed connection" in (row.error_message or "")


async def test_what_a_stream_says_of_itself():
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(streaming=True)
            seen = await events_of(client, "complete")
            await client.close()
    for row in spans.settled().rows:
        assert row.metadata["events"] == len(seen) == 4
        assert 0 < row.metadata["first_event_ms"] <= row.duration_ms
        assert row.metadata["response_size_bytes"] > 100
        assert row.metadata["streaming"] is True
    client_row = next(row for row in spans.settled().rows if row.counted)
    assert client_row.metadata["response_size_bytes"] == sum(event.ByteSize() for event in seen)


@pytest.mark.parametrize("kind", [JsonRpcTransport, RestTransport], ids=["JSONRPC", "HTTP+JSON"])
async def test_a_transport_used_without_a_client_is_observed_itself(kind, request):
    async with agent("sales-team") as sales, httpx.AsyncClient(timeout=10) as http:
        place = next(i for i in sales.card.supported_interfaces if i.protocol_binding == request.node.callspec.id)
        transport = kind(http, sales.card, place.url)
        context = ClientCallContext(service_parameters={"A2A-Version": "1.0"})
        with instrumented(A2AInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
            answer = await transport.send_message(task("fail"), context=context)
            events = [event async for event in transport.send_message_streaming(task("complete"), context=context)]
            await transport.get_task(GetTaskRequest(id=answer.task.id), context=context)
    assert len(events) == 4
    assert [(r.operation, r.status, r.source_id, r.target_id, r.metadata["binding"]) for r in spans.counted()] == [
        ("send_task", "error", "marketing-team", "sales-team", place.protocol_binding),
        ("send_task", "success", "marketing-team", "sales-team", place.protocol_binding),
        ("get_task", "success", "marketing-team", "sales-team", place.protocol_binding),
    ]
    assert len(spans.finished) == 6


async def test_an_interceptor_that_calls_another_agent_makes_a_row_of_its_own():
    async with agent("sales-team") as sales, agent("login-team") as login:

        class AskLogin(ClientCallInterceptor):
            async def before(self, args: BeforeArgs) -> None:
                other = await login.client()
                await events_of(other, "greet")
                await other.close()

            async def after(self, args: AfterArgs) -> None:
                return

        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            await client.add_interceptor(AskLogin())
            await events_of(client, "complete")
            await client.close()
    outer, inner = spans.counted()
    assert (outer.target_id, inner.target_id) == ("sales-team", "login-team")
    assert inner.parent_span_id == outer.span_id


def test_a_wrapped_generator_is_still_a_generator():
    plain = inspect.isasyncgenfunction(BaseClient.send_message), str(inspect.signature(BaseClient.send_message))
    A2AInstrumentor().instrument()
    try:
        wrapped: Any = BaseClient.send_message
        assert (inspect.isasyncgenfunction(wrapped), str(inspect.signature(wrapped))) == plain
    finally:
        A2AInstrumentor().uninstrument()
