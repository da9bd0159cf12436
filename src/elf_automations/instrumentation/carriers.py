"""A context in headers and back: what the global propagator does, the short way where it is OpenTelemetry's default.

The default propagator runs through some forty functions for one call's `traceparent` and `baggage`, a third of what
tracing a call costs. Headers that are plain are read and written here at once; any other propagator, and anything out
of the ordinary (`tracestate`, properties, blanks, other versions, oversize), is left to the propagator itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, cast
from urllib.parse import quote_plus, unquote_plus

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from elf_automations.instrumentation.contexts import BAGGAGE, SPAN, context_with

_TRACEPARENT: Final = "traceparent"
_TRACESTATE: Final = "tracestate"
_BAGGAGE: Final = "baggage"
_DEFAULT: Final = [TraceContextTextMapPropagator, W3CBaggagePropagator]
_PLAIN_PARENT: Final = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_ENTRY: Final = r"[A-Za-z0-9._-]+=[A-Za-z0-9._%-]*"
_PLAIN_BAGGAGE: Final = re.compile(f"{_ENTRY}(?:,{_ENTRY})*")
# Far below where the W3C's limits (8192 bytes, 4096 an entry, 180 entries) begin to matter.
_MAX_BYTES: Final = 2048
_MAX_ENTRIES: Final = 64
_REMEMBERED: Final = 512
_quoted = lru_cache(_REMEMBERED)(quote_plus)
_unquoted = lru_cache(_REMEMBERED)(unquote_plus)
# The propagator last asked, and whether it is the default.
_asked: tuple[TextMapPropagator | None, bool] = (None, False)


def headers_for(context: Context) -> dict[str, str]:
    """Return the headers that carry `context`, names in lower case."""
    short = _written(context) if is_default() else None
    if short is not None:
        return short
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return carrier


def context_from(headers: Mapping[str, str], context: Context) -> Context:
    """Return `context` with the parent that `headers` (names in lower case) carry, and with their baggage alone."""
    short = _read(headers, context) if is_default() else None
    return short if short is not None else propagate.extract(headers, baggage.clear(context))


def with_baggage(context: Context, entries: Mapping[str, object]) -> Context:
    """Return `context` with `entries` as its whole baggage: one copy of it, not one an entry."""
    return context_with(context, {BAGGAGE: dict(entries)})


def remote_parent(headers: Mapping[str, str], context: Context) -> Context:
    """Return `context` with the parent span that `headers` (names in lower case) carry, and nothing else of them."""
    if is_default():
        remote = _plain_parent(headers)
        if remote is not None:
            return context_with(context, {SPAN: NonRecordingSpan(remote)})
    found = {name: headers[name] for name in propagate.get_global_textmap().fields if name in headers}
    found.pop(_BAGGAGE, None)
    return propagate.extract(found, context) if found else context


def is_default() -> bool:
    """Return whether the global propagator is what OpenTelemetry sets without configuration."""
    global _asked  # noqa: PLW0603  (a cache of one)
    current = propagate.get_global_textmap()
    known, default = _asked
    if known is not current:
        # What only tells the caller to who drops baggage has nothing to say where baggage tells it.
        parts = [
            part for part in getattr(current, "_propagators", ()) if not getattr(part, "writes_caller_only", False)
        ]
        default = type(current) is CompositePropagator and [type(part) for part in parts] == _DEFAULT
        _asked = (current, default)
    return default


def _written(context: Context) -> dict[str, str] | None:
    """Return the headers of `context`, None when the propagator has to decide."""
    trace_id, span_id, _, flags, state, _ = made = trace.get_current_span(context).get_span_context()
    if state:
        return None
    headers: dict[str, str] = {}
    if trace_id or made != INVALID_SPAN_CONTEXT:
        headers[_TRACEPARENT] = f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"
    entries = cast("Mapping[str, object] | None", context.get(BAGGAGE))
    if entries:
        text = ",".join([f"{_encoded(name)}={_encoded(value)}" for name, value in entries.items()])
        if len(text) > _MAX_BYTES or len(entries) > _MAX_ENTRIES:
            return None
        headers[_BAGGAGE] = text
    return headers


def _encoded(value: object) -> str:
    text = value if type(value) is str else str(value)
    # An id needs no quoting, and one that is new in each call is not worth remembering.
    return text if text.isascii() and text.isalnum() else _quoted(text)


def _read(headers: Mapping[str, str], context: Context) -> Context | None:
    """Return `context` with what plain `headers` carry, None when the propagator has to read them."""
    entries: dict[str, object] = {}
    said = headers.get(_BAGGAGE)
    if said:
        if len(said) > _MAX_BYTES or said.count(",") >= _MAX_ENTRIES or not _PLAIN_BAGGAGE.fullmatch(said):
            return None
        for entry in said.split(","):
            name, _, value = entry.partition("=")
            entries[name] = _unquoted(value).strip() if "%" in value else value
    values: dict[str, object] = {BAGGAGE: entries}
    if headers.get(_TRACEPARENT):
        remote = _plain_parent(headers)
        if remote is None:
            return None
        values[SPAN] = NonRecordingSpan(remote)
    elif headers.get(_TRACESTATE) is not None:
        return None
    return context_with(context, values)


def _plain_parent(headers: Mapping[str, str]) -> SpanContext | None:
    """Return the parent that a plain `traceparent` names, None when there is none or the propagator has to read it."""
    parent = headers.get(_TRACEPARENT)
    if not isinstance(parent, str) or headers.get(_TRACESTATE) is not None:
        return None
    plain = _PLAIN_PARENT.fullmatch(parent)
    if plain is None:
        return None
    trace_id, span_id, flags = plain.groups()
    made = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return made if made.is_valid else None
