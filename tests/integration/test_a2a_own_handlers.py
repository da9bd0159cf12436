"""Applications that write their own request handler, or override a part of the SDK's, are seen like all others."""

from __future__ import annotations

from typing import Any

import pytest
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types.a2a_pb2 import Message, Part, Role, SendMessageRequest, Task, TaskState, TaskStatus
from a2a.utils.errors import TaskNotFoundError

from a2a_agents import agent, events_of
from elf_automations.instrumentation.a2a import A2AInstrumentor
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
