"""Who calls whom: one trace over both sides, the caller known to the server, handlers that act as their team."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
from a2a.client import ClientCallContext, ClientConfig, create_client
from a2a.client.interceptors import AfterArgs, BeforeArgs, ClientCallInterceptor
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.grpc_handler import GrpcServerCallContextBuilder
from a2a.types.a2a_pb2 import GetTaskRequest
from a2a.utils.errors import TaskNotFoundError
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation

from a2a_agents import BINDINGS, Agent, agent, events_of, obey, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

ORDER = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {"message": {"messageId": "message-1", "role": "ROLE_USER", "parts": [{"text": "complete"}]}},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["default", "legacy"])
@pytest.mark.parametrize("binding", BINDINGS)
async def test_both_sides_are_one_trace_and_the_server_knows_who_called(binding, legacy):
    async with agent("sales-team", legacy=legacy) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding)
            with acting_as("marketing-team", correlation_id="order-7"):
                await events_of(client, "complete")
            await client.close()
    client_row, server_row = sorted(spans.settled().rows, key=lambda row: row.observed_by)
    assert (client_row.observed_by, server_row.observed_by) == ("client", "server")
    assert server_row.trace_id == client_row.trace_id
    assert server_row.parent_span_id == client_row.span_id
    assert (client_row.counted, server_row.counted) == (True, False)
    assert (server_row.source_id, server_row.target_id) == ("marketing-team", "sales-team")
    assert (server_row.message_type, server_row.status) == ("task_response", "success")
    assert (client_row.correlation_id, server_row.correlation_id) == ("order-7", "order-7")
    assert server_row.metadata["task_id"] == client_row.metadata["task_id"]


async def test_an_http_span_in_between_that_goes_elsewhere_does_not_make_two_calls():
    """The HTTP client's instrumentation rewrites `traceparent`: the server's parent is a span we never see."""
    elsewhere = Spans()
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans, instrumented(HTTPXClientInstrumentor(), elsewhere):
            client = await sales.client()
            await events_of(client, "complete")
            await client.close()
    assert {span.kind.name for span in elsewhere.finished} == {"CLIENT"}
    client_row, server_row = sorted(spans.settled().rows, key=lambda row: row.observed_by)
    assert (client_row.counted, server_row.counted) == (True, False)
    assert server_row.parent_span_id == client_row.span_id


async def test_what_a_handler_calls_is_the_calls_of_its_team():
    async with agent("finance-team") as finance:

        async def ask_finance(request: Any, updater: Any, events: Any) -> None:
            client = await finance.client()
            await events_of(client, "complete")
            await client.close()
            await obey(request, updater, events)

        async with agent("sales-team", ask_finance) as sales:
            with instrumented(A2AInstrumentor(), Spans()) as spans:
                client = await sales.client(streaming=True)
                with acting_as("marketing-team"):
                    await events_of(client, "complete")
                await client.close()
    outer, inner = spans.counted()
    assert (outer.source_id, outer.target_id) == ("marketing-team", "sales-team")
    assert (inner.source_id, inner.source_type, inner.target_id) == ("sales-team", "team", "finance-team")
    assert inner.trace_id == outer.trace_id


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
async def test_what_a_handler_sends_over_plain_http_is_not_sent_in_its_callers_name(binding, streaming):
    sent: dict[str, str] = {}
    async with agent("finance-team") as finance:

        async def post(request: Any, updater: Any, events: Any) -> None:
            async with httpx.AsyncClient() as http:
                answer = await http.post(f"{finance.url}/rpc", headers={"A2A-Version": "1.0"}, json=ORDER)
                sent.update(answer.request.headers)
            await obey(request, updater, events)

        async with agent("sales-team", post) as sales:
            spans = Spans()
            with instrumented(A2AInstrumentor(), spans), instrumented(HTTPXClientInstrumentor(), spans):
                client = await sales.client(binding, streaming=streaming)
                with acting_as("marketing-team", correlation_id="order-7"):
                    await events_of(client, "complete")
                await client.close()
    assert (sent["traceparent"].split("-")[1], sent["baggage"]) == (
        format(spans.finished[0].context.trace_id, "032x"),
        "elf.correlation.id=order-7",
    )
    outer, inner = spans.counted()
    assert (outer.source_id, outer.target_id) == ("marketing-team", "sales-team")
    assert (inner.source_id, inner.target_id, inner.correlation_id) == ("unknown", "finance-team", "order-7")
    above = {span.context.span_id: span.parent and span.parent.span_id for span in spans.finished}
    served = next(row for row in spans.settled().rows if (row.target_id, row.observed_by) == ("sales-team", "server"))
    assert served.span_id == format(above[int(inner.parent_span_id or "", 16)] or 0, "016x")


async def test_what_an_executor_says_of_the_current_span_is_said_of_the_requests_span():
    async def remark(request: Any, updater: Any, events: Any) -> None:
        trace.get_current_span().set_attribute("shop.order", 7)
        await obey(request, updater, events)

    async with agent("sales-team", remark) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            await events_of(client, "complete")
            await client.close()
    assert [span.kind.name for span in spans.finished if (span.attributes or {}).get("shop.order") == 7] == ["SERVER"]


async def test_an_agent_started_inside_a_span_does_not_take_that_span_for_every_callers():
    spans = Spans()
    tracer = spans.provider.get_tracer("application")
    with tracer.start_as_current_span("start-up"), acting_as("starter"):
        async with agent("sales-team") as sales:
            with instrumented(A2AInstrumentor(), spans):
                client = await sales.client()
                with acting_as("marketing-team"):
                    await events_of(client, "complete")
                await client.close()
    (row,) = spans.counted()
    assert (row.observed_by, row.source_id) == ("client", "marketing-team")


@pytest.mark.parametrize("binding", BINDINGS)
async def test_untraced_callers_of_an_agent_started_inside_a_span_are_traces_of_their_own(binding):
    spans = Spans()
    with spans.provider.get_tracer("application").start_as_current_span("start-up") as start_up:
        async with agent("sales-team") as sales:
            with instrumented(A2AInstrumentor(), spans), suppress_instrumentation():
                client = await sales.client(binding)
                await events_of(client, "complete")
                with pytest.raises(TaskNotFoundError):
                    await client.get_task(GetTaskRequest(id="task-1"))
                await client.close()
    rows = spans.counted()
    assert [(row.observed_by, row.operation, row.parent_span_id) for row in rows] == [
        ("server", "send_task", None),
        ("server", "get_task", None),
    ]
    assert len({row.trace_id for row in rows} | {format(start_up.get_span_context().trace_id, "032x")}) == 3


async def test_an_untraced_callers_request_hangs_below_the_http_servers_span():
    spans = Spans()

    def within(app: Any) -> Any:
        return OpenTelemetryMiddleware(app, tracer_provider=spans.provider)

    async with agent("sales-team", within=within) as sales:
        with instrumented(A2AInstrumentor(), spans):
            async with httpx.AsyncClient() as http:
                await http.post(f"{sales.url}/rpc", headers={"A2A-Version": "1.0"}, json=ORDER)
    http_span = next(span for span in spans.finished if span.name.startswith("POST") and span.kind.name == "SERVER")
    (row,) = spans.counted()
    assert row.parent_span_id == format(http_span.context.span_id, "016x")


async def test_agents_in_one_process_without_a_network_are_told_apart():
    async with agent("finance-team") as finance:

        async def ask_finance(request: Any, updater: Any, events: Any) -> None:
            await in_process(finance, "complete")
            await obey(request, updater, events)

        async with agent("sales-team", ask_finance) as sales:
            with instrumented(A2AInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
                await in_process(sales, "complete")
    rows = spans.settled().rows
    assert [(row.source_id, row.target_id) for row in spans.counted()] == [
        ("marketing-team", "sales-team"),
        ("sales-team", "finance-team"),
    ]
    assert (len(rows), len({row.trace_id for row in rows})) == (4, 1)


async def in_process(where: Agent, order: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(where.app)) as http:
        client = await create_client(where.card, ClientConfig(streaming=False, httpx_client=http))
        await events_of(client, order)


async def test_the_server_span_hangs_below_the_http_servers_when_there_is_one():
    spans = Spans()
    tracer = spans.provider.get_tracer("http-server")

    def traced(app: Any) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            parent = propagate.extract(headers)
            with tracer.start_as_current_span("POST", context=parent, kind=trace.SpanKind.SERVER):
                await app(scope, receive, send)

        return serve

    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), spans), acting_as("marketing-team"):
            await in_process(replace(sales, app=traced(sales.app)), "complete")
    by_name = {(span.name, span.kind.name): span for span in spans.finished}
    client, http = by_name["SendMessage", "CLIENT"], by_name["POST", "SERVER"]
    assert by_name["SendMessage", "SERVER"].parent.span_id == http.context.span_id
    assert http.parent.span_id == client.context.span_id
    assert [(row.observed_by, row.counted, row.source_id) for row in spans.settled().rows] == [
        ("server", False, "marketing-team"),
        ("client", True, "marketing-team"),
    ]


async def test_the_callers_own_context_and_message_stay_as_they_were():
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()):
            client = await sales.client()
            context = ClientCallContext(service_parameters={"X-Mine": "1", "baggage": "shop=7"}, timeout=9)
            request = task("complete")
            _ = [event async for event in client.send_message(request, context=context)]
            await client.close()
    assert context == ClientCallContext(service_parameters={"X-Mine": "1", "baggage": "shop=7"}, timeout=9)
    assert request.message == task("complete").message
    assert not trace.get_current_span().get_span_context().is_valid


class Replacing(ClientCallInterceptor):
    """Gives each call another context, as an interceptor for authentication may."""

    async def before(self, args: BeforeArgs) -> None:
        args.context = ClientCallContext(service_parameters={"X-Mine": "1"}, timeout=9)

    async def after(self, args: AfterArgs) -> None:
        """Do nothing."""


class Plain(GrpcServerCallContextBuilder):
    """Makes contexts that keep nothing of the gRPC call."""

    def build(self, context: Any) -> ServerCallContext:
        return ServerCallContext(state={"shop": 7})


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
async def test_an_interceptor_that_replaces_the_calls_context_does_not_lose_the_call(binding, streaming):
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding, streaming=streaming)
            await client.add_interceptor(Replacing())
            with acting_as("marketing-team"):
                (event, *_) = await events_of(client, "complete")
                await client.get_task(GetTaskRequest(id=event.task.id))
            await client.close()
    rows = spans.settled().rows
    assert sorted((row.operation, row.observed_by, row.counted, row.source_id, row.target_id) for row in rows) == [
        (operation, *half, "marketing-team", "sales-team")
        for operation in ("get_task", "send_task")
        for half in (("client", True), ("server", False))
    ]
    assert len({row.trace_id for row in rows}) == 2


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
async def test_a_context_builder_that_keeps_nothing_of_the_grpc_call_does_not_lose_the_caller(streaming):
    async with agent("finance-team") as finance:

        async def ask_finance(request: Any, updater: Any, events: Any) -> None:
            await in_process(finance, "complete")
            await obey(request, updater, events)

        async with agent("sales-team", ask_finance, grpc_contexts=Plain()) as sales:
            with instrumented(A2AInstrumentor(), Spans()) as spans:
                client = await sales.client("GRPC", streaming=streaming)
                with acting_as("marketing-team"):
                    await events_of(client, "complete")
                await client.close()
    rows = spans.settled().rows
    assert {(row.observed_by, row.source_id, row.target_id, row.metadata.get("binding")) for row in rows} == {
        ("client", "marketing-team", "sales-team", "GRPC"),
        ("server", "marketing-team", "sales-team", "GRPC"),
        ("client", "sales-team", "finance-team", "JSONRPC"),
        ("server", "sales-team", "finance-team", "JSONRPC"),
    }
    assert (len(rows), len({row.trace_id for row in rows}), len(spans.counted())) == (4, 1, 2)
