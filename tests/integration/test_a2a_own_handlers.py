"""Applications that write their own request handler, or override a part of the SDK's, are seen like all others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.server.tasks import InMemoryTaskStore
from a2a.types.a2a_pb2 import (
    AgentCard,
    CancelTaskRequest,
    GetTaskRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    Task,
    TaskState,
    TaskStatus,
)
from a2a.utils.errors import TaskNotFoundError
from opentelemetry.instrumentation.utils import suppress_instrumentation

from a2a_agents import Executor, agent, events_of, obey, task
from elf_automations.instrumentation import acting_as
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.instrumentation.identity import current_actor
from elf_automations.model import EntityRef
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio
BINDINGS = ["JSONRPC", "HTTP+JSON", "GRPC"]


def task_of(params: SendMessageRequest) -> Task:
    state = TaskState.TASK_STATE_FAILED if params.message.parts[0].text == "fail" else TaskState.TASK_STATE_COMPLETED
    return Task(id="task-1", context_id="context-1", status=TaskStatus(state=state))


def own_handler() -> type[RequestHandler]:
    async def not_there(_self: Any, _params: Any, _context: Any) -> Any:
        raise TaskNotFoundError

    class Steps:
        """Asynchronously iterable, and no more than that."""

        def __init__(self, steps: list[Any]) -> None:
            self.steps = steps

        def __aiter__(self) -> Any:
            return self._all()

        async def _all(self) -> Any:
            for step in self.steps:
                yield step

    async def send(_self: Any, params: SendMessageRequest, _context: Any) -> Task:
        return task_of(params)

    def stream(_self: Any, params: SendMessageRequest, _context: Any) -> Steps:
        return Steps([task_of(params)])

    methods: dict[str, Any] = dict.fromkeys(RequestHandler.__abstractmethods__, not_there)
    methods |= {"on_message_send": send, "on_message_send_stream": stream, "__init__": lambda *_, **__: None}
    return type("OwnHandler", (RequestHandler,), methods)


class Overriding(DefaultRequestHandlerV2):
    """Answers some messages itself and leaves the others to the SDK."""

    async def on_message_send(self, params: SendMessageRequest, context: Any) -> Any:
        if params.message.parts[0].text == "mine":
            return Message(message_id="answer-1", role=Role.ROLE_AGENT, parts=[Part(text="done")])
        return await super().on_message_send(params, context)


class Forgetful(DefaultRequestHandlerV2):
    """Answers that it has no task, as a handler may."""

    async def on_get_task(self, params: GetTaskRequest, context: ServerCallContext) -> Task | None:
        return None

    async def on_cancel_task(self, params: CancelTaskRequest, context: ServerCallContext) -> Task | None:
        return None


def delegating(hand_on: Callable[[ServerCallContext], ServerCallContext]) -> type[RequestHandler]:
    """Return a handler class that leaves every request to another handler, with a context of its own."""

    def unary(name: str) -> Any:
        async def call(self: Any, params: Any, context: ServerCallContext) -> Any:
            return await getattr(self.inner, name)(params, hand_on(context))

        return call

    def stream(name: str) -> Any:
        async def call(self: Any, params: Any, context: ServerCallContext) -> Any:
            async for event in getattr(self.inner, name)(params, hand_on(context)):
                yield event

        return call

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        self.inner = DefaultRequestHandlerV2(*args, **kwargs)

    streams = {"on_message_send_stream", "on_subscribe_to_task"}
    methods = {name: (stream if name in streams else unary)(name) for name in RequestHandler.__abstractmethods__}
    return type("Delegating", (RequestHandler,), {**methods, "__init__": init})


def seen(spans: Spans) -> list[tuple[str, str, bool]]:
    return sorted((row.observed_by, row.status, row.counted) for row in spans.settled().rows)


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("made", ["before", "after"])
async def test_a_handler_written_from_scratch_gives_both_halves_of_every_call(binding, streaming, made):
    handler = own_handler() if made == "before" else None
    with instrumented(A2AInstrumentor(), Spans()) as spans:
        async with agent("sales-team", handler_class=handler or own_handler()) as sales:
            client = await sales.client(binding, streaming=streaming)
            answers = [(await events_of(client, text))[0].task.status.state for text in ("complete", "fail")]
            await client.close()
    assert answers == [TaskState.TASK_STATE_COMPLETED, TaskState.TASK_STATE_FAILED]
    assert seen(spans) == [
        ("client", "error", True),
        ("client", "success", True),
        ("server", "error", False),
        ("server", "success", False),
    ]


async def test_what_a_subclass_answers_itself_and_what_it_passes_on_are_one_server_span_each():
    async with agent("sales-team", handler_class=Overriding) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            for text in ("mine", "fail"):
                await events_of(client, text)
            await client.close()
    assert seen(spans) == [
        ("client", "error", True),
        ("client", "success", True),
        ("server", "error", False),
        ("server", "success", False),
    ]


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "untraced"])
async def test_a_handler_that_answers_none_has_found_no_task_and_says_so_once(binding, traced):
    async with agent("sales-team", handler_class=Forgetful) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding)
            with nullcontext() if traced else suppress_instrumentation():
                with pytest.raises(TaskNotFoundError):
                    await client.get_task(GetTaskRequest(id="task-1"))
                with pytest.raises(TaskNotFoundError):
                    await client.cancel_task(CancelTaskRequest(id="task-1"))
            await client.close()
    expected = [("client", True), ("server", False)] if traced else [("server", True)]
    rows = spans.settled().rows
    assert sorted((row.operation, row.observed_by, row.counted) for row in rows) == [
        (operation, *half) for operation in ("cancel_task", "get_task") for half in expected
    ]
    assert {(row.status, row.error_code, row.error_message) for row in rows} == {("error", "-32001", "Task not found")}


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize("streaming", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("traced", [True, False], ids=["traced", "untraced"])
@pytest.mark.parametrize(
    "hand_on",
    [
        lambda context: context.model_copy(update={"tenant": "shop"}),
        lambda context: ServerCallContext(state={**context.state, "shop": 7}),
        lambda context: ServerCallContext(tenant="shop"),
    ],
    ids=["copied", "state alone", "new"],
)
async def test_a_handler_that_delegates_with_another_context_serves_one_request(binding, streaming, traced, hand_on):
    actors: list[Any] = []

    async def act(request: Any, updater: Any, events: Any) -> None:
        actors.append(current_actor())
        await obey(request, updater, events)

    async with agent("sales-team", act, handler_class=delegating(hand_on)) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client(binding, streaming=streaming)
            with acting_as("marketing-team") if traced else suppress_instrumentation():
                await events_of(client, "complete")
            await client.close()
    expected = [("client", True, "marketing-team"), ("server", False, "marketing-team")]
    rows = spans.settled().rows
    assert sorted((row.observed_by, row.counted, row.source_id) for row in rows) == (
        expected if traced else [("server", True, "unknown")]
    )
    assert {(row.target_id, row.target_type, row.status) for row in rows} == {("sales-team", "team", "success")}
    assert {row.metadata["binding"] for row in rows} == {binding}
    assert actors == [EntityRef("sales-team", "team")]


async def test_a_handler_that_calls_another_teams_in_the_same_process_makes_a_call_of_its_own():
    store, card = InMemoryTaskStore(), AgentCard(name="finance-team")
    finance = DefaultRequestHandlerV2(Executor(obey), store, card)

    async def ask_finance(request: Any, updater: Any, events: Any) -> None:
        await finance.on_message_send(task("greet"), ServerCallContext())
        await obey(request, updater, events)

    async with agent("sales-team", ask_finance) as sales:
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            with acting_as("marketing-team"):
                await events_of(client, "complete")
            await client.close()
    await finance.aclose()
    assert sorted((row.observed_by, row.counted, row.target_id) for row in spans.settled().rows) == [
        ("client", True, "sales-team"),
        ("server", False, "sales-team"),
        ("server", True, "finance-team"),
    ]


def test_classes_of_the_application_are_put_back_as_they_were():
    handler = own_handler()
    owners = (handler, Overriding, RequestHandler)
    before = [dict(vars(owner)) for owner in owners]
    A2AInstrumentor().instrument()
    later = own_handler()
    assert hasattr(later.on_message_send, "__wrapped__")
    assert not hasattr(RequestHandler.on_message_send, "__wrapped__")
    A2AInstrumentor().uninstrument()
    assert [dict(vars(owner)) for owner in owners] == before
    assert not hasattr(later.on_message_send, "__wrapped__")
