"""Real A2A agents on loopback, whose executor does what the message says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import uvicorn
from a2a.client import Client, ClientConfig, create_client
from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandlerV2, GrpcHandler, LegacyRequestHandler
from a2a.server.request_handlers.grpc_handler import GrpcServerCallContextBuilder
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.server.tasks import (
    BasePushNotificationSender,
    InMemoryPushNotificationConfigStore,
    InMemoryTaskStore,
    PushNotificationSender,
    TaskUpdater,
)
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    Message,
    Part,
    Role,
    SendMessageRequest,
    StreamResponse,
)
from a2a.types.a2a_pb2_grpc import add_A2AServiceServicer_to_server
from starlette.applications import Starlette

BINDINGS = ("JSONRPC", "HTTP+JSON", "GRPC")
Act = Callable[[RequestContext, TaskUpdater, EventQueue], Awaitable[None]]


async def obey(request: RequestContext, task: TaskUpdater, events: EventQueue) -> None:
    """Do what the text says: complete, fail, reject, authenticate, ask, raise, hang or cancel.

    The executor itself does `greet` (a message, no task), `explode` (raises before any event) and `sample`.
    """
    order = request.get_user_input()
    said = task.new_agent_message([Part(text=f"I {order}")])
    match order:
        case "fail":
            await task.failed(said)
        case "reject":
            await task.reject(said)
        case "authenticate":
            await task.requires_auth(said)
        case "ask":
            await task.requires_input(said)
        case "cancel":
            await task.cancel(said)
        case "raise":
            raise RuntimeError("boom")
        case "hang":
            await asyncio.sleep(30)
        case _:
            await task.add_artifact([Part(text="proposal ready")], name="proposal")
            await task.complete()


class Executor(AgentExecutor):
    def __init__(self, act: Act) -> None:
        self._act = act

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.message is not None
        if context.get_user_input() == "explode":
            raise RuntimeError("boom")
        if context.get_user_input() == "greet":
            await event_queue.enqueue_event(new_text_message("hello"))
            return
        if context.get_user_input() == "sample":
            await _as_the_sdks_sample(TaskUpdater(event_queue, context.task_id or "", context.context_id or ""))
            return
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        await self._act(context, updater, event_queue)

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


async def _as_the_sdks_sample(task: TaskUpdater) -> None:
    """Work as the SDK's hello-world sample does, which announces no task before its first update."""
    await task.start_work(message=task.new_agent_message([Part(text="Processing your question...")]))
    await task.add_artifact([Part(text="Hello World!")], name="response", last_chunk=True)
    await task.complete()


@dataclass(frozen=True)
class Agent:
    name: str
    url: str
    card: AgentCard
    app: Starlette

    async def client(self, binding: str = "JSONRPC", *, streaming: bool = False) -> Client:
        config = ClientConfig(
            streaming=streaming,
            supported_protocol_bindings=[binding],
            grpc_channel_factory=grpc.aio.insecure_channel,
        )
        return await create_client(self.card, config)


@asynccontextmanager
async def agent(
    name: str,
    act: Act = obey,
    *,
    legacy: bool = False,
    handler_class: Callable[..., Any] | None = None,
    push: httpx.AsyncClient | None = None,
    sender_class: Callable[..., PushNotificationSender] = BasePushNotificationSender,
    within: Callable[[Any], Any] = lambda app: app,
    compat: bool = False,
    grpc_contexts: GrpcServerCallContextBuilder | None = None,
) -> AsyncIterator[Agent]:
    """Serve an agent over all three bindings until the block ends.

    `handler_class` is made instead of the SDK's handler; `push` is the HTTP client its push notifications leave by,
    through a `sender_class`;
    `within` puts the app into a middleware; `compat` also speaks protocol 0.3; `grpc_contexts` makes
    the contexts of gRPC requests instead of the SDK's builder.
    """
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    grpc_server = grpc.aio.server()
    grpc_port = grpc_server.add_insecure_port("127.0.0.1:0")
    places = {"JSONRPC": f"{url}/rpc", "HTTP+JSON": f"{url}/rest", "GRPC": f"127.0.0.1:{grpc_port}"}
    card = AgentCard(
        name=name,
        description=f"The {name}",
        version="2.1",
        supported_interfaces=[
            AgentInterface(url=place, protocol_binding=binding, protocol_version="1.0")
            for binding, place in places.items()
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=push is not None, extended_agent_card=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="proposals", name="Proposals", description="Writes proposals", tags=["sales"])],
    )
    made: Any = handler_class or (LegacyRequestHandler if legacy else DefaultRequestHandlerV2)
    configs = InMemoryPushNotificationConfigStore() if push else None
    handler = made(
        Executor(act),
        InMemoryTaskStore(),
        card,
        extended_agent_card=card,
        push_config_store=configs,
        push_sender=sender_class(push, configs) if push and configs else None,
    )
    routes = [
        *create_agent_card_routes(card),
        *create_jsonrpc_routes(handler, "/rpc", enable_v0_3_compat=compat),
        *create_rest_routes(handler, path_prefix="/rest", enable_v0_3_compat=compat),
    ]
    add_A2AServiceServicer_to_server(GrpcHandler(handler, grpc_contexts), grpc_server)
    await grpc_server.start()
    app = Starlette(routes=routes)
    config = uvicorn.Config(within(app), log_level="critical", lifespan="off", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110  (uvicorn offers no event)
            await asyncio.sleep(0.005)
    try:
        yield Agent(name, url, card, app)
    finally:
        if isinstance(handler, DefaultRequestHandlerV2):
            await handler.aclose()
        server.should_exit = True
        await serving
        await grpc_server.stop(None)
        listener.close()


def task(text: str, **fields: Any) -> SendMessageRequest:
    message = Message(message_id=f"message-{text}", role=Role.ROLE_USER, parts=[Part(text=text)], **fields)
    return SendMessageRequest(message=message)


async def events_of(client: Client, text: str, **call: Any) -> list[StreamResponse]:
    return [event async for event in client.send_message(task(text), **call)]
