"""How a call's context travels: as service parameters, which are HTTP headers and gRPC metadata alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from a2a.client.client import ClientCallContext
from a2a.server.context import ServerCallContext
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

_BAGGAGE: Final = "baggage"


def carrying(context: ClientCallContext | None, call_context: Context) -> ClientCallContext | None:
    """Return a copy of the caller's `context` whose service parameters carry `call_context`; the original is kept.

    Baggage the caller set by hand is joined with ours. Returns `context` itself when nothing is to be carried.
    """
    carrier: dict[str, str] = {}
    propagate.inject(carrier, call_context)
    if not carrier:
        return context
    parameters: dict[str, str] = dict((context.service_parameters if context else None) or {})
    for name in [name for name in parameters if name.lower() in carrier]:
        set_by_hand = parameters.pop(name)
        if name.lower() == _BAGGAGE:
            carrier[_BAGGAGE] = f"{set_by_hand},{carrier[_BAGGAGE]}"
    parameters |= carrier
    if context is None:
        return ClientCallContext(service_parameters=parameters)
    return context.model_copy(update={"service_parameters": parameters})


def headers_of(context: ServerCallContext) -> Mapping[str, str]:
    """Return the request's HTTP headers or gRPC metadata, names in lower case; empty when it came by neither."""
    state = context.state
    headers: Any = state.get("headers")
    if isinstance(headers, Mapping):
        pairs = cast("Mapping[object, object]", headers).items()
    elif (grpc_context := state.get("grpc_context")) is not None:
        pairs = cast("Iterable[tuple[object, object]]", grpc_context.invocation_metadata() or ())
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
    sent = propagate.extract(headers, Context())
    context = baggage.clear(current)
    for name, value in baggage.get_all(sent).items():
        context = baggage.set_baggage(name, value, context)
    caller = trace.get_current_span(sent)
    remote = caller.get_span_context()
    here = trace.get_current_span(current)
    if not remote.is_valid:
        return context
    receives = getattr(here, "kind", None) is SpanKind.SERVER
    if receives and here.get_span_context().trace_id == remote.trace_id:
        return context
    return trace.set_span_in_context(caller, context)
