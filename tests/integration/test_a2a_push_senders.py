"""Applications that send push notifications their own way: each delivery is one row, as with the SDK's sender."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from a2a.server.tasks import BasePushNotificationSender, PushNotificationSender
from google.protobuf.json_format import MessageToDict

from a2a_agents import agent, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.model import Communication
from push_receiver import Receiver, receiver
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio


class Own(PushNotificationSender):
    """Reads who is to be told, and tells them with a client of its own."""

    def __init__(self, client: httpx.AsyncClient, configs: Any) -> None:
        self.client = client
        self.configs = configs

    async def send_notification(self, task_id: str, event: Any) -> None:
        for config in await self.configs.get_info_for_dispatch(task_id):
            (await self.client.post(config.url, json=MessageToDict(event))).raise_for_status()


class Deeper(Own):
    async def send_notification(self, task_id: str, event: Any) -> None:
        await super().send_notification(task_id, event)


class Handing(PushNotificationSender):
    """Leaves what it is given to the SDK's sender."""

    def __init__(self, client: httpx.AsyncClient, configs: Any) -> None:
        self.inner = BasePushNotificationSender(client, configs)

    async def send_notification(self, task_id: str, event: Any) -> None:
        await self.inner.send_notification(task_id, event)


class InTheBackground(BasePushNotificationSender):
    async def send_notification(self, task_id: str, event: Any) -> None:
        self.sending = asyncio.create_task(super().send_notification(task_id, event))


class Dispatching(BasePushNotificationSender):
    """Delivers to one receiver in its own way, as who has to sign it does."""

    async def _dispatch_notification(self, event: Any, push_info: Any, task_id: str) -> bool:
        answer = await self._client.post(push_info.url, json=MessageToDict(event), headers={"x-signed": "yes"})
        return answer.is_success


class Noting(BasePushNotificationSender):
    async def _dispatch_notification(self, event: Any, push_info: Any, task_id: str) -> bool:
        return await super()._dispatch_notification(event, push_info, task_id)


SENDERS = [Own, Deeper, Handing, InTheBackground, Dispatching, Noting]


def made_later(client: httpx.AsyncClient, configs: Any) -> PushNotificationSender:
    """Return a sender of a class of its own, as of a module that is loaded after everything is instrumented."""
    names = {name: vars(Own)[name] for name in ("__init__", "send_notification")}
    return type(
        "Later", (PushNotificationSender,), {**names, "send_notification": original(names["send_notification"])}
    )(client, configs)


def original(method: Any) -> Any:
    return getattr(method, "__wrapped__", method)


async def sent_by(
    sender: Any, spans: Spans | None, place: str | None, expect: int
) -> tuple[Receiver, list[Communication]]:
    """Send a task to a team with such a sender, and wait until `expect` notifications were received and told of."""
    async with (
        receiver() as taker,
        httpx.AsyncClient() as http,
        agent("sales-team", push=http, sender_class=sender) as sales,
    ):
        client = await sales.client()
        order = task("complete")
        if place:
            order.configuration.task_push_notification_config.url = taker.url + place
        with acting_as("marketing-team"):
            _ = [event async for event in client.send_message(order)]
        async with asyncio.timeout(10):
            while len(taker.bodies) < expect or (spans is not None and len(spans.finished) < expect + 2):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)  # for one too many
        await client.close()
        rows = spans.counted() if spans is not None else []
        return taker, [row for row in rows if row.operation == "push_notification"]


@pytest.mark.parametrize("sender", [*SENDERS, made_later])
async def test_each_delivery_of_an_own_sender_is_one_row_of_its_task(sender):
    plain, _ = await sent_by(sender, None, "/hook", 4)
    with instrumented(A2AInstrumentor(), Spans()) as spans:
        taker, rows = await sent_by(sender, spans, "/hook", 4)
        (sent,) = [row for row in spans.counted() if row.operation == "send_task"]
    assert len(taker.bodies) == len(plain.bodies) == len(rows) == 4
    assert {(row.status, row.source_id, row.target_type, row.trace_id) for row in rows} == {
        ("success", "sales-team", "external", sent.trace_id)
    }
    assert {row.target_id for row in rows} == {taker.url.removeprefix("http://")}
    assert {row.metadata["task_id"] for row in rows} == {sent.metadata["task_id"]}
    assert sorted(row.metadata.get("task_state", "") for row in rows) == [
        "",
        "TASK_STATE_COMPLETED",
        "TASK_STATE_SUBMITTED",
        "TASK_STATE_WORKING",
    ]


@pytest.mark.parametrize("sender", SENDERS)
async def test_a_task_that_nobody_asked_to_be_told_of_has_no_delivery(sender):
    with instrumented(A2AInstrumentor(), Spans()) as spans:
        taker, rows = await sent_by(sender, spans, None, 0)
    assert (taker.bodies, rows) == ([], [])


@pytest.mark.parametrize("sender", SENDERS)
async def test_a_delivery_of_an_own_sender_that_fails_is_an_error(sender):
    with instrumented(A2AInstrumentor(), Spans()) as spans:
        _, rows = await sent_by(sender, spans, "/busy", 4)
        (sent,) = [row for row in spans.counted() if row.operation == "send_task"]
    assert ([row.status for row in rows], sent.status) == (["error"] * 4, "success")


async def test_a_sender_that_reads_no_receivers_has_one_of_its_own():
    class Fixed(Own):
        async def send_notification(self, task_id: str, event: Any) -> None:
            await self.client.post(self.configs.url, json=MessageToDict(event))

    async with receiver() as taker, httpx.AsyncClient() as http:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            where = type("Where", (), {"url": f"{taker.url}/hook"})()
            _, rows = await sent_by(lambda *_: Fixed(http, where), spans, None, 0)
    assert [row.status for row in rows] == ["success"] * len(taker.bodies) == ["success"] * 4
