"""The server side of A2A: one SERVER span a request, that knows who called, and handlers that act as their team."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Final

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types.a2a_pb2 import AgentCard
from a2a.utils.errors import TaskNotFoundError
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import is_instrumentation_enabled  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer, format_span_id, get_current_span
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import a2a_draft, elf
from elf_automations.instrumentation.a2a.attributes import call_attributes, request_attributes, server_binding
from elf_automations.instrumentation.a2a.cards import own_attributes
from elf_automations.instrumentation.a2a.client_side import covered
from elf_automations.instrumentation.a2a.driving import observing_stream, observing_unary
from elf_automations.instrumentation.a2a.methods import SERVER_METHODS, Method
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.a2a.own_classes import own_class_points
from elf_automations.instrumentation.a2a.peers import peer_of, remembering_peer
from elf_automations.instrumentation.a2a.propagation import GRPC_CONTEXT, headers_of, incoming, remembering_grpc
from elf_automations.instrumentation.contexts import BAGGAGE, context_with
from elf_automations.instrumentation.identity import ACTOR, callees_entries, caller_attributes
from elf_automations.instrumentation.patches import MakeWrapper, PatchPoint, Point
from elf_automations.instrumentation.spans import CallSpan, start_server_span
from elf_automations.model import EntityRef, Status

logger = logging.getLogger(__name__)

VERSION_HEADER: Final = "a2a-version"
# The request being served: it stays the same one when a handler leaves it to `super()` or to another handler.
_SERVING: Final = otel_context.create_key("elf-a2a-request-served")
_HANDLERS: Final = (
    ("a2a.server.request_handlers.default_request_handler_v2", "DefaultRequestHandlerV2"),
    ("a2a.server.request_handlers.default_request_handler", "LegacyRequestHandler"),
)
_CAME_WITH: Final = ("headers", "grpc_context")
_GRPC_CONTEXTS: Final = (
    ("a2a.server.request_handlers.grpc_handler", "GrpcHandler._build_call_context"),
    ("a2a.compat.v0_3.context_builders", "V03GrpcServerCallContextBuilder.build"),
)
_FINDING: Final = frozenset({"GetTask", "CancelTask"})


@dataclass(slots=True)
class _Served:
    """A request that has its span, as its handler was given it; `team` is whose it is, as far as a handler said."""

    call: CallSpan
    params: Any
    context: Any
    team: EntityRef | None

    def is_again(self, params: Any, context: Any) -> bool:
        """Return whether a handler was given this very request again, be it with a context made from its own."""
        if context is self.context or params is self.params:
            return True
        if not isinstance(context, ServerCallContext) or not isinstance(self.context, ServerCallContext):
            return False
        state, own = context.state, self.context.state
        return state is own or any(name in own and state.get(name) is own[name] for name in _CAME_WITH)


class _Layer(CallSpan):
    """A request within the handler that its span is of: only its context is its own."""

    __slots__ = ()

    def conclude(self, status: Status, error_type: str | None, message: str | None, code: str | None) -> None:
        """Leave the outcome to the handler that answers."""


class _Finding(Observation):
    """A request for one task: a handler that answers None has none, and the SDK then says so."""

    __slots__ = ("_found",)

    def see(self, event: Any) -> None:
        """Take note of the answer."""
        self._found = event is not None
        super().see(event)

    def conclude(self) -> None:
        """End the call: it returned."""
        if self._found:
            super().conclude()
        else:
            self.fail(TaskNotFoundError())


def server_patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    """Return the patch points of the SDK's request handlers, and of what makes their contexts."""
    points = [
        PatchPoint(module, f"{handler}.{name}", handler_wrapper(tracer, method))
        for module, handler in _HANDLERS
        for name, method in SERVER_METHODS.items()
    ]
    points.append(PatchPoint("a2a.server.routes.common", "DefaultServerCallContextBuilder.build", remembering_peer))
    if importlib.util.find_spec("grpc") is not None:
        points.extend(PatchPoint(module, path, remembering_grpc) for module, path in _GRPC_CONTEXTS)
    return tuple(points)


