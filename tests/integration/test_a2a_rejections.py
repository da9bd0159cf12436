"""Requests a server refuses before its handler sees them: one SERVER row each, in the trace of whoever sent it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from a2a.client import ClientCallContext
from a2a.types.a2a_pb2 import GetTaskRequest
from a2a.utils.errors import VersionNotSupportedError
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from a2a_agents import Agent, agent, events_of
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

HEADERS = {
    "A2A-Version": "1.0",
    "Content-Type": "application/json",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "baggage": "elf.entity.id=marketing-team,elf.entity.type=team",
}
OLD = {"A2A-Version": "0.1"}
RPC = '{"jsonrpc":"2.0","id":1,"method":"%s","params":%s}'
# path, method, headers, body -> operation, error type, code
REFUSED = {
    "bad JSON": ("/rpc", "POST", {}, "{not json", "invalid_request", "JSONParseError", "-32700"),
    "no object": ("/rpc", "POST", {}, "7", "invalid_request", "InvalidRequestError", "-32600"),
    "batch": ("/rpc", "POST", {}, f"[{RPC % ('GetTask', '{}')}]", "invalid_request", "InvalidRequestError", "-32600"),
    "no version 2.0": ("/rpc", "POST", {}, '{"id":1,"method":"GetTask"}', "get_task", "InvalidRequestError", "-32600"),
    "unknown method": ("/rpc", "POST", {}, RPC % ("Dance", "{}"), "invalid_request", "MethodNotFoundError", "-32601"),
    "wrong params": ("/rpc", "POST", {}, RPC % ("GetTask", '{"id":[1]}'), "get_task", "InvalidParamsError", "-32602"),
    "old version": ("/rpc", "POST", OLD, RPC % ("GetTask", '{"id":"x"}'), "get_task", "VersionNotSupportedError", None),
    "old version, stream": (
        "/rpc",
        "POST",
        OLD,
        RPC % ("SendStreamingMessage", "{}"),
        "send_task",
        "VersionNotSupportedError",
        None,
    ),
    "REST bad JSON": ("/rest/message:send", "POST", {}, "{not json", "send_task", "ParseError", None),
    "REST bad JSON, stream": ("/rest/message:stream", "POST", {}, "{not json", "send_task", "ParseError", None),
    "REST old version": ("/rest/tasks/x", "GET", OLD, "", "get_task", "VersionNotSupportedError", None),
}


async def refuse(where: Agent, path: str, method: str, headers: dict[str, str], body: str) -> tuple[int, Any]:
    async with httpx.AsyncClient(base_url=where.url) as http:
        answer = await http.request(method, path, headers={**HEADERS, **headers}, content=body)
        return answer.status_code, answer.json()


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_request_is_a_row_with_its_error_and_caller(case):
    path, method, headers, body, operation, kind, code = REFUSED[case]
    async with agent("sales-team") as sales:  # made before the instrumentation, as an app that is imported first
        plain = await refuse(sales, path, method, headers, body)
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            traced = await refuse(sales, path, method, headers, body)
    assert traced == plain
    (span,) = spans.finished
    (row,) = spans.settled().rows
    assert (span.kind.name, row.operation, row.status, (span.attributes or {})["error.type"]) == (
        "SERVER",
        operation,
        "error",
        kind,
    )
    assert row.error_code == (code or row.error_code)
    assert row.error_message
    assert (span.attributes or {})["client.address"] == "127.0.0.1"
    assert (row.source_id, row.source_type, row.target_id, row.target_type) == (
        "marketing-team",
        "team",
        "sales-team",
        "team",
    )
    assert row.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert row.metadata["binding"] == ("HTTP+JSON" if path.startswith("/rest") else "JSONRPC")
    assert row.metadata.get("requested_method") == ("Dance" if case == "unknown method" else None)


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_a_refused_call_of_a_traced_caller_is_counted_once(binding):
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
            client = await sales.client(binding)
            context = ClientCallContext(service_parameters={"A2A-Version": "7.0"})
            with pytest.raises(VersionNotSupportedError):
                await client.get_task(GetTaskRequest(id="x"), context=context)
            await client.close()
    client_row, server_row = sorted(spans.settled().rows, key=lambda row: row.observed_by)
    assert (client_row.counted, server_row.counted) == (True, False)
    assert {row.error_code for row in (client_row, server_row)} == {"-32009"}
    assert server_row.trace_id == client_row.trace_id


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_an_error_of_the_handler_is_not_told_twice(binding, streaming):
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding, streaming=streaming)
            for order in ("explode", "raise"):
                with pytest.raises(Exception, match=r"boom|500|unknown exception"):
                    await events_of(client, order)
            await client.close()
    assert sorted(span.kind.name for span in spans.finished) == ["CLIENT", "CLIENT", "SERVER", "SERVER"]


async def test_a_request_of_protocol_0_3_is_refused_and_served_as_one_row_each():
    async with agent("sales-team", compat=True) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            headers = {"A2A-Version": "0.3"}
            await refuse(sales, "/rpc", "POST", headers, RPC % ("message/send", "{}"))
            await refuse(sales, "/rpc", "POST", headers, RPC % ("tasks/get", '{"id":"x"}'))
    assert [(row.operation, row.status, row.metadata["binding"]) for row in spans.counted()] == [
        ("send_task", "error", "JSONRPC"),
        ("get_task", "error", "JSONRPC"),
    ]


async def test_a_refused_request_hangs_below_the_http_servers_span():
    spans = Spans()

    def within(app: Any) -> Any:
        return OpenTelemetryMiddleware(app, tracer_provider=spans.provider)

    async with agent("sales-team", within=within) as sales:
        with instrumented(A2AInstrumentor(), spans):
            await refuse(sales, "/rpc", "POST", {}, "{not json")
    (refused,) = [span for span in spans.finished if span.instrumentation_scope.name == "elf-automations.a2a"]
    http = next(span for span in spans.finished if span.name == "POST /rpc")
    assert refused.parent.span_id == http.context.span_id
