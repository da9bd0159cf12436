"""Who calls, told in the W3C `tracestate`: n8n keeps and forwards it, and drops baggage.

Zero-code: `OTEL_PROPAGATORS=tracecontext,baggage,elf`. The member is `elf=<type>:<id>` (`model/caller_state.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import MutableMapping
from typing import Final, TypeVar

from opentelemetry import baggage, propagate, trace
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from elf_automations.conventions import elf
from elf_automations.instrumentation.identity import caller_in, current_actor, process_entity
from elf_automations.model import EntityRef
from elf_automations.model.caller_state import with_caller_member
from elf_automations.model.entity import UNKNOWN_SERVICE

__all__ = ["CallerPropagator", "inject_context", "join_propagator"]

logger = logging.getLogger(__name__)

_TRACESTATE: Final = "tracestate"
_TRACEPARENT: Final = "traceparent"
_Headers = TypeVar("_Headers", bound=MutableMapping[str, str])
_joining: Final = threading.Lock()


class CallerPropagator(TextMapPropagator):
    """Writes the caller into `tracestate` beside what is there; reads nothing.

    Comes after `tracecontext`, which writes the trace state that came in. The caller is the acting entity, else the
    process, else whom the baggage names. Without a span or a caller it writes nothing; it never raises.
    """

    writes_caller_only: Final = True

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        """Return `context`, or the current one, as it is: the member is read from spans, by the rows' mapping."""
        del carrier, getter
        return otel_context.get_current() if context is None else context

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Set `tracestate` in `carrier` to the span's own with the caller as first member."""
        try:
            current = otel_context.get_current() if context is None else context
            span = trace.get_current_span(current)
            made = span.get_span_context()
            caller = _caller(current, span) if made.is_valid else None
            if caller is not None:
                said = with_caller_member(made.trace_state.to_header(), caller)
                if said:
                    setter.set(carrier, _TRACESTATE, said)
        except Exception:
            logger.debug("the caller could not be told in tracestate", exc_info=True)

    @property
    def fields(self) -> set[str]:
        """The header that `inject` sets."""
        return {_TRACESTATE}


def join_propagator() -> None:
    """Add a `CallerPropagator` to the global propagator, once, unless that carries no W3C trace context."""
    with _joining:
        current = propagate.get_global_textmap()
        parts = getattr(current, "_propagators", ()) if type(current) is CompositePropagator else (current,)
        if _TRACEPARENT in current.fields and not any(isinstance(part, CallerPropagator) for part in parts):
            propagate.set_global_textmap(CompositePropagator([*parts, CallerPropagator()]))


def inject_context(headers: _Headers) -> _Headers:
    """Add to the headers of an outgoing request what makes it part of this trace and names its caller.

    For an HTTP client that nothing instruments, such as one that calls an n8n webhook:
    `httpx.post(url, headers=inject_context({}))`. Where no span is current, one without duration begins the trace.

    Returns `headers`, with `traceparent`, `tracestate` and, where there is any, `baggage`. Never raises.
    """
    try:
        context = otel_context.get_current()
        if not trace.get_current_span(context).get_span_context().is_valid:
            begun = trace.get_tracer(__name__).start_span("outgoing request", context, kind=SpanKind.CLIENT)
            begun.end()
            context = trace.set_span_in_context(begun, context)
        propagate.inject(headers, context)
        if _TRACEPARENT not in headers:
            TraceContextTextMapPropagator().inject(headers, context)
        CallerPropagator().inject(headers, context)
    except Exception:
        logger.debug("headers go without the trace", exc_info=True)
    return headers


def _caller(context: Context, span: Span) -> EntityRef | None:
    known = current_actor(context) or process_entity(span)
    if known is not None and not known.id.startswith(UNKNOWN_SERVICE):
        return known
    said = caller_in(baggage.get_all(context))
    return EntityRef(said[elf.ELF_SOURCE_ID], said[elf.ELF_SOURCE_TYPE]) if elf.ELF_SOURCE_ID in said else None
