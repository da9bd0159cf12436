"""The A2A protocol with and without the instrumentation: the same bytes on the wire, the same results, the same errors.

The scenarios follow the operations of the A2A 1.0 specification (core operations, streaming, push configuration, agent
cards, errors, versions, protocol 0.3 on request), the behaviours of tests/a2a_agents and the SDK's own sample agent.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest
from a2a.client import Client
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    DeleteTaskPushNotificationConfigRequest,
    GetExtendedAgentCardRequest,
    GetTaskPushNotificationConfigRequest,
    GetTaskRequest,
    ListTaskPushNotificationConfigsRequest,
    ListTasksRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
)
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtoMessage

from a2a_agents import BINDINGS, Agent, agent, task
from elf_automations.instrumentation.a2a import A2AInstrumentor
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

OURS = {"traceparent", "baggage"}  # the only headers a traced call adds
VARYING = {"host", "content-length", "date", "etag"}
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
_PORT = re.compile(r"127\.0\.0\.1:\d+")
ORDERS = ("complete", "sample", "fail", "reject", "authenticate", "ask", "cancel", "greet", "explode", "raise")


class Wire:
    """An ASGI middleware that writes down everything said over HTTP."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def __call__(self, app: Any) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            said: dict[str, Any] = {"request": f"{scope['method']} {scope['path']}?{scope['query_string'].decode()}"}
            said["headers"] = headers(scope["headers"], OURS | VARYING)
            sent, got = bytearray(), bytearray()

            async def hear() -> Any:
                message = await receive()
                sent.extend(message.get("body", b""))
                return message

            async def say(message: Any) -> None:
                if message["type"] == "http.response.start":
                    said["status"] = message["status"], headers(message["headers"], VARYING)
                got.extend(message.get("body", b""))
                await send(message)

            self.said.append(said)
            await app(scope, hear, say)
            said["body"], said["answer"] = sent.decode(), got.decode()

        return serve


def headers(pairs: Any, without: set[str]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in pairs if name.decode() not in without}


def plain(said: object) -> str:
    """Return what was said without what differs between any two runs: each id by its place of first appearance."""
    text = _PORT.sub("<place>", _TIME.sub("<time>", json.dumps(said, indent=1, sort_keys=True, default=str)))
    ids: dict[str, str] = {}
    return _UUID.sub(lambda found: ids.setdefault(found.group(), f"<id {len(ids)}>"), text)


async def outcome(made: Awaitable[Any] | AsyncIterator[Any]) -> Any:
    """Return what an application gets: the results, or the exception with its cause."""
    results: list[Any] = []
    try:
        if hasattr(made, "__aiter__"):
            async for event in made:
                results.append(shown(event))  # noqa: PERF401  (what came before an exception counts too)
        else:
            results.append(shown(await made))
    except Exception as error:
        cause = type(error.__cause__).__name__
        return [*results, type(error).__name__, str(error), cause, getattr(error, "data", None)]
    return results


def shown(result: object) -> Any:
    return MessageToDict(result) if isinstance(result, ProtoMessage) else result


async def every_operation(where: Agent, binding: str, *, streaming: bool) -> list[Any]:
    """Use every operation of the protocol through the SDK's client, rightly and wrongly."""
    client: Client = await where.client(binding, streaming=streaming)
    got: list[Any] = [await outcome(client.send_message(task(order))) for order in ORDERS]
    asked = next(answer["task"] for answer in got[ORDERS.index("ask")] if "task" in answer)
    done = next(answer["task"] for answer in got[ORDERS.index("complete")] if "task" in answer)
    got.append(await outcome(client.send_message(task("complete", task_id=asked["id"]))))
    got.append(await outcome(client.send_message(task("complete", task_id=done["id"]))))
    got.append(await outcome(client.send_message(task("complete", task_id="unknown"))))
    got.append(await outcome(client.send_message(task("complete", task_id=done["id"], context_id="another"))))
    got.append(await outcome(client.get_task(GetTaskRequest(id=done["id"], history_length=1))))
    got.append(await outcome(client.get_task(GetTaskRequest(id="unknown"))))
    got.append(await outcome(client.get_task(GetTaskRequest())))
    got.append(await outcome(client.list_tasks(ListTasksRequest(context_id=done["contextId"], page_size=5))))
    got.append(await outcome(client.cancel_task(CancelTaskRequest(id=done["id"]))))
    got.append(await outcome(client.cancel_task(CancelTaskRequest(id="unknown"))))
    got.append(await outcome(client.subscribe(SubscribeToTaskRequest(id=done["id"]))))
    config = TaskPushNotificationConfig(task_id=done["id"], id="hook", url="http://127.0.0.1:9/hook", token="t")
    got.append(await outcome(client.create_task_push_notification_config(config)))
    found = GetTaskPushNotificationConfigRequest(task_id=done["id"], id="hook")
    got.append(await outcome(client.get_task_push_notification_config(found)))
    every = ListTaskPushNotificationConfigsRequest(task_id=done["id"])
    got.append(await outcome(client.list_task_push_notification_configs(every)))
    gone = DeleteTaskPushNotificationConfigRequest(task_id=done["id"], id="hook")
    got.append(await outcome(client.delete_task_push_notification_config(gone)))
    got.append(await outcome(client.get_task_push_notification_config(found)))
    got.append(await outcome(client.get_extended_agent_card(GetExtendedAgentCardRequest())))
    await client.close()
    return got


