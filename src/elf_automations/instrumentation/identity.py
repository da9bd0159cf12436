"""Who acts: the entity on whose behalf the current code runs, and how it travels to the callee.

The acting entity lives in the OpenTelemetry context; it crosses process borders as W3C baggage
(`elf.entity.id`, `elf.entity.type`, `elf.caller.span_id`, `elf.correlation.id`). A server side replaces it by its
own entity while the handler runs, so that what the handler calls is not credited to its caller.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, format_span_id

from elf_automations.conventions import elf
from elf_automations.model import EntityRef, identify

_ACTOR: Final = otel_context.create_key("elf-acting-entity")
_process_entity: EntityRef | None = None


@contextmanager
def acting_as(entity_id: str, entity_type: str = "team", *, correlation_id: str | None = None) -> Generator[None]:
    """Run the body as the entity `entity_id`: calls made in it name it as their source.

    `entity_type` is team, workflow, service or mcp_client; `correlation_id`, when given, becomes the
    correlation id of every call in the body, on both sides.
    """
    context = with_actor(otel_context.get_current(), EntityRef(entity_id, entity_type))
    if correlation_id:
        context = baggage.set_baggage(elf.ELF_CORRELATION_ID, correlation_id, context)
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)


def with_actor(context: Context, actor: EntityRef) -> Context:
    """Return `context` with `actor` as the entity that acts in it."""
    return otel_context.set_value(_ACTOR, actor, context)


def current_actor(context: Context | None = None) -> EntityRef | None:
    """Return the entity that acts in `context` (default: the current one), None when only the process is known."""
    actor = otel_context.get_value(_ACTOR, context)
    return actor if isinstance(actor, EntityRef) else None


def set_process_entity(entity: EntityRef | None) -> None:
    """Name the entity this process is, for providers whose resource does not say it; None forgets it."""
    global _process_entity  # noqa: PLW0603  (one process, one entity)
    _process_entity = entity


def process_entity(span: Span) -> EntityRef | None:
    """Return the entity of this process: as set, else from the resource of an SDK span, else None."""
    if _process_entity is not None:
        return _process_entity
    resource = getattr(span, "resource", None)
    return identify(resource.attributes) if resource is not None else None


def with_caller(context: Context, caller: EntityRef, span: Span) -> Context:
    """Return `context` whose baggage tells the callee who calls, and by which span.

    The span id goes along because an HTTP instrumentation in between makes its own span the callee's parent.
    """
    context = baggage.set_baggage(elf.ELF_ENTITY_ID, caller.id, context)
    made = span.get_span_context()
    if made.is_valid:
        context = baggage.set_baggage(elf.ELF_CALLER_SPAN_ID, format_span_id(made.span_id), context)
    return baggage.set_baggage(elf.ELF_ENTITY_TYPE, caller.type, context)


def caller_attributes(context: Context) -> dict[str, str]:
    """Return what the baggage of an incoming `context` says of the caller, as attributes of the SERVER span."""
    said = {
        elf.ELF_SOURCE_ID: _carried(elf.ELF_ENTITY_ID, context),
        elf.ELF_SOURCE_TYPE: _carried(elf.ELF_ENTITY_TYPE, context),
        elf.ELF_CALLER_SPAN_ID: _carried(elf.ELF_CALLER_SPAN_ID, context),
        elf.ELF_CORRELATION_ID: _carried(elf.ELF_CORRELATION_ID, context),
    }
    return {name: value for name, value in said.items() if value}


def correlation_of(context: Context | None = None) -> str | None:
    """Return the correlation id in the baggage of `context` (default: the current one)."""
    return _carried(elf.ELF_CORRELATION_ID, context)


def _carried(name: str, context: Context | None) -> str | None:
    value = baggage.get_baggage(name, context)
    return value if isinstance(value, str) and value else None
