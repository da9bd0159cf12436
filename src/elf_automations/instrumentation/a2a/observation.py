"""What a call's events show, and how the call therefore ended.

A task's state decides, not the transport's status: FAILED, REJECTED and AUTH_REQUIRED arrive inside an HTTP
200; a stream that ends without a final state was abandoned by its peer, and a state that has no name here is no known
end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any, Final, cast

import orjson
from a2a.client.errors import A2AClientError, A2AClientTimeoutError
from a2a.types.a2a_pb2 import (
    Message,
    SendMessageResponse,
    StreamResponse,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import JSON_RPC_ERROR_CODE_MAP

from elf_automations.conventions import a2a_draft, elf, otel
from elf_automations.instrumentation.a2a.deadline import deadline_over
from elf_automations.instrumentation.a2a.methods import Method
from elf_automations.instrumentation.spans import CallSpan
from elf_automations.model.protocols.a2a import CANCELLED_STATE, FAILED_STATES

logger = logging.getLogger(__name__)

_STATES: Final[dict[int, str]] = {number: name for name, number in TaskState.items()}
_NAMED: Final = frozenset({None, *_STATES.values()})
_PAUSED: Final = frozenset({"TASK_STATE_INPUT_REQUIRED"})
_EXPLAINED: Final = FAILED_STATES | {CANCELLED_STATE}
_FINAL: Final = _EXPLAINED | _PAUSED | {"TASK_STATE_COMPLETED"}
# Messages are told apart by their exact class: protobuf allows no subclass.
_ENVELOPES: Final = frozenset({StreamResponse, SendMessageResponse})
_TIMEOUT_BASES: Final = frozenset({"TimeoutException", "TimeoutError"})  # httpx's base class, Python's own
_DEADLINE: Final = "DEADLINE_EXCEEDED"


class Observation:
    """One call under observation: `see` every event, then end it once with `conclude`, `abandon` or `fail`.

    No method raises; what cannot be read costs an attribute, never the call.
    """

    __slots__ = (
        "_answered",
        "_began",
        "_bytes",
        "_cancellations",
        "_context_id",
        "_cut_off",
        "_events",
        "_first_event_ms",
        "_metadata",
        "_method",
        "_state",
        "_task_id",
        "_text",
        "call",
    )

    def __init__(self, call: CallSpan, method: Method, *, metadata: dict[str, Any] | None = None) -> None:
        self.call = call
        self._method = method
        self._metadata: dict[str, Any] = metadata or {}
        self._began = time.monotonic()
        self._first_event_ms: float | None = None
        self._events = 0
        self._bytes = 0
        self._task_id: str | None = None
        self._context_id: str | None = None
        self._state: str | None = None
        self._text: str | None = None
        self._answered = False
        self._cancellations = _cancellations()
        self._cut_off = False

    def see(self, event: Any) -> None:
        """Take note of an event or result: a StreamResponse, Task, Message, update event, or anything else."""
        try:
            self._events += 1
            if not self._method.streams:
                self._cut_off = _cancellations() > self._cancellations
            elif self._events == 1:
                self._first_event_ms = round((time.monotonic() - self._began) * 1000, 3)
            if event is not None:
                self._bytes += event.ByteSize()
                self._note(_payload(event))
        except Exception:
            logger.debug("an A2A event could not be read", exc_info=True)

    def identify(self, task_id: str, event: object) -> None:
        """Take note of the task a call is about and of an event it carries out, which is no answer."""
        self._task_id = task_id
        self._note(event)

    def note(self, name: str, value: object) -> None:
        """Keep a fact for the row's metadata."""
        self._metadata[name] = value

    def become(self, method: Method) -> None:
        """Name the call by the method it turns out to use."""
        if method is not self._method:
            self._method = method
            self.call.span.update_name(method.name)
            self.call.set({a2a_draft.A2A_METHOD_NAME: method.name})

    def conclude(self) -> None:
        """End the call: it returned, or its stream is exhausted."""
        self.describe()
        if not self._method.runs_task:
            self.call.succeed()
        elif self._state in FAILED_STATES:
            self.call.fail(self._state, self._text or f"the task ended in {self._state}", self._state)
        elif self._state == CANCELLED_STATE:
            self.call.cancel(self._text or "the task was cancelled")
        elif self._finished:
            self.call.succeed()
        elif self._method.streams:
            self.call.cancel(f"the stream ended while the task was in {self._state or 'no state'}")
        elif self._cut_off:
            self.call.cancel(f"the caller went away while the task was in {self._state or 'no state'}")
        elif self._state not in _NAMED:
            self.call.cancel(f"the task was in {self._state}, a state of another release of the protocol")
        else:
            self.call.succeed()

    def abandon(self) -> None:
        """End the call: its consumer stopped listening, which after the task's end is the usual way to leave.

        A method that does not stream has one answer, after which there is nothing to listen to.
        """
        if self._finished or (self._events and not self._method.streams):
            self.conclude()
        else:
            self.describe()
            self.call.cancel("the caller stopped listening")

    def fail(self, error: BaseException) -> None:
        """End the call with the exception that ended it."""
        self.describe()
        try:
            if _timed_out(error) or (isinstance(error, asyncio.CancelledError) and deadline_over(self.call.context)):
                self.call.time_out(str(error) or "timed out", "timeout")
            else:
                self.call.fail_with(error, code=error_code(error), message=_sent(error).get("message"))
        except Exception:
            logger.debug("an A2A exception could not be read", exc_info=True)
            self.call.fail_with(error)

    @property
    def _finished(self) -> bool:
        return self._answered or self._state in _FINAL

    def _note(self, payload: object) -> None:
        if isinstance(payload, Task):
            self._identify(payload.id, payload.context_id)
            self._enter(payload.status)
        elif isinstance(payload, TaskStatusUpdateEvent):
            self._identify(payload.task_id, payload.context_id)
            self._enter(payload.status)
        elif isinstance(payload, TaskArtifactUpdateEvent):
            self._identify(payload.task_id, payload.context_id)
        elif isinstance(payload, Message):
            self._answered = True
            self._identify(payload.task_id, payload.context_id)

    def _identify(self, task_id: str, context_id: str) -> None:
        self._task_id = task_id or self._task_id
        self._context_id = context_id or self._context_id

    def _enter(self, status: TaskStatus) -> None:
        self._state = _STATES.get(status.state) or str(status.state)
        self._text = None
        if self._state in _EXPLAINED:
            self._text = "\n".join(part.text for part in status.message.parts if part.text) or None

    def describe(self) -> None:
        """Put what was seen on the span, together with its end."""
        try:
            streamed = self._method.streams
            self.call.at_end(
                {
                    a2a_draft.A2A_TASK_ID: self._task_id,
                    a2a_draft.A2A_TASK_STATE: self._state,
                    otel.GEN_AI_CONVERSATION_ID: self._context_id,
                    elf.ELF_A2A_EVENTS: self._events if streamed else None,
                    elf.ELF_A2A_TIME_TO_FIRST_EVENT: self._first_event_ms if streamed else None,
                    elf.ELF_RESPONSE_SIZE: self._bytes or None,
                    elf.ELF_METADATA: orjson.dumps(self._metadata, default=str).decode() if self._metadata else None,
                }
            )
        except Exception:
            logger.debug("an A2A call could not be described", exc_info=True)


