"""Push notifications that an application sends its own way: one CLIENT span for each event its sender delivers.

The SDK hands every event to the sender, also of tasks that nobody asked to be told of. So the span is made when the
sender is done: not where it read that there is no receiver, nor where it left the event to the SDK's own sender, whose
deliveries have their spans. The context of an event's task is what such a sender sends along.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

from a2a.server.tasks import BasePushNotificationSender, PushNotificationConfigStore, PushNotificationSender
from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import NoOpTracer, Span, Tracer

from elf_automations.conventions import elf
from elf_automations.instrumentation.a2a.attributes import call_attributes
from elf_automations.instrumentation.a2a.cards import address_attributes
from elf_automations.instrumentation.a2a.methods import PUSH
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.a2a.own_classes import own_class_points
from elf_automations.instrumentation.contexts import context_with
from elf_automations.instrumentation.patches import MakeWrapper, Point
from elf_automations.instrumentation.spans import attached, start_client_span

logger = logging.getLogger(__name__)

_SENDING: Final = otel_context.create_key("elf-a2a-push-sending")
_READS: Final = ("get_info_for_dispatch", "get_info")


def own_sender_points(
    tracer: Tracer, dispatching: MakeWrapper, wrap: Callable[[Sequence[Point]], None]
) -> tuple[Point, ...]:
    """Return the points of the application's own senders and of the stores of receivers, now and from here on.

    `dispatching` wraps a sender's delivery to one receiver.
    """
    sending = {"send_notification": _sending(tracer), "_dispatch_notification": dispatching}
    reading: dict[str, MakeWrapper] = dict.fromkeys(_READS, _reading)
    return (
        *own_class_points(PushNotificationSender, {BasePushNotificationSender}, sending, wrap),
        *own_class_points(PushNotificationConfigStore, (), reading, wrap),
    )


def has_span() -> None:
    """Take note that a delivery to one receiver has its own span."""
    sending = otel_context.get_value(_SENDING)
    if isinstance(sending, _Sending):
        sending.has_spans = True


class _Sending:
    """One event in the hands of a sender: `receivers` is what it read of them, None while it read nothing."""

    __slots__ = ("_began_ns", "_event", "_sender", "_task_id", "has_spans", "receivers")

    def __init__(self, sender: object, task_id: str, event: Any) -> None:
        self._sender = sender
        self._began_ns = time.time_ns()
        self._task_id = task_id
        self._event = event
        self.has_spans = False
        self.receivers: list[Any] | None = None

    def is_of(self, event: Any) -> bool:
        """Return whether it is this very event, which a sender then left to another one."""
        return event is self._event

    def end(self, tracer: Tracer, error: BaseException | None) -> None:
        """Make the span of the delivery, if there was one."""
        # One of the SDK's kind that read nothing yet may have left it to the SDK in a task of its own.
        later = self.receivers is None and isinstance(self._sender, BasePushNotificationSender)
        if self.has_spans or later or self.receivers == []:
            return
        try:
            call = start_client_span(_Begun(tracer, self._began_ns), PUSH.name, call_attributes(PUSH, "client"))
            call.set({elf.ELF_PAYLOAD_SIZE: self._event.ByteSize()})
            if self.receivers and len(self.receivers) == 1:
                call.set(address_attributes(self.receivers[0].url))
            seen = Observation(call, PUSH)
            seen.identify(self._task_id, self._event)
            if error is None:
                seen.conclude()
            else:
                seen.fail(error)
        except Exception:
            logger.debug("a push notification could not be traced", exc_info=True)


class _Begun(NoOpTracer):
    """A tracer whose spans began at a time that is over."""

    def __init__(self, tracer: Tracer, began_ns: int) -> None:
        self._tracer = tracer
        self._began_ns = began_ns

    def start_span(self, *args: Any, **kwargs: Any) -> Span:
        """Start a span of the tracer, as of then."""
        return self._tracer.start_span(*args, **{**kwargs, "start_time": self._began_ns})


def _sending(tracer: Tracer) -> MakeWrapper:
    def make(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        @functools.wraps(original)
        async def send(self: Any, *args: Any, **kwargs: Any) -> None:
            sending = _begin(self, *args, **kwargs)
            if sending is None:
                return await original(self, *args, **kwargs)
            try:
                with attached(context_with(otel_context.get_current(), {_SENDING: sending})):
                    done = await original(self, *args, **kwargs)
            except BaseException as error:
                sending.end(tracer, error)
                raise
            sending.end(tracer, None)
            return done

        return send

    return make


def _begin(sender: object, /, task_id: Any = None, event: Any = None, *_: Any, **__: Any) -> _Sending | None:
    """Return the event to watch; None where another sender has it already or tracing is suppressed."""
    above = otel_context.get_value(_SENDING)
    if not is_instrumentation_enabled() or (isinstance(above, _Sending) and above.is_of(event)):
        return None
    return _Sending(sender, task_id, event)


def _reading(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the function that reads a task's receivers so that the sender's event knows them."""

    @functools.wraps(original)
    async def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        sending = otel_context.get_value(_SENDING)
        if not isinstance(sending, _Sending):
            return await original(self, *args, **kwargs)
        sending.receivers = []  # as it stays where they cannot be read
        found = await original(self, *args, **kwargs)
        sending.receivers = cast("list[Any]", found) if isinstance(found, list) else None
        return cast("Any", found)

    return read
