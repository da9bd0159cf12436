"""The client side of A2A: one CLIENT span a call, above the transports, so that one hook serves all bindings."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Final

from a2a.client.client import ClientCallContext
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer

from elf_automations.instrumentation.a2a.attributes import (
    binding_of,
    call_attributes,
    card_of,
    endpoint_attributes,
    request_attributes,
    streams,
    team_attributes,
)
from elf_automations.instrumentation.a2a.driving import observed, observed_once, unobserved
from elf_automations.instrumentation.a2a.methods import CLIENT_METHODS, SEND, SEND_STREAMING, Method
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.a2a.propagation import carrying
from elf_automations.instrumentation.patches import MakeWrapper, PatchPoint
from elf_automations.instrumentation.spans import CallSpan, start_client_span

logger = logging.getLogger(__name__)

# Set while a caller's own span covers the SDK call, which then needs no second one.
_COVERED: Final = otel_context.create_key("elf-a2a-call-covered")


def client_patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    """Return the patch points of `BaseClient`."""
    return tuple(
        PatchPoint("a2a.client.base_client", f"BaseClient.{name}", _wrapper(tracer, method))
        for name, method in CLIENT_METHODS.items()
    )


def covered(context: Context, *, by_caller: bool = True) -> Context:
    """Return `context` in which SDK calls belong to a span that is already open, or no longer do."""
    return otel_context.set_value(_COVERED, by_caller, context)


def describe(call: CallSpan, client: Any, request: Any) -> None:
    """Put what the client's Agent Card and the request say on the span; never raises."""
    if not call.recording:
        return
    try:
        call.set({**team_attributes(card_of(client)), **endpoint_attributes(client), **request_attributes(request)})
    except Exception:
        logger.debug("an A2A call could not be described", exc_info=True)


def client_facts(client: Any, request: Any) -> dict[str, Any]:
    """Return what a row's metadata keeps of a client call: binding, and modes that differ from the usual."""
    try:
        facts: dict[str, Any] = {"binding": binding_of(client)}
        configuration = getattr(request, "configuration", None)
        if configuration is not None and configuration.return_immediately:
            facts["return_immediately"] = True
    except Exception:
        logger.debug("an A2A client could not be read", exc_info=True)
        return {}
    return facts


def send_method(client: Any) -> Method:
    """Return the wire method a client's `send_message` uses."""
    return SEND_STREAMING if streams(client) else SEND


def carry(context: ClientCallContext | None, call: CallSpan) -> ClientCallContext | None:
    """Return the SDK's call context with the call's trace context in it; never raises."""
    try:
        return carrying(context, call.context)
    except Exception:
        logger.debug("an A2A call could not carry its trace context", exc_info=True)
        return context


def _wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    return _stream_wrapper(tracer, method) if method.streams else _unary_wrapper(tracer, method)


def _stream_wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    def make(original: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncGenerator[Any, None]]:
        @functools.wraps(original)
        async def stream(
            self: Any, request: Any, *args: Any, context: Any = None, **kwargs: Any
        ) -> AsyncGenerator[Any, None]:
            seen = _start(tracer, method, self, request)
            if seen is None:
                events = unobserved(original(self, request, *args, context=context, **kwargs))
            else:
                sent = carry(context, seen.call)
                events = observed(seen, lambda: original(self, request, *args, context=sent, **kwargs))
            try:
                async for event in events:
                    yield event
            finally:
                await events.aclose()

        return stream

    return make


def _unary_wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def unary(self: Any, request: Any, *args: Any, context: Any = None, **kwargs: Any) -> Any:
            seen = _start(tracer, method, self, request)
            if seen is None:
                return await original(self, request, *args, context=context, **kwargs)
            sent = carry(context, seen.call)
            return await observed_once(seen, lambda: original(self, request, *args, context=sent, **kwargs))

        return unary

    return make


def _start(tracer: Tracer, method: Method, client: Any, request: Any) -> Observation | None:
    """Start the span of a call; None when it has one, when tracing is suppressed, or when telemetry fails."""
    try:
        if otel_context.get_value(_COVERED) or not is_instrumentation_enabled():
            return None
        if method is SEND_STREAMING:
            method = send_method(client)
        call = start_client_span(tracer, method.name, call_attributes(method, "client"))
        describe(call, client, request)
        return Observation(call, method, metadata=client_facts(client, request))
    except Exception:
        logger.debug("an A2A call could not be traced", exc_info=True)
        return None
