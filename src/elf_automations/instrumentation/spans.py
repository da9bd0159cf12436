"""The one span helper: a call's span on one side, ended exactly once with its true outcome.

Nothing here raises into the application: a failure of telemetry costs the span, never the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from contextvars import Token
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.contexts import BAGGAGE, SPAN, context_with, enter, leave
from elf_automations.instrumentation.identity import (
    caller_entries,
    correlation_of,
    current_actor,
    process_entity,
    with_caller,
)
from elf_automations.model import EntityRef
from elf_automations.model import Status as CallStatus

logger = logging.getLogger(__name__)

_MAX_MESSAGE: Final = 4000


class attached(AbstractContextManager[None]):  # noqa: N801  (read as a verb: `with attached(context):`)
    """Make `context` the current one for the body; the body's exceptions pass untouched."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token: Token[Context] = enter(self._context)

    def __exit__(self, *_: object) -> None:
        leave(self._token)


class CallSpan:
    """One call as one side sees it; `context` carries the span and, for a client, who calls.

    Wrappers run the wrapped code `with span.active():` (once, or around each step of a stream) and end it with
    `succeed`, `fail`, `time_out`, `cancel` or `fail_with`. Only the first of these counts.
    """

    __slots__ = ("_ended", "_last", "context", "span")

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self.context = context
        self._ended = False
        self._last: dict[str, AttributeValue] = {}

    @property
    def recording(self) -> bool:
        """Whether attributes set now will be kept."""
        return self.span.is_recording()

    def set(self, attributes: Mapping[str, AttributeValue | None]) -> None:
        """Set the attributes that have a value."""
        if self._ended:
            return
        self.span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def at_end(self, attributes: Mapping[str, AttributeValue | None]) -> None:
        """Keep the attributes that have a value, to be set together with the call's outcome: cheaper than each."""
        self._last.update([item for item in attributes.items() if item[1] is not None])

    def active(self) -> AbstractContextManager[None]:
        """Make the call's context current for the body; the body's exceptions pass untouched."""
        return attached(self.context)

    def succeed(self) -> None:
        """End the span as a success."""
        self.conclude("success", None, None, None)

    def fail(self, error_type: str, message: str | None = None, code: str | None = None) -> None:
        """End the span as an error; `error_type` is the low-cardinality `error.type`, `code` the protocol's code."""
        self.conclude("error", error_type, message, code)

    def time_out(self, message: str | None = None, code: str | None = None) -> None:
        """End the span as timed out."""
        self.conclude("timeout", "timeout", message, code)

    def cancel(self, message: str | None = None) -> None:
        """End the span as cancelled: the caller or the peer gave up, nobody failed."""
        self.conclude("cancelled", None, message, None)

    def fail_with(self, error: BaseException, *, code: str | None = None, message: str | None = None) -> None:
        """End the span by the exception that ended the call: cancelled, timed out, or an error.

        A generator's close and a task's cancellation are cancellations; any `TimeoutError` is a timeout. `message` is
        for an exception whose own text does not say what went wrong.
        """
        if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
            self.cancel()
        elif isinstance(error, TimeoutError):
            self.time_out(message or spoken(error), code)
        else:
            self.fail(type(error).__qualname__, message or spoken(error), code)

    def finish(self) -> None:
        """End the span itself; a call that adopted somebody else's span leaves this to its owner."""
        self.span.end()

    def conclude(self, status: CallStatus, error_type: str | None, message: str | None, code: str | None) -> None:
        """End the span with an outcome that is already told apart; `code` defaults to `error_type`."""
        if self._ended:
            return
        try:
            said = self._last
            said[elf.ELF_OUTCOME] = status
            text = message[:_MAX_MESSAGE] if message else None
            if error_type:
                said[otel.ERROR_TYPE] = error_type
            if status != "success":
                if text:
                    said[elf.ELF_ERROR_MESSAGE] = text
                if code or error_type:
                    said[elf.ELF_ERROR_CODE] = code or error_type or ""
            self.span.set_attributes(said)
            if status in {"error", "timeout"}:
                self.span.set_status(Status(StatusCode.ERROR, text))
            self._ended = True
            self.finish()
        except Exception:
            logger.debug("a call's span could not be ended", exc_info=True)


def start_client_span(
    tracer: Tracer, name: str, attributes: Mapping[str, AttributeValue], *, marked: bool = True
) -> CallSpan:
    """Start the CLIENT span of a call made here; its context names the caller for the callee.

    The source is the acting entity of the current context, else the process itself. With `marked` the span's own id
    travels in the baggage as well.
    """
    current = otel_context.get_current()
    actor = current_actor(current)
    acting = _acting_attributes(current, actor)
    span = tracer.start_span(name, current, SpanKind.CLIENT, {**attributes, **acting} if acting else attributes)
    values: dict[str, object] = {SPAN: span}
    caller = actor or process_entity(span)
    if caller is not None:
        values[BAGGAGE] = caller_entries(current, caller, span if marked else None)
    return CallSpan(span, context_with(current, values))


def start_server_span(tracer: Tracer, name: str, attributes: Mapping[str, AttributeValue], parent: Context) -> CallSpan:
    """Start the SERVER span of a call received here, as a child of the extracted `parent` context."""
    span = tracer.start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)
    return CallSpan(span, trace.set_span_in_context(span, parent))


class AdoptedSpan(CallSpan):
    """A call whose span somebody else opened and will end: we only state what we know and how it ended."""

    __slots__ = ()

    def finish(self) -> None:
        """Leave the end to the span's owner."""


def adopt_client_span(span: Span, attributes: Mapping[str, AttributeValue]) -> CallSpan:
    """Return the call of a CLIENT span that another instrumentation has open; its context names the caller."""
    current = otel_context.get_current()
    actor = current_actor(current)
    span.set_attributes({**attributes, **_acting_attributes(current, actor)})
    caller = actor or process_entity(span)
    return AdoptedSpan(span, with_caller(current, caller) if caller else current)


def _acting_attributes(context: Context, actor: EntityRef | None) -> dict[str, AttributeValue]:
    said: dict[str, AttributeValue] = {}
    if actor is not None:
        said[elf.ELF_SOURCE_ID] = actor.id
        said[elf.ELF_SOURCE_TYPE] = actor.type
    correlation_id = correlation_of(context) if BAGGAGE in context else None
    if correlation_id:
        said[elf.ELF_CORRELATION_ID] = correlation_id
    return said


def spoken(error: BaseException) -> str | None:
    """Return the exception's text; an exception whose `__str__` fails is named by its type only."""
    try:
        return str(error) or type(error).__qualname__
    except Exception:
        return type(error).__qualname__