def own_handler_points(tracer: Tracer, wrap: Callable[[Sequence[Point]], None]) -> tuple[Point, ...]:
    """Return the points of the application's own request handlers; `wrap` takes those of classes made from here on."""
    known = {getattr(import_module(module), handler) for module, handler in _HANDLERS}
    wrappers = {name: handler_wrapper(tracer, method) for name, method in SERVER_METHODS.items()}
    return own_class_points(RequestHandler, known, wrappers, wrap)


def handler_wrapper(tracer: Tracer, method: Method) -> MakeWrapper:
    """Return what wraps a request handler's method so that each request is one SERVER span."""

    def begin(handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Observation | None:
        try:
            params = args[0] if args else kwargs.get("params")
            context = args[1] if len(args) > 1 else kwargs.get("context")
            return _start(tracer, method, handler, params, context)
        except Exception:
            logger.debug("an A2A request could not be traced", exc_info=True)
            return None

    def make(original: Any) -> Any:
        return observing_stream(original, begin) if method.streams else observing_unary(original, begin)

    return make


def start_request(
    tracer: Tracer,
    method: Method,
    handler: object,
    headers: Mapping[str, str],
    said: Mapping[str, AttributeValue],
) -> CallSpan:
    """Start the SERVER span of a request to `handler` (None: unknown), as a child of what its headers carry."""
    parent = incoming(headers)
    card = _card_of(handler)
    attributes: dict[str, AttributeValue] = call_attributes(method, "server")
    if card is not None:
        attributes |= own_attributes(handler, card)
    attributes.update(said)
    attributes.update(caller_attributes(parent))
    if attributes.get(elf.ELF_CALLER_SPAN_ID) == format_span_id(get_current_span(parent).get_span_context().span_id):
        del attributes[elf.ELF_CALLER_SPAN_ID]  # the parent, as it is without an HTTP span in between
    version = headers.get(VERSION_HEADER)
    if version:
        attributes[a2a_draft.A2A_PROTOCOL_VERSION] = version
    return start_server_span(tracer, method.name, attributes, parent)


def _start(tracer: Tracer, method: Method, handler: Any, params: Any, context: Any) -> Observation | None:
    """Start the span of a request; None when it has one or when tracing is suppressed."""
    if not is_instrumentation_enabled():
        return None
    served = otel_context.get_value(_SERVING)
    if isinstance(served, _Served) and served.is_again(params, context):
        return None if served.team else _delegated(served, method, handler)
    headers: Mapping[str, str] = headers_of(context) if isinstance(context, ServerCallContext) else {}
    said = request_attributes(params)
    if headers:
        said[elf.ELF_A2A_BINDING] = server_binding(context)
        said.update(peer_of(context))
    call = start_request(tracer, method, handler, headers, said)
    card = _card_of(handler)
    request = _Served(call, params, context, _team(card))
    kept = callees_entries(baggage.get_all(call.context))
    call.context = _acting(covered(call.context, by_caller=False), request, {GRPC_CONTEXT: None, BAGGAGE: kept})
    return _Finding(call, method) if method.name in _FINDING else Observation(call, method)


def _delegated(served: _Served, method: Method, handler: Any) -> Observation | None:
    """Let the handler that a request was handed on to name its team, where the first one did not know it."""
    card = _card_of(handler)
    request = replace(served, team=_team(card))
    if card is None or request.team is None:
        return None
    served.call.set(own_attributes(handler, card))
    return Observation(_Layer(served.call.span, _acting(otel_context.get_current(), request)), method)


def _acting(context: Context, request: _Served, values: Mapping[str, object] | None = None) -> Context:
    """Return `context` with `values` for a handler: it serves `request`, and its team acts instead of the caller."""
    actor = {ACTOR: request.team} if request.team else {}
    return context_with(context, {_SERVING: request, **actor, **(values or {})})


def _card_of(handler: object) -> AgentCard | None:
    card = getattr(handler, "_agent_card", None)
    return card if isinstance(card, AgentCard) else None


def _team(card: AgentCard | None) -> EntityRef | None:
    return EntityRef(card.name, "team") if card is not None and card.name else None
