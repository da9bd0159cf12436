"""The one span helper: a call's span on one side, ended exactly once with its true outcome.

Nothing here raises into the application: a failure of telemetry costs the span, never the call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.identity import (
    correlation_of,
    current_actor,
    process_entity,
    with_caller,
)
from elf_automations.model import Status as CallStatus

logger = logging.getLogger(__name__)

_MAX_MESSAGE: Final = 4000


class CallSpan:
    """One call as one side sees it; `context` carries the span and, for a client, who calls.

    Wrappers run the wrapped code `with span.active():` (once, or around each step of a stream) and end it with
    `succeed`, `fail`, `time_out`, `cancel` or `fail_with`. Only the first of these counts.
    """

    def __init__(self, span: Span, context: Context) -> None:
        self.span = span
        self.context = context
        self._ended = False

    @property
    def recording(self) -> bool:
        """Whether attributes set now will be kept."""
        return self.span.is_recording()

    def set(self, attributes: Mapping[str, AttributeValue | None]) -> None:
        """Set the attributes that have a value."""
        if self._ended:
            return
        for name, value in attributes.items():
            if value is not None:
                self.span.set_attribute(name, value)

    @contextmanager
    def active(self) -> Generator[None]:
        """Make the call's context current for the body; the body's exceptions pass untouched."""
        token = otel_context.attach(self.context)
        try:
            yield
        finally:
            otel_context.detach(token)

    def succeed(self) -> None:
        """End the span as a success."""
        self._end("success", None, None, None)

    def fail(self, error_type: str, message: str | None = None, code: str | None = None) -> None:
        """End the span as an error; `error_type` is the low-cardinality `error.type`, `code` the protocol's code."""
        self._end("error", error_type, message, code)

    def time_out(self, message: str | None = None, code: str | None = None) -> None:
        """End the span as timed out."""
        self._end("timeout", "timeout", message, code)

    def cancel(self, message: str | None = None) -> None:
        """End the span as cancelled: the caller or the peer gave up, nobody failed."""
        self._end("cancelled", None, message, None)

    def fail_with(self, error: BaseException, *, code: str | None = None) -> None:
        """End the span by the exception that ended the call: cancelled, timed out, or an error.

        A generator's close and a task's cancellation are cancellations; any `TimeoutError` is a timeout.
        """
        if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
            self.cancel()
        elif isinstance(error, TimeoutError):
            self.time_out(_spoken(error), code)
        else:
            self.fail(type(error).__qualname__, _spoken(error), code)

    def finish(self) -> None:
        """End the span itself; a call that adopted somebody else's span leaves this to its owner."""
        self.span.end()

    def _end(self, status: CallStatus, error_type: str | None, message: str | None, code: str | None) -> None:
        if self._ended:
            return
        try:
            text = message[:_MAX_MESSAGE] if message else None
            self.set(
                {
                    elf.ELF_OUTCOME: status,
                    otel.ERROR_TYPE: error_type,
                    elf.ELF_ERROR_MESSAGE: text if status != "success" else None,
                    elf.ELF_ERROR_CODE: code or (error_type if status != "success" else None),
                }
            )
            if status in {"error", "timeout"}:
                self.span.set_status(Status(StatusCode.ERROR, text))
            self._ended = True
            self.finish()
        except Exception:
            logger.debug("a call's span could not be ended", exc_info=True)


def start_client_span(tracer: Tracer, name: str, attributes: Mapping[str, AttributeValue]) -> CallSpan:
    """Start the CLIENT span of a call made here; its context names the caller for the callee.

    The source is the acting entity of the current context, else the process itself.
    """
    current = otel_context.get_current()
    span = tracer.start_span(name, context=current, kind=SpanKind.CLIENT, attributes=attributes)
    context = trace.set_span_in_context(span, current)
    actor = current_actor(current)
    if actor is not None and span.is_recording():
        span.set_attributes({elf.ELF_SOURCE_ID: actor.id, elf.ELF_SOURCE_TYPE: actor.type})
    correlation_id = correlation_of(current)
    if correlation_id and span.is_recording():
        span.set_attribute(elf.ELF_CORRELATION_ID, correlation_id)
    caller = actor or process_entity(span)
    return CallSpan(span, with_caller(context, caller, span) if caller else context)


def start_server_span(tracer: Tracer, name: str, attributes: Mapping[str, AttributeValue], parent: Context) -> CallSpan:
    """Start the SERVER span of a call received here, as a child of the extracted `parent` context."""
    span = tracer.start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)
    return CallSpan(span, trace.set_span_in_context(span, parent))


def _spoken(error: BaseException) -> str | None:
    """Return the exception's text; an exception whose `__str__` fails is named by its type only."""
    try:
        return str(error) or type(error).__qualname__
    except Exception:
        return type(error).__qualname__