def error_code(error: BaseException) -> str | None:
    """Return the protocol's code of an exception: JSON-RPC, else HTTP status, else gRPC status name; None if none."""
    numbers = cast("dict[type, int]", JSON_RPC_ERROR_CODE_MAP)
    for kind in type(error).__mro__:
        if kind in numbers:
            return str(numbers[kind])
    cause: Any = error.__cause__
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(status, int):
        return str(status)
    code = getattr(cause, "code", None)
    name = getattr(code() if callable(code) else None, "name", None)
    return name if isinstance(name, str) else _sent(error).get("code")


def _cancellations() -> int:
    """Return how often the running task was cancelled, as gRPC does when its caller is gone; the SDK hides that."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # another event loop than asyncio's
        return 0
    return task.cancelling() if task is not None else 0


def _sent(error: BaseException) -> Mapping[str, str]:
    """Return code and message of an error that was sent over HTTP+JSON, of which the SDK's client tells the status.

    The body is a `google.rpc.Status` under `error`; what a stream sends is raised as its JSON text.
    """
    if not isinstance(error, A2AClientError):
        return {}
    response = getattr(error.__cause__, "response", None)
    try:
        body = orjson.loads(str(error) if response is None else response.content)["error"]
        said = {name: body.get(name) for name in ("code", "message")}
    except Exception:  # no JSON, not such an error, or a body that was never read
        return {}
    return {name: str(value) for name, value in said.items() if value}


def _timed_out(error: BaseException) -> bool:
    if isinstance(error, A2AClientTimeoutError):
        return True
    cause = error.__cause__
    if cause is None:
        return False
    return any(kind.__name__ in _TIMEOUT_BASES for kind in type(cause).__mro__) or error_code(error) == _DEADLINE


def _payload(event: Any) -> object:
    if type(event) not in _ENVELOPES:
        return event
    name = event.WhichOneof("payload")
    return getattr(event, name) if name else None
