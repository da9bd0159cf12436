"""Sixty calls, three bindings, both modes, ten behaviours: one counted row, one trace and two A2A spans each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from a2a.client import ClientCallContext
from a2a.client.errors import A2AClientError, A2AClientTimeoutError
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, GrpcAioInstrumentorServer
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from starlette.responses import JSONResponse

from a2a_agents import BINDINGS, Agent, agent, events_of, obey
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.model import Communication
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

A2A = "elf-automations.a2a"
ORDERS = ("complete", "fail", "reject", "authenticate", "ask", "greet", "explode", "raise", "time out", "cancel me")
# status, state in the metadata, error_code; the error's text where every binding tells it
EXPECTED: dict[str, tuple[str, str | None, str | None, str | None]] = {
    "complete": ("success", "TASK_STATE_COMPLETED", None, None),
    "fail": ("error", "TASK_STATE_FAILED", "TASK_STATE_FAILED", "I fail"),
    "reject": ("error", "TASK_STATE_REJECTED", "TASK_STATE_REJECTED", "I reject"),
    "authenticate": ("error", "TASK_STATE_AUTH_REQUIRED", "TASK_STATE_AUTH_REQUIRED", "I authenticate"),
    "ask": ("success", "TASK_STATE_INPUT_REQUIRED", None, None),
    "greet": ("success", None, None, None),
    "time out": ("timeout", None, "timeout", "Client Request timed out"),
    "cancel me": ("cancelled", None, None, None),
}


@contextmanager
def transports_instrumented(spans: Spans) -> Iterator[None]:
    """Switch on the OpenTelemetry instrumentations of httpx and gRPC; ASGI is a middleware of the agent."""
    with ExitStack() as stack:
        for instrumentor in (HTTPXClientInstrumentor(), GrpcAioInstrumentorClient(), GrpcAioInstrumentorServer()):
            stack.enter_context(instrumented(instrumentor, spans))
        yield


async def make(where: Agent, order: str, binding: str, *, streaming: bool, hung: asyncio.Event) -> None:
    """Make one call to its end, whatever that is."""
    client = await where.client(binding, streaming=streaming)
    try:
        match order:
            case "time out":
                with pytest.raises(A2AClientTimeoutError):
                    await events_of(client, order, context=ClientCallContext(timeout=0.4))
            case "cancel me":
                hung.clear()
                running = asyncio.create_task(events_of(client, order, context=ClientCallContext(timeout=20)))
                async with asyncio.timeout(10):
                    await hung.wait()
                running.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await running
            case "explode" | "raise":
                with pytest.raises(Exception, match=r"boom|HTTP Error 500|unknown exception|INTERNAL"):
                    await events_of(client, order)
            case _:
                await events_of(client, order)
    finally:
        await client.close()


@pytest.mark.parametrize("transports", [False, True], ids=["A2A alone", "transports instrumented"])
async def test_sixty_calls_are_sixty_true_rows(transports):
    hung = asyncio.Event()

    async def act(request: Any, updater: Any, events: Any) -> None:
        if request.get_user_input() in {"time out", "cancel me"}:
            hung.set()
            await asyncio.sleep(1.5)
            await updater.complete()
        else:
            await obey(request, updater, events)

    spans = Spans()
    rows: dict[tuple[str, bool, str], list[Communication]] = {}
    with ExitStack() as stack:
        if transports:
            stack.enter_context(transports_instrumented(spans))
        stack.enter_context(instrumented(A2AInstrumentor(), spans))

        def within(app: Any) -> Any:
            return OpenTelemetryMiddleware(app, tracer_provider=spans.provider) if transports else app

        async with agent("sales-team", act, within=within) as sales:
            for binding in BINDINGS:
                for streaming in (False, True):
                    for order in ORDERS:
                        with acting_as("marketing-team"):
                            await make(sales, order, binding, streaming=streaming, hung=hung)
                        await both_sides(spans)
                        rows[binding, streaming, order] = list(spans.settled().rows)
                        spans.clear()
    assert len(rows) == 60
    table = [line(key, of_call) for key, of_call in rows.items()]
    print("\n".join(table))
    assert [problem for key, of_call in rows.items() for problem in problems(key, of_call)] == []


async def both_sides(spans: Spans) -> None:
    """Wait until the server's half of a call has ended too, which may outlive its caller's."""
    async with asyncio.timeout(10):
        while sum(1 for span in spans.finished if span.instrumentation_scope.name == A2A) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def line(key: tuple[str, bool, str], of_call: list[Communication]) -> str:
    binding, streaming, order = key
    said = [
        f"{row.observed_by}{'*' if row.counted else ''} {row.status} {row.error_code} {row.error_message!r} "
        f"{row.metadata.get('task_state')}"
        for row in sorted(of_call, key=lambda row: row.observed_by)
    ]
    return f"{binding:9} {'stream' if streaming else 'unary':6} {order:12} {' | '.join(said)}"


def problems(key: tuple[str, bool, str], of_call: list[Communication]) -> Iterator[str]:  # noqa: C901
    """Yield what is wrong with the rows of one call."""
    binding, streaming, order = key
    where = line(key, of_call)
    counted = [row for row in of_call if row.counted]
    if [row.observed_by for row in counted] != ["client"] or len(of_call) != 2:
        yield f"not one client row counted of two: {where}"
        return
    (row,) = counted
    (served,) = [other for other in of_call if not other.counted]
    ends = (row.source_id, row.source_type, row.target_id, row.target_type)
    if ends != ("marketing-team", "team", "sales-team", "team"):
        yield f"wrong ends {ends}: {where}"
    if (served.source_id, served.target_id) != ("marketing-team", "sales-team"):
        yield f"the server does not know who called: {where}"
    if len({each.trace_id for each in of_call}) != 1:
        yield f"two traces: {where}"
    if (row.operation, row.message_type, served.message_type) != ("send_task", "task_request", "task_response"):
        yield f"wrong operation: {where}"
    if (row.metadata.get("binding"), row.metadata.get("streaming")) != (binding, streaming):
        yield f"wrong binding: {where}"
    gone = order in {"time out", "cancel me"}
    finished = (
        served.metadata.get("task_state") == "TASK_STATE_COMPLETED"
    )  # gRPC's interceptors do not pass a cancel on
    if gone and served.status != ("success" if finished else "cancelled"):
        yield f"the server did not see that its caller went away: {where}"
    if order in {"explode", "raise"}:
        yield from broken(row, served, where)
        return
    status, state, code, text = EXPECTED[order]
    if (row.status, row.error_code) != (status, code) or (text and row.error_message != text):
        yield f"not {status} {code} {text}: {where}"
    if state and row.metadata.get("task_state") != state:
        yield f"not in {state}: {where}"


def broken(row: Communication, served: Communication, where: str) -> Iterator[str]:
    """Yield what is wrong with the rows of a call whose executor raised."""
    if row.status != "error" or not row.error_code or served.status != "error":
        yield f"no error: {where}"
    # Over HTTP+JSON the SDK's server keeps the cause to itself: the counted row has it from the server's.
    if any("boom" not in (each.error_message or "") for each in (row, served)):
        yield f"no cause: {where}"


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
async def test_what_a_gateway_says_with_its_http_error_is_the_rows_text(streaming):
    said = {"error": {"code": 503, "status": "UNAVAILABLE", "message": "the model is overloaded"}}

    def refusing(app: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            await (JSONResponse(said, 503) if scope["path"].startswith("/rest") else app)(scope, receive, send)

        return answer

    async with agent("sales-team", within=refusing) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client("HTTP+JSON", streaming=streaming)
            with pytest.raises(A2AClientError, match="HTTP Error 503"):
                await events_of(client, "complete")
            await client.close()
    (row,) = spans.counted()
    assert (row.status, row.error_code, row.error_message) == ("error", "503", "the model is overloaded")
