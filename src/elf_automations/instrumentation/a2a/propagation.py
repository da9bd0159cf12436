"""How a call's context travels: as service parameters, which are HTTP headers and gRPC metadata alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

from a2a.client.client import ClientCallContext
from a2a.server.context import ServerCallContext
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from elf_automations.instrumentation.carriers import context_from, headers_for
from elf_automations.instrumentation.contexts import enter

# The gRPC context of the request that is about to be served.
GRPC_CONTEXT: Final = otel_context.create_key("elf-a2a-grpc-context")
_BAGGAGE: Final = "baggage"
_TRACEPARENT: Final = "traceparent"


def carrying(context: ClientCallContext | None, call_context: Context) -> ClientCallContext | None:
    """Return a copy of the caller's `context` whose service parameters carry `call_context`; the original is kept.

    Baggage the caller set by hand is joined with ours. Returns `context` itself when nothing is to be carried.
    """
    given = context.service_parameters if context else None
    parameters = carried(given or {}, call_context)
    if context is None:
        return ClientCallContext(service_parameters=parameters) if parameters else None
    return context if parameters == given else context.model_copy(update={"service_parameters": parameters})


def still_carrying(context: ClientCallContext | None, call_context: Context) -> ClientCallContext | None:
    """Return a call's `context` as its transport was given it, carrying `call_context` again if that was lost.

    An interceptor may have put a context of its own in the place of the one that carried it.
    """
    given = (context.service_parameters if context else None) or {}
    if _TRACEPARENT in given:
        return context
    said = {name.lower() for name in given}
    lost = any(name.lower() not in said for name in headers_for(call_context))
    return carrying(context, call_context) if lost else context


def carried(given: Mapping[str, str], call_context: Context) -> dict[str, str]:
    """Return a copy of the headers `given` that carries `call_context`."""
    carrier = headers_for(call_context)
    if not given:
        return carrier
    parameters = dict(given)
    for name in [name for name in parameters if name.lower() in carrier]:
        set_by_hand = parameters.pop(name)
        if name.lower() == _BAGGAGE:
            carrier[_BAGGAGE] = f"{set_by_hand},{carrier[_BAGGAGE]}"
    return parameters | carrier


def remembering_grpc(original: Callable[..., ServerCallContext]) -> Callable[..., ServerCallContext]:
    """Return the SDK's making of a request's context so that the gRPC context it is made from is kept for the request.

    An application's own builder may leave it out. Each gRPC request is a task of its own, so nothing is put back.
    """

    @functools.wraps(original)
    def build(self: Any, context: Any, *args: Any, **kwargs: Any) -> ServerCallContext:
        enter(otel_context.set_value(GRPC_CONTEXT, context))
        return original(self, context, *args, **kwargs)

    return build


def grpc_context_of(context: ServerCallContext) -> Any:
    """Return the gRPC context of a request, None for one that came by something else."""
    kept = context.state.get("grpc_context")
    return kept if kept is not None else otel_context.get_value(GRPC_CONTEXT)


def headers_of(context: ServerCallContext) -> Mapping[str, str]:
    """Return the request's HTTP headers or gRPC metadata, names in lower case; empty when it came by neither."""
    headers: Any = context.state.get("headers")
    if isinstance(headers, dict) and "host" in headers:  # as the SDK builds them: all in lower case
        return cast("dict[str, str]", headers)
    if (grpc_context := grpc_context_of(context)) is not None:
        pairs = cast("Iterable[tuple[object, object]]", grpc_context.invocation_metadata() or ())
    elif isinstance(headers, Mapping):
        pairs = cast("Mapping[object, object]", headers).items()
    else:
        return {}
    return {str(name).lower(): value for name, value in pairs if isinstance(value, str)}


def incoming(headers: Mapping[str, str]) -> Context:
    """Return the context a request handler runs in: the caller's baggage, and the right parent span.

    The parent is the span of the HTTP or gRPC server instrumentation when there is one, else the caller's span.
    Any other current span is left over from where the server was started and belongs to no request.
    """
    current = otel_context.get_current()
    if not headers:
        return current
    context = context_from(headers, current)
    here = trace.get_current_span(current)
    kind = getattr(here, "kind", None)
    if kind is not SpanKind.SERVER:
        # A span that is not recorded tells no kind: it may well be the server instrumentation's.
        left_over = kind is not None and trace.get_current_span(context) is here
        return trace.set_span_in_context(trace.INVALID_SPAN, context) if left_over else context
    remote = trace.get_current_span(context).get_span_context()
    if here.get_span_context().trace_id != remote.trace_id:
        return context
    return trace.set_span_in_context(here, context)
