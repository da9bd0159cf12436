"""The server side of A2A: one SERVER span a request, that knows who called, and handlers that act as their team."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from a2a.server.context import ServerCallContext
from a2a.types.a2a_pb2 import AgentCard
from opentelemetry import context as otel_context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import a2a_draft
from elf_automations.instrumentation.a2a.attributes import (
    call_attributes,
    request_attributes,
    server_binding,
    team_attributes,
)
from elf_automations.instrumentation.a2a.client_side import covered
from elf_automations.instrumentation.a2a.driving import observed, observed_once, unobserved
from elf_automations.instrumentation.a2a.methods import SERVER_METHODS, Method
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.a2a.propagation import headers_of, incoming
from elf_automations.instrumentation.identity import caller_attributes, with_actor
from elf_automations.instrumentation.patches import MakeWrapper, PatchPoint
from elf_automations.instrumentation.spans import start_server_span
from elf_automations.model import EntityRef

logger = logging.getLogger(__name__)

# The request being served: a subclass's override that calls `super()` is still the same request.
_SERVING: Final = otel_context.create_key("elf-a2a-request-served")
_HANDLERS: Final = (
    ("a2a.server.request_handlers.default_request_handler_v2", "DefaultRequestHandlerV2"),
    ("a2a.server.request_handlers.default_request_handler", "LegacyRequestHandler"),
)
_VERSION_HEADER: Final = "a2a-version"


def server_patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    """Return the patch points of the SDK's request handlers."""
    return tuple(
        PatchPoint(module, f"{handler}.{name}", _wrapper(tracer, method))
        for module, handler in _HANDLERS
        for name, method in SERVER_METHODS.items()
    )


def _wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    return _stream_wrapper(tracer, method) if method.streams else _unary_wrapper(tracer, method)


def _stream_wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    def make(original: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncGenerator[Any, None]]:
        @functools.wraps(original)
        async def stream(self: Any, params: Any, context: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            seen = _start(tracer, method, self, params, context)
            if seen is None:
                events = unobserved(original(self, params, context, *args, **kwargs))
            else:
                events = observed(seen, lambda: original(self, params, context, *args, **kwargs))
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
        async def unary(self: Any, params: Any, context: Any, *args: Any, **kwargs: Any) -> Any:
            seen = _start(tracer, method, self, params, context)
            if seen is None:
                return await original(self, params, context, *args, **kwargs)
            return await observed_once(seen, lambda: original(self, params, context, *args, **kwargs))

        return unary

    return make


def _start(tracer: Tracer, method: Method, handler: Any, params: Any, context: Any) -> Observation | None:
    """Start the span of a request; None when it has one, when tracing is suppressed, or when telemetry fails."""
    try:
        served = otel_context.get_value(_SERVING)
        if (served is not None and served is context) or not is_instrumentation_enabled():
            return None
        headers: Mapping[str, str] = headers_of(context) if isinstance(context, ServerCallContext) else {}
        parent = incoming(headers)
        attributes = call_attributes(method, "server")
        call = start_server_span(tracer, method.name, attributes, parent)
        card: Any = getattr(handler, "_agent_card", None)
        team = card.name if isinstance(card, AgentCard) else ""
        if call.recording:
            said: dict[str, AttributeValue | None] = {
                **(team_attributes(card) if isinstance(card, AgentCard) else {}),
                **request_attributes(params),
                a2a_draft.A2A_PROTOCOL_VERSION: headers.get(_VERSION_HEADER),
                **caller_attributes(parent),
            }
            call.set(said)
        inside = covered(otel_context.set_value(_SERVING, context, call.context), by_caller=False)
        call.context = with_actor(inside, EntityRef(team, "team")) if team else inside
        facts = {"binding": server_binding(context.state)} if headers else {}
        return Observation(call, method, metadata=facts)
    except Exception:
        logger.debug("an A2A request could not be traced", exc_info=True)
        return None
