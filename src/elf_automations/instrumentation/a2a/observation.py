"""What a call's events show, and how the call therefore ended.

A task's state decides, not the transport's status: FAILED, REJECTED and AUTH_REQUIRED arrive inside an HTTP
200; a stream that ends without a final state was abandoned by its peer.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final, cast

import orjson
from a2a.client.errors import A2AClientTimeoutError
from a2a.types.a2a_pb2 import (
    Message,
    StreamResponse,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
    TaskStatusUpdateEvent,
)
from a2a.utils.errors import JSON_RPC_ERROR_CODE_MAP

from elf_automations.conventions import a2a_draft, elf, otel
from elf_automations.instrumentation.a2a.methods import Method
from elf_automations.instrumentation.spans import CallSpan
from elf_automations.model.protocols.a2a import CANCELLED_STATE, FAILED_STATES

logger = logging.getLogger(__name__)

_PAUSED: Final = frozenset({"TASK_STATE_INPUT_REQUIRED"})
_FINAL: Final = FAILED_STATES | _PAUSED | {CANCELLED_STATE, "TASK_STATE_COMPLETED"}
_TIMEOUT_BASES: Final = frozenset({"TimeoutException", "TimeoutError"})  # httpx's base class, Python's own


class Observation:
    """One call under observation: `see` every event, then end it once with `conclude`, `abandon` or `fail`.

    No method raises; what cannot be read costs an attribute, never the call.
    """

    def __init__(self, call: CallSpan, method: Method, *, metadata: dict[str, Any] | None = None) -> None:
        self.call = call
        self._method = method
        self._metadata: dict[str, Any] = metadata or {}
        self._began = time.monotonic()
        self._events = 0
        self._state: str | None = None
        self._text: str | None = None
        self._answered = False

    def see(self, event: object) -> None:
        """Take note of an event or result: a StreamResponse, Task, Message, update event, or anything else."""
        try:
            self._events += 1
            if self._events == 1 and self._method.streams:
                self._metadata["first_event_ms"] = round((time.monotonic() - self._began) * 1000, 3)
            self._note(_payload(event))
        except Exception:
            logger.debug("an A2A event could not be read", exc_info=True)

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
        self._describe()
        if not self._method.runs_task:
            self.call.succeed()
        elif self._state in FAILED_STATES:
            self.call.fail(self._state, self._text or f"the task ended in {self._state}", self._state)
        elif self._state == CANCELLED_STATE:
            self.call.cancel(self._text or "the task was cancelled")
        elif self._method.streams and not self._finished:
            self.call.cancel(f"the stream ended while the task was in {self._state or 'no state'}")
        else:
            self.call.succeed()

    def abandon(self) -> None:
        """End the call: its consumer stopped listening, which after the task's end is the usual way to leave."""
        if self._finished:
            self.conclude()
        else:
            self._describe()
            self.call.cancel("the caller stopped listening")

    def fail(self, error: BaseException) -> None:
        """End the call with the exception that ended it."""
        self._describe()
        try:
            if _timed_out(error):
                self.call.time_out(str(error) or "timed out", "timeout")
            else:
                self.call.fail_with(error, code=error_code(error))
        except Exception:
            logger.debug("an A2A exception could not be read", exc_info=True)
            self.call.fail_with(error)

    @property
    def _finished(self) -> bool:
        return self._answered or self._state in _FINAL

    def _note(self, payload: object) -> None:
        match payload:
            case Task():
                self._identify(payload.id, payload.context_id)
                self._enter(payload.status)
            case TaskStatusUpdateEvent():
                self._identify(payload.task_id, payload.context_id)
                self._enter(payload.status)
            case TaskArtifactUpdateEvent():
                self._identify(payload.task_id, payload.context_id)
            case Message():
                self._answered = True
                self._identify(payload.task_id, payload.context_id)
            case _:
                pass

    def _identify(self, task_id: str, context_id: str) -> None:
        if self.call.recording:
            self.call.set({a2a_draft.A2A_TASK_ID: task_id or None, otel.GEN_AI_CONVERSATION_ID: context_id or None})

    def _enter(self, status: TaskStatus) -> None:
        self._state = TaskState.Name(status.state)
        self._text = "\n".join(part.text for part in status.message.parts if part.text) or None

    def _describe(self) -> None:
        if not self.call.recording:
            return
        try:
            if self._method.streams:
                self._metadata["events"] = self._events
            self.call.set(
                {
                    a2a_draft.A2A_TASK_STATE: self._state,
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
    return name if isinstance(name, str) else None


def _timed_out(error: BaseException) -> bool:
    if isinstance(error, A2AClientTimeoutError):
        return True
    cause = error.__cause__
    return cause is not None and any(kind.__name__ in _TIMEOUT_BASES for kind in type(cause).__mro__)


def _payload(event: object) -> object:
    if not isinstance(event, StreamResponse):
        return event
    name = event.WhichOneof("payload")
    return getattr(event, name) if name else None
