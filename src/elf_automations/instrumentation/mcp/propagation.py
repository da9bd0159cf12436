"""Trace context and baggage in `_meta` (SEP-414), in both directions, for requests and notifications.

The parent of a request is what its `_meta` says, else the ambient span (an HTTP server's), else the HTTP headers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeGuard, cast

from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    format_span_id,
    get_current_span,
    set_span_in_context,
)
from pydantic import BaseModel

from elf_automations.conventions import elf
from elf_automations.instrumentation.carriers import headers_for, remote_parent
from elf_automations.instrumentation.contexts import BAGGAGE, context_with
from elf_automations.instrumentation.identity import callees_entries, caller_in

logger = logging.getLogger(__name__)

META: Final = "_meta"
_BAGGAGE: Final = "baggage"
# The W3C's limit for baggage, the longest of them; servers refuse requests for headers not much longer.
_MAX_HEADER: Final = 8192


@dataclass(frozen=True, slots=True)
class Carried:
    """Baggage as it arrived: whom it names as the caller, whether the call is the SDK's own, and the callee's part."""

    caller: Mapping[str, str]
    implicit: bool
    kept: Mapping[str, object]


@dataclass(slots=True)
class Incoming:
    """What a received message carries: the context of its parent, the parent, its baggage, and a link.

    `base` is the ambient context without the baggage of whoever started the server; the ambient span is a link where
    it is not the parent.
    """

    context: Context
    base: Context
    parent: SpanContext
    carried: Carried
    links: tuple[Link, ...] = ()

    def below(self, parent: SpanContext) -> Incoming:
        """Return the same with another parent; the one it had is a link."""
        context = set_span_in_context(NonRecordingSpan(parent), self.context)
        links = (Link(self.parent), *self.links) if self.parent.is_valid else self.links
        return Incoming(context, self.base, parent, self.carried, links)


def received(
    meta: Mapping[str, Any] | BaseModel | None,
    headers: Mapping[str, str] | None = None,
    ambient: Context | None = None,
) -> Incoming:
    """Return the context of a received message with this `_meta`; `ambient` is where it arrived (default: current)."""
    current = otel_context.get_current() if ambient is None else ambient
    around = get_current_span(current).get_span_context()
    ambient_baggage = baggage.get_all(current) if current.get(BAGGAGE) else None
    base = context_with(current, {BAGGAGE: {}}) if ambient_baggage else current
    carrier = _carrier(meta)
    context, carried = _extracted(carrier, base)
    parent = get_current_span(context).get_span_context()
    if not parent.is_valid and headers is not None:
        context, carried = _extracted(headers, base)
        parent = get_current_span(context).get_span_context()
    if carried is None:
        # Who calls is what the message says; where it says nothing, the request around it may.
        carried = _sorted_out(ambient_baggage) if ambient_baggage else NOTHING
    links = (Link(around),) if around.is_valid and around.span_id != parent.span_id else ()
    return Incoming(context, base, parent, carried, links)


def with_context(params: Mapping[str, Any] | None, span: Span | None = None) -> Mapping[str, Any] | None:
    """Return message params whose `_meta` carries the current context; `params` themselves when there is none."""
    said = params or {}
    try:
        meta: dict[str, Any] = {**(said.get(META) or {})}
        put_context(meta, otel_context.get_current(), span)
    except Exception:
        logger.debug("the trace context could not be put on an MCP message", exc_info=True)
        return params
    return {**said, META: meta} if meta else params


def put_context(meta: dict[str, Any], context: Context, span: Span | None) -> None:
    """Put the context of a call in the `_meta` of its request, and the name of its `span` where one is given."""
    meta |= headers_for(context)
    if span is not None:
        meta |= _mark(span)
    elif elf.ELF_CALLER_SPAN_ID in meta:
        del meta[elf.ELF_CALLER_SPAN_ID]  # passed on by a server: it names the span of the call before this one


def _mark(span: Span) -> dict[str, Any]:
    """Return the entry that names a call's span: a gateway in between makes its own span the server's parent."""
    made = span.get_span_context()
    return {elf.ELF_CALLER_SPAN_ID: format_span_id(made.span_id)} if made.is_valid else {}


def message_context(meta: Mapping[str, Any]) -> Context:
    """Return the current context with all that a message carries, as its sender had it."""
    current = otel_context.get_current()
    try:
        return propagate.extract(meta, current)
    except Exception:
        logger.debug("an MCP message carries a malformed trace context", exc_info=True)
        return current


def context_headers(meta: object) -> dict[str, str]:
    """Return the part of `_meta` that is trace context and baggage, as HTTP headers where it is fit for one."""
    said = _carrier(meta)
    return {name: value for name in propagate.get_global_textmap().fields if _fits_header(value := said.get(name))}


def _fits_header(value: object) -> TypeGuard[str]:
    # An application's `_meta` may hold anything, and an HTTP client refuses the whole request for one odd value.
    if not isinstance(value, str) or len(value) > _MAX_HEADER:
        return False
    return value.isascii() and value.isprintable() and value == value.strip()


def marked_span(meta: Mapping[str, Any] | BaseModel | None, parent: SpanContext) -> str | None:
    """Return the id of the caller's span that a request's `_meta` names, None where that is the parent anyway."""
    said = _carrier(meta).get(elf.ELF_CALLER_SPAN_ID)
    return said if isinstance(said, str) and said and said != format_span_id(parent.span_id) else None


def _carrier(meta: object) -> Mapping[str, Any]:
    if type(meta) is dict:
        return cast("dict[str, Any]", meta)
    if meta is None or isinstance(meta, BaseModel):
        return (meta.model_extra or {}) if meta is not None else {}
    return cast("Mapping[str, Any]", meta) if isinstance(meta, Mapping) else {}


def carries_context(meta: Mapping[str, Any] | BaseModel | None) -> bool:
    """Return whether a message's `_meta` itself says what the message belongs to."""
    fields, _ = _fields(propagate.get_global_textmap())
    return not fields.isdisjoint(_carrier(meta))


def _extracted(carrier: Mapping[str, Any], context: Context) -> tuple[Context, Carried | None]:
    """Return `context` with the parent that `carrier` names, and its baggage; None when it carries no context."""
    if not carrier:
        return context, None
    try:
        fields, has_baggage = _fields(propagate.get_global_textmap())
        said = carrier.get(_BAGGAGE) if has_baggage else None
        if said is None and fields.isdisjoint(carrier):
            return context, None
        return remote_parent(carrier, context), _read(said) if isinstance(said, str) else NOTHING
    except Exception:
        logger.debug("an MCP message carries a malformed trace context", exc_info=True)
        return context, None


@lru_cache(maxsize=8)
def _fields(propagator: TextMapPropagator) -> tuple[frozenset[str], bool]:
    """Return what a propagator reads besides baggage, and whether it reads baggage."""
    names = frozenset(propagator.fields)
    return names - {_BAGGAGE}, _BAGGAGE in names


@lru_cache(maxsize=1024)
def _read(text: str) -> Carried:
    """Return what a baggage text says; a caller's is the same in each of its calls."""
    return _sorted_out(baggage.get_all(propagate.extract({_BAGGAGE: text}, Context())))


def _sorted_out(entries: Mapping[str, object]) -> Carried:
    return Carried(caller_in(entries), elf.ELF_IMPLICIT in entries, callees_entries(entries))


NOTHING: Final = Carried({}, implicit=False, kept={})
