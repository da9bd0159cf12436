"""The client side of A2A: one CLIENT span a call, above the transports, so that one hook serves all bindings.

A transport used without a client is observed itself.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Final

from a2a.client.client import ClientCallContext
from a2a.types.a2a_pb2 import AgentCard
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer
from opentelemetry.util.types import AttributeValue

from elf_automations.instrumentation.a2a.attributes import call_attributes, request_attributes
from elf_automations.instrumentation.a2a.cards import card_of, streams, target_attributes, transport_of
from elf_automations.instrumentation.a2a.driving import Begin, observing_stream, observing_unary
from elf_automations.instrumentation.a2a.methods import CLIENT_METHODS, SEND, SEND_STREAMING, TRANSPORT_METHODS, Method
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.a2a.propagation import carrying, still_carrying
from elf_automations.instrumentation.patches import MakeWrapper, PatchPoint
from elf_automations.instrumentation.spans import CallSpan, start_client_span

logger = logging.getLogger(__name__)

# Which SDK calls a span already covers: True all of them (a caller's own span), else those of this transport.
_COVERED: Final = otel_context.create_key("elf-a2a-call-covered")
_TRANSPORTS: Final = (
    ("a2a.client.transports.jsonrpc", "JsonRpcTransport", "httpx"),
    ("a2a.client.transports.rest", "RestTransport", "httpx"),
    ("a2a.client.transports.grpc", "GrpcTransport", "grpc"),
)


def client_patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    """Return the patch points of `BaseClient` and of the transports whose libraries are installed."""
    clients = [
        PatchPoint("a2a.client.base_client", f"BaseClient.{name}", _client_wrapper(tracer, method))
        for name, method in CLIENT_METHODS.items()
    ]
    transports = [
        PatchPoint(module, f"{transport}.{name}", _transport_wrapper(tracer, method))
        for module, transport, library in _TRANSPORTS
        if importlib.util.find_spec(library) is not None
        for name, method in TRANSPORT_METHODS.items()
    ]
    return (*clients, *transports)


def covered(context: Context, *, by_caller: bool = True) -> Context:
    """Return `context` in which SDK calls belong to a span that is already open, or no longer do."""
    return otel_context.set_value(_COVERED, by_caller, context)


def describe(call: CallSpan, client: Any, request: Any, known: Mapping[str, AttributeValue | None]) -> None:
    """Put what the client's Agent Card, its transport and the request say on the span; never raises.

    What is `known` better takes the place of what they say; None leaves that out.
    """
    if call.recording:
        call.set({**_described(transport_of(client), card_of(client), request), **known})


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


def _still_carrying(context: ClientCallContext | None) -> ClientCallContext | None:
    try:
        return still_carrying(context, otel_context.get_current())
    except Exception:
        logger.debug("an A2A call could not carry its trace context", exc_info=True)
        return context


def _described(transport: object, card: AgentCard | None, request: Any) -> Mapping[str, AttributeValue]:
    try:
        return {**target_attributes(transport, card), **request_attributes(request)}
    except Exception:
        logger.debug("an A2A call could not be described", exc_info=True)
        return {}


def _client_wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    def begin(client: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observation | None:
        if otel_context.get_value(_COVERED) is True:
            return None
        try:
            used = send_method(client) if method is SEND_STREAMING else method
            return _start(tracer, used, transport_of(client), card_of(client), args, kwargs)
        except Exception:
            logger.debug("an A2A call could not be traced", exc_info=True)
            return None

    return _wrapper(method, begin)


def _transport_wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    def begin(transport: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observation | None:
        if _is_covered(transport):
            return None
        try:
            card = getattr(transport, "agent_card", None)
            return _start(tracer, method, transport, card, args, kwargs)
        except Exception:
            logger.debug("an A2A call could not be traced", exc_info=True)
            return None

    def make(original: Any) -> Any:
        observing = _wrapper(method, begin)(original)

        @functools.wraps(original)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not _is_covered(self):
                return observing(self, *args, **kwargs)
            # Below a client, the usual place, what it makes is not wrapped a second time.
            kwargs["context"] = _still_carrying(kwargs.get("context"))
            return original(self, *args, **kwargs)

        return call

    return make


def _wrapper(method: Method, begin: Begin) -> MakeWrapper:
    def make(original: Any) -> Any:
        return observing_stream(original, begin) if method.streams else observing_unary(original, begin)

    return make


def _is_covered(transport: object) -> bool:
    covering = otel_context.get_value(_COVERED)
    return covering is True or covering is transport


def _start(
    tracer: Tracer,
    method: Method,
    transport: object,
    card: AgentCard | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Observation | None:
    """Start the span of a call and put its context among the call's keywords; None when tracing is suppressed."""
    if not is_instrumentation_enabled():
        return None
    said = _described(transport, card, args[0] if args else kwargs.get("request"))
    call = start_client_span(tracer, method.name, {**call_attributes(method, "client"), **said})
    kwargs["context"] = carry(kwargs.get("context"), call)
    call.context = otel_context.set_value(_COVERED, transport, call.context)
    return Observation(call, method)
