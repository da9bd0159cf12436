"""Push notifications: one CLIENT span a delivery, whose context travels with it.

The SDK sends them with a client of its own and only logs a failure; the answer's status tells the outcome.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from a2a.server.agent_execution import RequestContext
from a2a.server.tasks import BasePushNotificationSender
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer

from elf_automations.conventions import elf
from elf_automations.instrumentation.a2a.attributes import call_attributes
from elf_automations.instrumentation.a2a.cards import address_attributes
from elf_automations.instrumentation.a2a.methods import PUSH
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.a2a.propagation import carried
from elf_automations.instrumentation.a2a.push_senders import has_span, own_sender_points
from elf_automations.instrumentation.contexts import context_with, enter
from elf_automations.instrumentation.patches import MakeWrapper, PatchPoint, Point
from elf_automations.instrumentation.spans import start_client_span

logger = logging.getLogger(__name__)

_HTTP_ERROR: Final = 400
_DELIVERY: Final = otel_context.create_key("elf-a2a-push-delivery")
_ACTIVE_TASK: Final = "a2a.server.agent_execution.active_task"
# The context each message came in, as long as the SDK works on it.
_asked: WeakKeyDictionary[object, Context] = WeakKeyDictionary()


def push_patch_points(tracer: Tracer, wrap: Callable[[Sequence[Point]], None]) -> tuple[Point, ...]:
    """Return the points of push notification senders, and of what tells them whose events they send.

    `wrap` takes those of senders that are made from here on.
    """
    return (
        *own_sender_points(tracer, _dispatching(tracer, by_sdk=False), wrap),
        PatchPoint(
            BasePushNotificationSender.__module__,
            "BasePushNotificationSender._dispatch_notification",
            _dispatching(tracer, by_sdk=True),
        ),
        PatchPoint(_ACTIVE_TASK, "ActiveTask.enqueue_request", _asking),
        PatchPoint(_ACTIVE_TASK, "EventConsumer._process_event_inner", _following),
    )


def _dispatching(tracer: Tracer, *, by_sdk: bool) -> MakeWrapper:
    """Return what wraps a delivery to one receiver; `by_sdk` the SDK's, which tells what the receiver answers."""

    def make(original: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
        @functools.wraps(original)
        async def dispatch(self: Any, event: Any, push_info: Any, task_id: str) -> bool:
            above = otel_context.get_value(_DELIVERY)
            if isinstance(above, _Delivery) and above.is_of(event, push_info):
                # The application's own delivery came down to another one's.
                return await original(_Sender(self, above) if by_sdk else self, event, push_info, task_id)
            delivery = _start(tracer, event, push_info, task_id)
            if delivery is None:
                return await original(self, event, push_info, task_id)
            try:
                with delivery.seen.call.active():
                    sent = await original(_Sender(self, delivery) if by_sdk else self, event, push_info, task_id)
            except BaseException as error:
                delivery.seen.fail(error)
                raise
            delivery.end(sent=sent)
            return sent

        return dispatch

    return make


def _asking(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the function that takes a message for a task so that the message's context is remembered."""

    @functools.wraps(original)
    def enqueue(self: Any, request_context: RequestContext, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        try:
            _asked[request_context] = otel_context.get_current()
        except TypeError:  # a request context of one's own that cannot be hashed or referred to weakly
            logger.debug("a message's context could not be remembered", exc_info=True)
        return original(self, request_context, *args, **kwargs)

    return enqueue


def _following(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return the function that takes a task's events in so that it does it in the context of the message they are of.

    The SDK runs it in a task of its own, made for the first message, and tells it when the next one's events begin.
    """

    @functools.wraps(original)
    def process(self: Any, event: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        _follow(getattr(event, "request_context", None))
        return original(self, event, *args, **kwargs)

    return process


def _follow(begun: object) -> None:
    try:
        context = _asked.get(begun) if begun is not None else None
    except TypeError:
        return
    if context is not None:
        enter(context)


class _Delivery:
    """One delivery under observation: what its HTTP client answered decides how it ended."""

    def __init__(self, seen: Observation, event: Any, push_info: Any) -> None:
        self.seen = seen
        self._event = event
        self._push_info = push_info
        self.error: BaseException | None = None
        self.status: int | None = None

    def is_of(self, event: Any, push_info: Any) -> bool:
        """Return whether a sender hands this very event on, or sends another one to this very receiver."""
        return event is self._event or push_info is self._push_info

    def end(self, *, sent: bool) -> None:
        """End the span; the sender returns False for a delivery that failed and tells nobody why."""
        if self.error is not None:
            self.seen.fail(self.error)
        elif self.status is not None and self.status >= _HTTP_ERROR:
            self._fail("HTTPStatusError", f"the receiver answered {self.status}", str(self.status))
        elif sent:
            self.seen.conclude()
        else:
            self._fail("rejected", "the notification was not sent: its URL was not accepted", None)

    def _fail(self, error_type: str, message: str, code: str | None) -> None:
        self.seen.describe()
        self.seen.call.fail(error_type, message, code)


class _Sender:
    """The sender as one delivery sees it: with a client that carries the delivery's context."""

    def __init__(self, sender: Any, delivery: _Delivery) -> None:
        self._sender = sender
        self._client = _Client(sender._client, delivery)  # noqa: SLF001

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sender, name)


class _Client:
    """The sender's HTTP client: same calls, same answers, with our headers."""

    def __init__(self, client: Any, delivery: _Delivery) -> None:
        self._client = client
        self._delivery = delivery

    async def post(self, *args: Any, headers: Mapping[str, str] | None = None, **kwargs: Any) -> Any:
        delivery = self._delivery
        try:
            response = await self._client.post(
                *args, headers=carried(headers or {}, delivery.seen.call.context), **kwargs
            )
        except BaseException as error:
            delivery.error = error
            raise
        delivery.status = response.status_code
        return response

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _start(tracer: Tracer, event: Any, push_info: Any, task_id: str) -> _Delivery | None:
    try:
        if not is_instrumentation_enabled():
            return None
        call = start_client_span(tracer, PUSH.name, call_attributes(PUSH, "client"))
        call.set({**address_attributes(push_info.url), elf.ELF_PAYLOAD_SIZE: event.ByteSize()})
        seen = Observation(call, PUSH)
        seen.identify(task_id, event)
        delivery = _Delivery(seen, event, push_info)
        call.context = context_with(call.context, {_DELIVERY: delivery})
        has_span()
    except Exception:
        logger.debug("a push notification could not be traced", exc_info=True)
        return None
    return delivery
