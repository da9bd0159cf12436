"""`send_task` over the three bindings, streaming and not: its answer, its rows, its deadline, and its silence."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import httpx
import pytest
from a2a.client.errors import A2AClientError, A2AClientTimeoutError

from a2a_agents import BINDINGS, agent, obey
from a2a_card_server import card_server, offering
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.shared.a2a.client import A2AClient
from elf_automations.shared.a2a.telemetry_client import A2AClientWithTelemetry, create_a2a_client
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

CALLS = [(binding, streaming) for binding in BINDINGS for streaming in (True, False)]
IDS = [f"{binding} {'stream' if streaming else 'unary'}" for binding, streaming in CALLS]
# Row columns that differ from run to run.
VARYING = {"id", "timestamp", "duration_ms", "trace_id", "span_id", "correlation_id", "payload_size_bytes", "metadata"}


async def slow(request: Any, updater: Any, events: Any) -> None:
    if request.get_user_input() == "slow":
        await asyncio.sleep(0.5)
    await obey(request, updater, events)


@asynccontextmanager
async def sales(binding: str, streaming: bool) -> AsyncIterator[str]:
    """Serve a team by one binding, whose card says whether it streams, and yield where."""
    async with agent("sales-team", slow) as served, card_server() as cards:
        cards.serve(offering(served.card, binding, streaming=streaming))
        yield cards.url


@pytest.mark.parametrize(("binding", "streaming"), CALLS, ids=IDS)
@pytest.mark.parametrize("automatic", [False, True], ids=["by hand", "instrumented"])
async def test_each_task_is_one_task_request_however_it_travels(binding, streaming, automatic):
    spans = Spans()
    orders = {
        "complete": ("success", "TASK_STATE_COMPLETED", "proposal ready"),
        "fail": ("error", "TASK_STATE_FAILED", "I fail"),
        "reject": ("error", "TASK_STATE_REJECTED", "I reject"),
        "authenticate": ("error", "TASK_STATE_AUTH_REQUIRED", "I authenticate"),
        "ask": ("success", "TASK_STATE_INPUT_REQUIRED", "I ask"),
        "cancel": ("cancelled", "TASK_STATE_CANCELED", "I cancel"),
        "greet": ("success", None, "hello"),
    }
    async with sales(binding, streaming) as url:

        async def send() -> list[Any]:
            async with create_a2a_client(
                "marketing-team", timeout=30, endpoints={"sales-team": url}, tracer_provider=spans.provider
            ) as client:
                return [await client.send_task("sales-team", order, deadline_seconds=20) for order in orders]

        if automatic:
            with instrumented(A2AInstrumentor(), spans):
                answers = await send()
        else:
            answers = await send()
    assert [(a["status"], a["state"], a["text"]) for a in answers] == list(orders.values())
    rows = spans.counted()
    assert [row.status for row in rows] == [status for status, _, _ in orders.values()]
    first = {name: value for name, value in asdict(rows[0]).items() if name not in VARYING and value is not None}
    assert first == {
        "protocol": "a2a",
        "source_id": "marketing-team",
        "source_type": "team",
        "target_id": "sales-team",
        "target_type": "team",
        "operation": "send_task",
        "status": "success",
        "task_description": "complete",
        "message_type": "task_request",
        "observed_by": "client",
        "counted": True,
        "service_name": "planner",
    }
    assert rows[0].metadata["binding"] == binding
    assert len({row.trace_id for row in rows}) == len(orders)


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("automatic", [False, True], ids=["by hand", "instrumented"])
async def test_a_team_that_cannot_stream_is_looked_up_until_its_task_ends(binding, automatic):
    spans = Spans()
    async with sales(binding, streaming=False) as url:

        async def send() -> dict[str, Any]:
            async with create_a2a_client(
                "marketing-team", timeout=0.4, endpoints={"sales-team": url}, tracer_provider=spans.provider
            ) as client:
                return await client.send_task("sales-team", "slow", deadline_seconds=20)

        if automatic:
            with instrumented(A2AInstrumentor(), spans):
                answer = await send()
        else:
            answer = await send()
    # Longer than one wait may be, and not a timeout.
    assert (answer["status"], answer["text"]) == ("success", "proposal ready")
    task, *looks = spans.counted()
    assert (task.operation, task.message_type, task.metadata["task_state"]) == (
        "send_task",
        "task_request",
        "TASK_STATE_COMPLETED",
    )
    assert len(looks) == task.metadata["looked_up"] > 1
    assert {(row.operation, row.message_type, row.status, row.source_id, row.target_id) for row in looks} == {
        ("get_task", "status_update", "success", "marketing-team", "sales-team")
    }
    assert {row.metadata["task_id"] for row in (task, *looks)} == {answer["task_id"]}
    assert {row.trace_id for row in looks} == {task.trace_id}


@pytest.mark.parametrize(("binding", "streaming"), CALLS, ids=IDS)
async def test_the_deadline_ends_everything_and_is_said_the_same_way(binding, streaming):
    spans = Spans()
    async with (
        sales(binding, streaming) as url,
        create_a2a_client("m", endpoints={"sales-team": url}, tracer_provider=spans.provider) as client,
    ):
        await client.get_capabilities("sales-team")
        began = time.monotonic()
        with pytest.raises(A2AClientTimeoutError) as raised:
            await client.send_task("sales-team", "hang", deadline_seconds=0.4)
        assert time.monotonic() - began < 5
    assert str(raised.value) == "team sales-team did not finish the task within 0.4 s"
    (row,) = [row for row in spans.counted() if row.operation == "send_task"]
    assert (row.status, row.error_message) == ("timeout", str(raised.value))


@pytest.mark.parametrize(("patience", "deadline"), [(30, 8), (4, 30)], ids=["deadline first", "silence first"])
@pytest.mark.parametrize(("binding", "streaming"), CALLS, ids=IDS)
async def test_the_deadline_is_passed_down(binding, streaming, patience, deadline):
    """Over gRPC the server sees it; HTTP has no word for it, so there it is the limit of httpx for a wait."""
    given: list[float] = []

    async def act(request: Any, updater: Any, events: Any) -> None:
        if binding == "GRPC":
            given.append(request.call_context.state["grpc_context"].time_remaining())
        if request.get_user_input() == "slow":
            await asyncio.sleep(0.5)
        await obey(request, updater, events)

    async def sent(request: httpx.Request) -> None:
        if request.method == "POST" or "/tasks/" in request.url.path:
            given.append(request.extensions["timeout"]["read"])

    async with (
        agent("sales-team", act) as served,
        card_server(offering(served.card, binding, streaming=streaming)) as cards,
        A2AClient("marketing-team", timeout=patience, endpoints={"sales-team": cards.url}) as client,
    ):
        client._connections._pool().event_hooks["request"].append(sent)
        assert (await client.send_task("sales-team", "slow", deadline_seconds=deadline))["status"] == "success"
    # What bounds a stream over gRPC bounds all of it, so there it is the deadline alone.
    limit = deadline if binding == "GRPC" and streaming else min(patience, deadline)
    assert all(limit - 3 < seconds <= limit for seconds in given)
    # A team that cannot stream, asked for longer than one wait may be, answers at once and is asked again.
    looked_up = not streaming and deadline > patience and binding != "GRPC"
    assert len(given) > 1 if looked_up else len(given) == 1


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_long_stream_goes_on_while_the_deadline_lasts(binding):
    async def chatter(request: Any, updater: Any, events: Any) -> None:
        for _ in range(8):
            await updater.start_work()
            await asyncio.sleep(0.1)
        await obey(request, updater, events)

    async with (
        agent("sales-team", chatter) as served,
        card_server(offering(served.card, binding)) as cards,
        create_a2a_client("marketing-team", timeout=0.4, endpoints={"sales-team": cards.url}) as client,
    ):
        answer = await client.send_task("sales-team", "complete", deadline_seconds=20)
    assert answer["status"] == "success"


@pytest.mark.parametrize(("binding", "streaming"), CALLS, ids=IDS)
async def test_switched_off_not_even_an_instrumentor_sees_the_calls_of_this_client(binding, streaming):
    client_side, plain = Spans(), Spans()
    async with sales(binding, streaming) as url:
        places = {"sales-team": url}
        async with create_a2a_client("m", enable_telemetry=False, endpoints=places) as client:
            with instrumented(A2AInstrumentor(), client_side):
                answer = await client.send_task("sales-team", "complete")
                await client.get_capabilities("sales-team")
                await client.discover_teams()
        async with A2AClient("marketing-team", endpoints=places) as client:
            with instrumented(A2AInstrumentor(), plain):
                assert (await client.send_task("sales-team", "complete"))["text"] == answer["text"]
    assert answer["status"] == "success"
    assert [span.name for span in client_side.finished if span.kind.name == "CLIENT"] == []
    assert plain.counted()[0].operation == "send_task"


async def test_a_caller_that_goes_away_is_a_cancelled_row_and_leaves_nothing_running():
    spans = Spans()
    async with (
        sales("JSONRPC", streaming=True) as url,
        A2AClientWithTelemetry("m", endpoints={"sales-team": url}, tracer_provider=spans.provider) as client,
    ):
        sending = asyncio.create_task(client.send_task("sales-team", "hang"))
        await asyncio.sleep(0.3)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    assert [(row.status, row.target_id) for row in spans.counted()] == [("cancelled", "sales-team")]


@pytest.mark.parametrize(("binding", "streaming"), CALLS, ids=IDS)
async def test_a_state_this_sdk_has_no_name_for_is_no_end_that_is_known(binding, streaming):
    """A newer team may be in a state of a later protocol; its number travels."""

    async def later(request: Any, updater: Any, events: Any) -> None:
        await updater.update_status(42)

    spans = Spans()
    async with agent("sales-team", later) as served, card_server() as cards:
        cards.serve(offering(served.card, binding, streaming=streaming))
        async with create_a2a_client(
            "marketing-team", endpoints={"sales-team": cards.url}, tracer_provider=spans.provider
        ) as client:
            answer = await client.send_task("sales-team", "complete", deadline_seconds=20)
    assert (answer["state"], answer["status"]) == ("42", "cancelled")
    (row,) = [row for row in spans.counted() if row.operation == "send_task"]
    assert (row.metadata["task_state"], row.status) == ("TASK_STATE_42", "cancelled")
    assert "the task was in 42" in (row.error_message or "")


async def test_a_server_that_dies_during_the_call_is_an_error_and_the_next_call_looks_anew():
    spans = Spans()
    places: dict[str, str] = {}
    client = A2AClientWithTelemetry("marketing-team", tracer_provider=spans.provider)
    client._endpoints._stated = places
    async with sales("GRPC", streaming=True) as url:
        places["sales-team"] = url
        await client.send_task("sales-team", "complete")
    with pytest.raises(A2AClientError):
        await client.send_task("sales-team", "complete", deadline_seconds=5)
    async with sales("GRPC", streaming=True) as url:
        places["sales-team"] = url
        assert (await client.send_task("sales-team", "complete"))["status"] == "success"
    await client.close()
    assert [row.status for row in spans.counted()] == ["success", "error", "success"]


async def test_a_task_that_can_no_longer_be_looked_up_is_an_error_after_three_tries():
    spans = Spans()
    async with card_server() as cards:
        client = create_a2a_client(
            "marketing-team", timeout=1, endpoints={"sales-team": cards.url}, tracer_provider=spans.provider
        )
        async with agent("sales-team") as served:
            cards.serve(offering(served.card, "JSONRPC", streaming=False))
            sending = asyncio.create_task(client.send_task("sales-team", "hang", deadline_seconds=20))
            await eventually(lambda: len(spans.finished) >= 2)
        with pytest.raises(A2AClientError, match="Network communication error"):
            await sending
        await client.close()
    task, *looks = spans.counted()
    assert (task.operation, task.status) == ("send_task", "error")
    assert [row.status for row in looks][-3:] == ["error", "error", "error"]


def test_a_grpc_client_serves_one_event_loop_after_the_other():
    places: dict[str, str] = {}
    client = A2AClient("marketing-team")
    client._endpoints._stated = places

    async def once() -> str:
        async with sales("GRPC", streaming=True) as url:
            places["sales-team"] = url
            answer = await client.send_task("sales-team", "complete")
            await client.close()
            return answer["status"]

    assert [asyncio.run(once()) for _ in range(2)] == ["success"] * 2


async def eventually(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not found():  # noqa: ASYNC110  (what is waited for has no event)
            await asyncio.sleep(0.02)
