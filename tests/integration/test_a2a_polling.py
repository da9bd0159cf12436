"""A task that is sent, left running and asked for: one task_request, any number of status_updates, one task id."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from contextlib import closing
from typing import Any

import psycopg
import pytest
from a2a.types.a2a_pb2 import GetTaskRequest, SubscribeToTaskRequest

from a2a_agents import BINDINGS, agent, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.storage.writer import PostgresWriter
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

CHAIN = """
    select first.target_id, first.status, count(later.*), max(later.metadata ->> 'task_state')
    from communication_telemetry first
    left join communication_telemetry later
      on later.metadata ->> 'task_id' = first.metadata ->> 'task_id' and later.message_type = 'status_update'
     and later.counted and later.source_id = first.source_id
    where first.message_type = 'task_request' and first.counted
    group by first.id, first.target_id, first.status
"""


@pytest.mark.parametrize("binding", BINDINGS)
async def test_whoever_asks_for_a_running_task_updates_it_and_sends_no_new_one(binding, database_url):
    go = asyncio.Event()

    async def wait(request: Any, updater: Any, events: Any) -> None:
        await go.wait()
        await updater.complete()

    async with agent("sales-team", wait) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
            client = await sales.client(binding)
            order = task("complete")
            order.configuration.return_immediately = True
            (sent,) = [event async for event in client.send_message(order)]
            for _ in range(2):
                await client.get_task(GetTaskRequest(id=sent.task.id))
            listener = await sales.client(binding, streaming=True)
            subscription = listener.subscribe(SubscribeToTaskRequest(id=sent.task.id))
            await anext(subscription)
            go.set()
            _ = [event async for event in subscription]
            await client.get_task(GetTaskRequest(id=sent.task.id))
            await client.close()
            await listener.close()
    rows = spans.counted()
    assert [(row.operation, row.message_type, row.status) for row in rows] == [
        ("send_task", "task_request", "success"),
        ("get_task", "status_update", "success"),
        ("get_task", "status_update", "success"),
        ("subscribe_task", "status_update", "success"),
        ("get_task", "status_update", "success"),
    ]
    assert {row.metadata["task_id"] for row in rows} == {sent.task.id}
    assert rows[0].metadata["return_immediately"] is True
    # An agent answers as soon as there is a task, which may be before or after it began to work.
    assert rows[0].metadata["task_state"] in {"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"}
    assert [row.metadata["task_state"] for row in rows[-2:]] == ["TASK_STATE_COMPLETED"] * 2

    settled = spans.settled()
    with closing(PostgresWriter(database_url)) as writer:
        writer.write(settled.rows, settled.entities, retry=False)
    with psycopg.connect(database_url) as connection:
        assert connection.execute(CHAIN).fetchall()[0][:3] == ("sales-team", "success", 4)


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("leaving", ["closed", "dropped", "cancelled", "sent while cancelled"])
async def test_a_caller_that_takes_the_one_answer_and_leaves_has_been_answered(binding, leaving):
    go = asyncio.Event()
    answers: list[Any] = []

    async def wait(request: Any, updater: Any, events: Any) -> None:
        await go.wait()
        await updater.complete()

    async def take(client: Any) -> None:
        order = task("complete")
        order.configuration.return_immediately = True
        if leaving == "sent while cancelled":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
        answer = client.send_message(order)
        answers.append(await anext(answer))
        if leaving == "closed":
            await answer.aclose()
        elif leaving == "cancelled":
            async with contextlib.aclosing(answer):
                await asyncio.sleep(30)
        elif leaving == "sent while cancelled":
            assert [event async for event in answer] == []

    async with agent("sales-team", wait) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans, acting_as("marketing-team"):
            client = await sales.client(binding)
            taking = asyncio.create_task(take(client))
            async with asyncio.timeout(10):
                while leaving == "cancelled" and not answers:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0)
            if "cancelled" in leaving:
                taking.cancel()
            await asyncio.wait([taking])
            gc.collect()
            async with asyncio.timeout(10):
                while len(spans.finished) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            go.set()
            await client.close()
    (row,) = spans.counted()
    assert (row.observed_by, row.status, row.error_message) == ("client", "success", None)
    assert row.metadata["task_id"] == answers[0].task.id
