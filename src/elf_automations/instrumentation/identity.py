"""Who acts: the entity on whose behalf the current code runs, and how it travels to the callee.

The acting entity lives in the OpenTelemetry context; it crosses process borders as W3C baggage
(`elf.entity.id`, `elf.entity.type`, `elf.caller.span_id`, `elf.correlation.id`). A server side replaces it by its
own entity while the handler runs, so that what the handler calls is not credited to its caller.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, format_span_id

from elf_automations.conventions import elf
from elf_automations.instrumentation.contexts import BAGGAGE, context_with, enter, leave
from elf_automations.model import EntityRef, identify

# The key of the acting entity in a context.
ACTOR: Final = otel_context.create_key("elf-acting-entity")
_CALLER_ENTRIES: Final = frozenset({elf.ELF_ENTITY_ID, elf.ELF_ENTITY_TYPE, elf.ELF_CALLER_SPAN_ID, elf.ELF_IMPLICIT})
# What a caller is that does not say: every entry of the baggage costs both ends of every call.
_PLAIN_TYPE: Final = "service"
# Attributes of a SERVER span, and the entry of the caller's baggage that says each.
_CALLER_SAYS: Final = (
    (elf.ELF_SOURCE_ID, elf.ELF_ENTITY_ID),
    (elf.ELF_SOURCE_TYPE, elf.ELF_ENTITY_TYPE),
    (elf.ELF_CALLER_SPAN_ID, elf.ELF_CALLER_SPAN_ID),
    (elf.ELF_CORRELATION_ID, elf.ELF_CORRELATION_ID),
)
_process_entity: EntityRef | None = None
# The resource last asked for and who it is: a process has one, and it never changes.
_identified: tuple[object, EntityRef] | None = None


@contextmanager
def acting_as(entity_id: str, entity_type: str = "team", *, correlation_id: str | None = None) -> Generator[None]:
    """Run the body as the entity `entity_id`: calls made in it name it as their source.

    `entity_type` is team, workflow, service or mcp_client; `correlation_id`, when given, becomes the
    correlation id of every call in the body, on both sides.
    """
    context = with_actor(otel_context.get_current(), EntityRef(entity_id, entity_type))
    if correlation_id:
        context = baggage.set_baggage(elf.ELF_CORRELATION_ID, correlation_id, context)
    token = enter(context)
    try:
        yield
    finally:
        leave(token)


def with_actor(context: Context, actor: EntityRef) -> Context:
    """Return `context` with `actor` as the entity that acts in it."""
    return context_with(context, {ACTOR: actor})


def current_actor(context: Context | None = None) -> EntityRef | None:
    """Return the entity that acts in `context` (default: the current one), None when only the process is known."""
    actor = otel_context.get_value(ACTOR, context)
    return actor if isinstance(actor, EntityRef) else None


def set_process_entity(entity: EntityRef | None) -> None:
    """Name the entity this process is, for providers whose resource does not say it; None forgets it."""
    global _process_entity  # noqa: PLW0603  (one process, one entity)
    _process_entity = entity


def process_entity(span: Span) -> EntityRef | None:
    """Return the entity of this process: as set, else from the resource of an SDK span, else None."""
    global _identified  # noqa: PLW0603  (a cache of one)
    if _process_entity is not None:
        return _process_entity
    resource = getattr(span, "resource", None)
    if resource is None:
        return None
    known = _identified
    if known is None or known[0] is not resource:
        known = _identified = (resource, identify(resource.attributes))
    return known[1]


def with_caller(context: Context, caller: EntityRef, span: Span | None = None) -> Context:
    """Return `context` whose baggage tells the callee who calls, and by which span.

    The span id goes along because an HTTP instrumentation in between makes its own span the callee's parent; a
    protocol that has a better place for it gives no span.
    """
    return context_with(context, {BAGGAGE: caller_entries(context, caller, span)})


def caller_entries(context: Context, caller: EntityRef, span: Span | None = None) -> dict[str, object]:
    """Return the baggage of `with_caller`, which nobody may change: calls of one caller share it."""
    carried = context.get(BAGGAGE)
    if not carried and span is None:
        return _plain_entries(caller)
    entries = dict(baggage.get_all(context))
    said_type = elf.ELF_ENTITY_TYPE in entries
    entries[elf.ELF_ENTITY_ID] = caller.id
    made = span.get_span_context() if span is not None else None
    if made is not None and made.is_valid:
        entries[elf.ELF_CALLER_SPAN_ID] = format_span_id(made.span_id)
    else:
        entries.pop(elf.ELF_CALLER_SPAN_ID, None)
    if said_type or caller.type != _PLAIN_TYPE:
        entries[elf.ELF_ENTITY_TYPE] = caller.type
    return entries


@lru_cache(maxsize=256)
def _plain_entries(caller: EntityRef) -> dict[str, object]:
    entries: dict[str, object] = {elf.ELF_ENTITY_ID: caller.id}
    if caller.type != _PLAIN_TYPE:
        entries[elf.ELF_ENTITY_TYPE] = caller.type
    return entries


def callees_entries(carried: Mapping[str, object]) -> dict[str, object]:
    """Return the entries of baggage that stay when the callee acts: what it does is its own, not its caller's."""
    return {name: value for name, value in carried.items() if name not in _CALLER_ENTRIES}


def caller_attributes(context: Context) -> dict[str, str]:
    """Return what the baggage of an incoming `context` says of the caller, as attributes of the SERVER span."""
    return caller_in(baggage.get_all(context))


def caller_in(carried: Mapping[str, object]) -> dict[str, str]:
    """Return what baggage says of the caller, as attributes of the SERVER span."""
    if not carried:
        return {}
    said = {name: value for name, entry in _CALLER_SAYS if isinstance(value := carried.get(entry), str) and value}
    if elf.ELF_SOURCE_ID in said and elf.ELF_SOURCE_TYPE not in said:
        said[elf.ELF_SOURCE_TYPE] = _PLAIN_TYPE
    return said


def correlation_of(context: Context | None = None) -> str | None:
    """Return the correlation id in the baggage of `context` (default: the current one)."""
    value = baggage.get_baggage(elf.ELF_CORRELATION_ID, context)
    return value if isinstance(value, str) and value else None
