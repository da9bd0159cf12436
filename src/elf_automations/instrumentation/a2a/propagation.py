"""How a call's context travels: as service parameters, which are HTTP headers and gRPC metadata alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from a2a.client.client import ClientCallContext
from a2a.server.context import ServerCallContext
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from elf_automations.instrumentation.carriers import context_from, headers_for

_BAGGAGE: Final = "baggage"


def carrying(context: ClientCallContext | None, call_context: Context) -> ClientCallContext | None:
    """Return a copy of the caller's `context` whose service parameters carry `call_context`; the original is kept.

    Baggage the caller set by hand is joined with ours. Returns `context` itself when nothing is to be carried.
    """
    given = context.service_parameters if context else None
    parameters = carried(given or {}, call_context)
    if context is None:
        return ClientCallContext(service_parameters=parameters) if parameters else None
    return context if parameters == given else context.model_copy(update={"service_parameters": parameters})


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


def headers_of(context: ServerCallContext) -> Mapping[str, str]:
    """Return the request's HTTP headers or gRPC metadata, names in lower case; empty when it came by neither."""
    state = context.state
    headers: Any = state.get("headers")
    if isinstance(headers, dict) and "host" in headers:  # as the SDK builds them: all in lower case
        return cast("dict[str, str]", headers)
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
    context = context_from(headers, current)
    here = trace.get_current_span(current)
    if getattr(here, "kind", None) is not SpanKind.SERVER:
        return context
    remote = trace.get_current_span(context).get_span_context()
    if here.get_span_context().trace_id != remote.trace_id:
        return context
    return trace.set_span_in_context(here, context)
