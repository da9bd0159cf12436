"""The server side of A2A: one SERVER span a request, that knows who called, and handlers that act as their team."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from inspect import isfunction
from typing import Any, Final

from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.request_handler import RequestHandler
from a2a.types.a2a_pb2 import AgentCard
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
from elf_automations.instrumentation.a2a.propagation import GRPC_CONTEXT, headers_of, incoming, remembering_grpc
from elf_automations.instrumentation.contexts import BAGGAGE, context_with
from elf_automations.instrumentation.identity import ACTOR, callees_entries, caller_attributes
from elf_automations.instrumentation.patches import ClassPoint, MakeWrapper, PatchPoint, Point
from elf_automations.instrumentation.spans import CallSpan, start_server_span
from elf_automations.model import EntityRef

logger = logging.getLogger(__name__)

VERSION_HEADER: Final = "a2a-version"
# The request being served: a subclass's override that calls `super()` is still the same request.
_SERVING: Final = otel_context.create_key("elf-a2a-request-served")
_HANDLERS: Final = (
    ("a2a.server.request_handlers.default_request_handler_v2", "DefaultRequestHandlerV2"),
    ("a2a.server.request_handlers.default_request_handler", "LegacyRequestHandler"),
)
_GRPC_CONTEXTS: Final = (
    ("a2a.server.request_handlers.grpc_handler", "GrpcHandler._build_call_context"),
    ("a2a.compat.v0_3.context_builders", "V03GrpcServerCallContextBuilder.build"),
)


def server_patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    """Return the patch points of the SDK's request handlers, and of what makes their contexts for gRPC."""
    handlers = [
        PatchPoint(module, f"{handler}.{name}", handler_wrapper(tracer, method))
        for module, handler in _HANDLERS
        for name, method in SERVER_METHODS.items()
    ]
    if importlib.util.find_spec("grpc") is None:
        return tuple(handlers)
    return (*handlers, *(PatchPoint(module, path, remembering_grpc) for module, path in _GRPC_CONTEXTS))


def own_handler_points(tracer: Tracer, wrap: Callable[[Sequence[Point]], None]) -> tuple[Point, ...]:
    """Return the points of the application's own request handlers; `wrap` takes those of classes made from here on."""

    def make(_original: Any) -> Any:
        def init_subclass(cls: type[RequestHandler], **kwargs: Any) -> None:
            super(RequestHandler, cls).__init_subclass__(**kwargs)  # pyright: ignore[reportUnknownMemberType]
            wrap(tuple(_methods_of(tracer, cls)))

        return classmethod(init_subclass)

    known = {getattr(import_module(module), handler) for module, handler in _HANDLERS}
    found = (point for cls in _below(RequestHandler) if cls not in known for point in _methods_of(tracer, cls))
    return (*found, PatchPoint(RequestHandler.__module__, "RequestHandler.__init_subclass__", make))


def _below(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)


def _methods_of(tracer: Tracer, handler: type) -> Iterator[ClassPoint]:
    for name, own in vars(handler).items():
        if name in SERVER_METHODS and isfunction(own) and not getattr(own, "__isabstractmethod__", False):
            yield ClassPoint(handler, name, handler_wrapper(tracer, SERVER_METHODS[name]))


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
    card: Any = getattr(handler, "_agent_card", None)
    attributes: dict[str, AttributeValue] = call_attributes(method, "server")
    if isinstance(card, AgentCard):
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
    served = otel_context.get_value(_SERVING)
    if (served is not None and served is context) or not is_instrumentation_enabled():
        return None
    headers: Mapping[str, str] = headers_of(context) if isinstance(context, ServerCallContext) else {}
    said = request_attributes(params)
    if headers:
        said[elf.ELF_A2A_BINDING] = server_binding(context)
    call = start_request(tracer, method, handler, headers, said)
    call.context = _acting(call.context, handler, context)
    return Observation(call, method)


def _acting(served: Context, handler: Any, request: Any) -> Context:
    """Return the context of a handler: it serves `request`, and its team acts instead of the caller."""
    values: dict[str, object] = {
        _SERVING: request,
        GRPC_CONTEXT: None,
        BAGGAGE: callees_entries(baggage.get_all(served)),
    }
    card: Any = getattr(handler, "_agent_card", None)
    if isinstance(card, AgentCard) and card.name:
        values[ACTOR] = EntityRef(card.name, "team")
    return context_with(covered(served, by_caller=False), values)
