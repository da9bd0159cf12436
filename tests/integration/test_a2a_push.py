"""Push notifications: each delivery is one CLIENT row of the agent's team, and its context reaches the receiver."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from a2a.types.a2a_pb2 import AuthenticationInfo, TaskPushNotificationConfig
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

from a2a_agents import agent, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from push_receiver import receiver
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio


async def send_with(place: str, spans: Spans | None, *, expect: int) -> list[dict[str, str]]:
    """Send a task whose events are pushed to `place` of a receiver; return the headers the receiver saw."""
    async with receiver() as taker, httpx.AsyncClient() as http, agent("sales-team", push=http) as sales:
        client = await sales.client()
        order = task("complete")
        config = TaskPushNotificationConfig(
            url=place if "://" in place else taker.url + place,
            token="t0",
            authentication=AuthenticationInfo(scheme="Bearer", credentials="c0"),
        )
        order.configuration.task_push_notification_config.CopyFrom(config)
        with acting_as("marketing-team"):
            _ = [event async for event in client.send_message(order)]
        async with asyncio.timeout(10):
            while spans is not None and len(spans.finished) < expect:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            while spans is None and len(taker.headers) < expect:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await client.close()
        return taker.headers


async def test_each_delivery_is_a_row_in_the_tasks_trace_and_carries_its_context():
    plain = await send_with("/hook", None, expect=4)
    with instrumented(A2AInstrumentor(), Spans()) as spans:
        headers = await send_with("/hook", spans, expect=6)
    sent = [row for row in spans.counted() if row.operation == "push_notification"]
    (task_row,) = [row for row in spans.counted() if row.operation == "send_task"]
    assert len(sent) == len(headers) == len(plain) == 4
    assert {
        (row.status, row.message_type, row.source_id, row.source_type, row.target_type, row.observed_by, row.trace_id)
        for row in sent
    } == {("success", "status_update", "sales-team", "team", "external", "client", task_row.trace_id)}
    assert {row.metadata["task_id"] for row in sent} == {task_row.metadata["task_id"]}
    assert [row.metadata.get("task_state") for row in sent] == [
        "TASK_STATE_SUBMITTED",
        "TASK_STATE_WORKING",
        None,
        "TASK_STATE_COMPLETED",
    ]
    assert [seen["traceparent"].split("-")[1:3] for seen in headers] == [[row.trace_id, row.span_id] for row in sent]
    assert all("elf.entity.id=sales-team" in seen["baggage"] for seen in headers)
    assert {(seen["x-a2a-notification-token"], seen["authorization"]) for seen in headers} == {("t0", "Bearer c0")}
    varying = {"host", "content-length", "traceparent", "baggage"}
    assert [{k: v for k, v in seen.items() if k not in varying} for seen in headers] == [
        {k: v for k, v in seen.items() if k not in varying} for seen in plain
    ]


@pytest.mark.parametrize(
    ("place", "code", "text"),
    [("/busy", "503", "the receiver answered 503"), ("http://127.0.0.1:9/hook", "ConnectError", "connection")],
    ids=["refused", "unreachable"],
)
async def test_a_delivery_that_fails_is_an_error_and_the_task_is_not(place, code, text):
    with instrumented(A2AInstrumentor(), Spans()) as spans:
        await send_with(place, spans, expect=6)
    sent = [row for row in spans.counted() if row.operation == "push_notification"]
    assert {(row.status, row.error_code) for row in sent} == {("error", code)}
    assert all(text in (row.error_message or "").lower() for row in sent)
    assert [row.status for row in spans.counted() if row.operation == "send_task"] == ["success"]


async def test_the_http_clients_own_span_nests_below_and_the_delivery_stays_one_row():
    spans = Spans()
    with instrumented(HTTPXClientInstrumentor(), spans), instrumented(A2AInstrumentor(), spans):
        headers = await send_with("/hook", spans, expect=11)
    pushed = {span.context.span_id for span in spans.finished if span.name == "SendPushNotification"}
    posts = [span for span in spans.finished if span.parent is not None and span.parent.span_id in pushed]
    assert len(pushed) == len(posts) == 4
    carried = {int(seen["traceparent"].split("-")[2], 16) for seen in headers}
    assert carried == {post.context.span_id for post in posts}


@pytest.mark.parametrize("at_once", [False, True], ids=["one after the other", "at once"])
async def test_what_is_pushed_of_a_follow_up_belongs_to_its_own_trace(at_once):
    go = asyncio.Event()

    async def take_turns(request: Any, updater: Any, events: Any) -> None:
        await go.wait()
        await (updater.complete() if request.get_user_input() == "second" else updater.requires_input())

    async with receiver() as taker, httpx.AsyncClient() as http, agent("sales-team", take_turns, push=http) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            first = task("first")
            first.configuration.task_push_notification_config.url = f"{taker.url}/hook"
            first.configuration.return_immediately = at_once
            if not at_once:
                go.set()
            (answer,) = [event async for event in client.send_message(first)]
            second = task("second", task_id=answer.task.id, context_id=answer.task.context_id)
            sending = asyncio.create_task(anext(client.send_message(second)))
            await asyncio.sleep(0.1)
            go.set()
            await sending
            await pushed(spans, 6)
            await client.close()
    turns = [row.trace_id for row in spans.counted() if row.operation == "send_task"]
    rows = [row for row in spans.counted() if row.operation == "push_notification"]
    assert [(row.metadata["task_state"].removeprefix("TASK_STATE_"), row.trace_id) for row in rows] == [
        ("SUBMITTED", turns[0]),
        ("WORKING", turns[0]),
        ("INPUT_REQUIRED", turns[0]),
        ("INPUT_REQUIRED", turns[1]),
        ("WORKING", turns[1]),
        ("COMPLETED", turns[1]),
    ]
    assert {row.source_id for row in rows} == {"sales-team"}


async def pushed(spans: Spans, number: int) -> None:
    async with asyncio.timeout(10):
        while sum(span.name == "SendPushNotification" for span in spans.finished) < number:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