def rpc(method: str, params: str = "{}") -> str:
    return f'{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}'


NEW = '{"message":{"messageId":"m","role":"ROLE_USER","parts":[{"text":"complete"}]}}'
OLD = '{"message":{"messageId":"m","role":"user","parts":[{"kind":"text","text":"complete"}]}}'
OLD_REST = '{"request":{"messageId":"m","role":"ROLE_USER","content":[{"text":"complete"}]}}'
RAW: list[tuple[str, str, dict[str, str], str]] = [
    ("GET", "/.well-known/agent-card.json", {}, ""),
    ("POST", "/rpc", {}, rpc("SendMessage", NEW)),
    ("POST", "/rpc", {}, rpc("SendStreamingMessage", NEW)),
    ("POST", "/rpc", {}, rpc("SendMessage")),
    ("POST", "/rpc", {}, rpc("SendStreamingMessage")),
    ("POST", "/rpc", {}, rpc("Dance")),
    ("POST", "/rpc", {}, rpc("GetTask", '{"id":["x"]}')),
    ("POST", "/rpc", {}, "{not json"),
    ("POST", "/rpc", {}, "[]"),
    ("POST", "/rpc", {}, '{"jsonrpc":"1.0","id":1,"method":"GetTask"}'),
    ("POST", "/rpc", {}, '{"jsonrpc":"2.0","id":true,"method":"GetTask"}'),
    ("POST", "/rpc", {"A2A-Version": "0.1"}, rpc("GetTask", '{"id":"x"}')),
    ("POST", "/rpc", {"A2A-Version": "9"}, rpc("SendStreamingMessage", NEW)),
    ("POST", "/rpc", {"Content-Type": "text/plain"}, rpc("SendMessage", NEW)),
    ("POST", "/rpc", {"A2A-Version": "0.3"}, rpc("message/send", OLD)),
    ("POST", "/rpc", {"A2A-Version": "0.3"}, rpc("message/stream", OLD)),
    ("POST", "/rpc", {"A2A-Version": "0.3"}, rpc("tasks/get", '{"id":"x"}')),
    ("GET", "/rpc", {}, ""),
    ("POST", "/rest/message:send", {}, NEW),
    ("POST", "/rest/message:stream", {}, NEW),
    ("POST", "/rest/message:send", {}, "{not json"),
    ("POST", "/rest/message:stream", {}, "{not json"),
    ("POST", "/rest/message:send", {"A2A-Version": "9"}, NEW),
    ("POST", "/rest/message:send", {"Content-Type": "text/plain"}, NEW),
    ("GET", "/rest/tasks/unknown", {}, ""),
    ("GET", "/rest/tasks?pageSize=0", {}, ""),
    ("POST", "/rest/tasks/unknown:cancel", {}, ""),
    ("GET", "/rest/tasks/unknown:subscribe", {}, ""),
    ("GET", "/rest/extendedAgentCard", {}, ""),
    ("GET", "/rest/some-tenant/tasks/unknown", {}, ""),
    ("POST", "/rest/v1/message:send", {"A2A-Version": "0.3"}, OLD_REST),
    ("DELETE", "/rest/nowhere", {}, ""),
]


async def raw_requests(where: Agent) -> list[Any]:
    """Send what no SDK client would, over plain HTTP."""
    async with httpx.AsyncClient(base_url=where.url, timeout=10) as http:
        common = {"A2A-Version": "1.0", "Content-Type": "application/json"}
        for method, path, extra, body in RAW:
            await http.request(method, path, headers={**common, **extra}, content=body)
    return []


@asynccontextmanager
async def recorded(*, traced: bool, legacy: bool) -> AsyncIterator[tuple[Agent, Wire, Spans]]:
    wire, spans = Wire(), Spans()
    with ExitStack() as stack:
        if traced:
            stack.enter_context(instrumented(A2AInstrumentor(), spans))
        async with (
            httpx.AsyncClient() as push,
            agent("sales-team", push=push, within=wire, compat=True, legacy=legacy) as sales,
        ):
            yield sales, wire, spans


async def both(scenario: Callable[[Agent], Awaitable[list[Any]]], *, legacy: bool) -> tuple[str, str, int]:
    told: list[str] = []
    for traced in (False, True):
        async with recorded(traced=traced, legacy=legacy) as (where, wire, spans):
            got = await scenario(where)
            told.append(plain({"got": got, "wire": wire.said}))
    return told[0], told[1], len(spans.finished)


@pytest.mark.parametrize("legacy", [False, True], ids=["default handler", "legacy handler"])
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("binding", BINDINGS)
async def test_every_operation_gives_the_same_results_errors_and_bytes(binding, streaming, legacy):
    async def scenario(where: Agent) -> list[Any]:
        return await every_operation(where, binding, streaming=streaming)

    without, with_, made = await both(scenario, legacy=legacy)
    assert with_ == without
    assert made > 30


@pytest.mark.parametrize("legacy", [False, True], ids=["default handler", "legacy handler"])
async def test_every_raw_request_is_answered_with_the_same_bytes(legacy):
    without, with_, made = await both(raw_requests, legacy=legacy)
    assert with_ == without
    assert made > 20
