"""Real A2A calls on every binding: one counted row each, the true status, both ends, and nothing changed by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from a2a.client import ClientCallContext
from a2a.client.errors import A2AClientTimeoutError
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    SubscribeToTaskRequest,
)
from a2a.utils.errors import TaskNotFoundError

from a2a_agents import BINDINGS, Agent, agent, events_of, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

ORDERS = ("complete", "fail", "reject", "authenticate", "ask", "cancel", "raise", "greet", "hang")
EXPECTED = {
    "complete": ("success", None, None),
    "fail": ("error", "I fail", "TASK_STATE_FAILED"),
    "reject": ("error", "I reject", "TASK_STATE_REJECTED"),
    "authenticate": ("error", "I authenticate", "TASK_STATE_AUTH_REQUIRED"),
    "ask": ("success", None, None),
    "cancel": ("cancelled", None, None),
    "greet": ("success", None, None),
    "hang": ("timeout", "Client Request timed out", "timeout"),
}


async def outcome_of(where: Agent, order: str, binding: str, *, streaming: bool) -> Any:
    """Return what the application gets: the shapes of the events, or the exception."""
    patience = 0.3 if order == "hang" else 10
    client = await where.client(binding, streaming=streaming)
    try:
        events = await events_of(client, order, context=ClientCallContext(timeout=patience))
    except Exception as error:
        return type(error), str(error)
    finally:
        await client.close()
    return [
        (event.WhichOneof("payload"), event.task.status.state, event.status_update.status.state) for event in events
    ]


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("binding", BINDINGS)
async def test_every_call_is_one_true_row_and_the_application_sees_no_difference(binding, streaming):
    async with agent("sales-team") as sales:
        plain = {order: await outcome_of(sales, order, binding, streaming=streaming) for order in ORDERS}
        with instrumented(A2AInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
            traced = {order: await outcome_of(sales, order, binding, streaming=streaming) for order in ORDERS}
    assert traced == plain

    rows = spans.counted()
    assert {span.instrumentation_scope.name for span in spans.finished} == {"elf-automations.a2a"}
    assert [row.metadata["message_id"] for row in rows] == [f"message-{order}" for order in ORDERS]
    seen = {row.metadata["message_id"].removeprefix("message-"): row for row in rows}
    assert seen.pop("raise").status == "error"
    assert {
        order: (row.status, row.error_message if row.status != "cancelled" else None, row.error_code)
        for order, row in seen.items()
    } == EXPECTED
    assert {
        (r.protocol, r.operation, r.source_id, r.source_type, r.target_id, r.target_type, r.message_type, r.observed_by)
        for r in rows
    } == {("a2a", "send_task", "marketing-team", "team", "sales-team", "team", "task_request", "client")}
    assert {row.metadata["binding"] for row in rows} == {binding}
    assert all(row.payload_size_bytes > 20 and row.duration_ms > 0 for row in rows)


@pytest.mark.parametrize("binding", BINDINGS)
async def test_the_other_methods_are_rows_too(binding):
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding)
            (sent,) = await events_of(client, "fail")
            spans.clear()
            found = await client.get_task(GetTaskRequest(id=sent.task.id))
            await client.list_tasks(ListTasksRequest())
            await client.get_extended_agent_card(GetExtendedAgentCardRequest())
            with pytest.raises(TaskNotFoundError):
                await client.cancel_task(CancelTaskRequest(id="no-such-task"))
            await client.close()
    assert found.id == sent.task.id
    assert [(r.operation, r.status, r.message_type, r.error_code, r.target_id) for r in spans.counted()] == [
        # Reading a failed task has itself succeeded; the task's own row says error.
        ("get_task", "success", "status_update", None, "sales-team"),
        ("list_tasks", "success", None, None, "sales-team"),
        ("get_capabilities", "success", None, None, "sales-team"),
        ("cancel_task", "error", None, "-32001", "sales-team"),
    ]


@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_servers_span_says_where_the_request_came_from(binding, streaming):
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding, streaming=streaming)
            await events_of(client, "complete")
            await client.close()
    (served,) = [span for span in spans.finished if span.kind.name == "SERVER"]
    assert served.attributes["client.address"] == "127.0.0.1"
    assert 0 < served.attributes["client.port"] < 65536


async def test_a_caller_who_leaves_early_has_cancelled_and_one_who_leaves_after_the_end_has_not():
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(streaming=True)
            leaving = client.send_message(task("hang"))
            await anext(leaving)
            await leaving.aclose()
            staying = client.send_message(task("complete"))
            async for event in staying:
                if event.status_update.status.state == 3:  # completed
                    break
            await staying.aclose()
            await client.close()
    assert [row.status for row in spans.counted()] == ["cancelled", "success"]


async def test_a_cancelled_caller_is_cancelled_and_nothing_happens_before_the_first_step():
    begun = asyncio.Event()

    async def hang(request: Any, updater: Any, events: Any) -> None:
        begun.set()
        await asyncio.sleep(30)

    async with agent("sales-team", hang) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            unused = client.send_message(task("complete"))
            await unused.aclose()
            running = asyncio.create_task(events_of(client, "complete", context=ClientCallContext(timeout=20)))
            async with asyncio.timeout(10):
                await begun.wait()
            assert spans.finished == ()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await client.close()
    assert [(row.status, row.observed_by) for row in spans.counted()] == [("cancelled", "client")]


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_task_left_running_is_a_success_and_whoever_subscribes_sees_its_end(binding):
    go = asyncio.Event()

    async def wait(request: Any, updater: Any, events: Any) -> None:
        await go.wait()
        await updater.failed()

    async with agent("sales-team", wait) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding)
            order = task("complete")
            order.configuration.return_immediately = True
            (sent,) = [event async for event in client.send_message(order)]
            await client.close()
            client = await sales.client(binding, streaming=True)
            subscription = client.subscribe(SubscribeToTaskRequest(id=sent.task.id))
            await anext(subscription)
            go.set()
            _ = [event async for event in subscription]
            await client.close()
    assert [
        (row.operation, row.status, row.error_code, row.metadata.get("return_immediately")) for row in spans.counted()
    ] == [("send_task", "success", None, True), ("subscribe_task", "error", "TASK_STATE_FAILED", None)]


async def test_a_stream_whose_agent_goes_away_without_an_end_is_cancelled():
    async def vanish(request: Any, updater: Any, events: Any) -> None:
        return

    async with agent("sales-team", vanish) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(streaming=True)
            async with asyncio.timeout(10):
                await events_of(client, "complete")
            await client.close()
    (row,) = spans.counted()
    assert (row.status, row.error_message) == (
        "cancelled",
        "the stream ended while the task was in TASK_STATE_WORKING",
    )


async def test_a_timeout_keeps_its_identity():
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans()):
            client = await sales.client()
            with pytest.raises(A2AClientTimeoutError):
                await events_of(client, "hang", context=ClientCallContext(timeout=0.2))
            await client.close()
