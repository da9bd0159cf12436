"""Starting the operation of a request that a server has received, in either major of the SDK.

The SERVER span continues the caller's trace and says who called; while the handler runs, the server is the acting
entity and its baggage no longer names the caller, so that what the handler calls is credited to the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind
from opentelemetry.util.types import AttributeValue
from pydantic import BaseModel

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.contexts import BAGGAGE, SPAN, context_with
from elf_automations.instrumentation.identity import ACTOR
from elf_automations.instrumentation.mcp.attributes import request_attributes
from elf_automations.instrumentation.mcp.continuing import earlier_round
from elf_automations.instrumentation.mcp.operation import Instruments, Operation
from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.mcp.peers import client_name, http_peer_attributes
from elf_automations.instrumentation.mcp.propagation import META, Incoming, carries_context, marked_span, received
from elf_automations.instrumentation.mcp.sending import LISTING_UNASKED
from elf_automations.instrumentation.mcp.transports import NOWHERE, Lead
from elf_automations.instrumentation.spans import CallSpan
from elf_automations.model import EntityRef
from elf_automations.model.protocols.mcp import is_chatter

logger = logging.getLogger(__name__)

# Set while the server's transport asks the server for its own tools, to check a request against them.
asking_itself: Final[ContextVar[bool]] = ContextVar("elf_mcp_asking_itself", default=False)


@dataclass(slots=True)
class Received:
    """A request as its receiver's kernel sees it, whichever major of the SDK it is."""

    method: str
    params: object
    meta: Mapping[str, Any] | BaseModel | None
    server: object
    request: Any = None
    request_id: object = None
    client_params: object = None
    protocol_version: str | None = None
    session_id: str | None = None
    ambient: Context | None = None
    lead: Lead = NOWHERE
    # Of a request that a server makes to its client: the names of both.
    asker: str | None = None
    asked: str | None = None


def receiving(
    instruments: Instruments, prepare: Callable[[], None], describe: Callable[..., Received | None]
) -> Callable[..., Operation | None]:
    """Return what starts the operation of a request that `describe` tells; `prepare` runs before each.

    It answers None for chatter, once the instruments are off, and when telemetry itself fails.
    """

    def receive(*request: Any) -> Operation | None:
        try:
            if not instruments.on:
                return None
            prepare()
            message = describe(*request)
            return None if message is None or is_chatter(message.method) else _start(instruments, message)
        except Exception:
            logger.debug("an MCP request could not be traced on its server", exc_info=True)
            return None

    return receive


def notified(instruments: Instruments, meta: Mapping[str, Any] | BaseModel | None, server: object) -> Context | None:
    """Return the context a notification's handler runs in; None for the current one."""
    try:
        if not meta or not instruments.on:
            return None
        incoming = received(meta)
        return _acting(incoming, trace.get_current_span(incoming.context), _server_name(server))
    except Exception:
        logger.debug("the context of an MCP notification could not be read", exc_info=True)
        return None


def _start(instruments: Instruments, message: Received) -> Operation:
    incoming = received(message.meta, getattr(message.request, "headers", None), message.ambient)
    earlier = _earlier(message)
    if earlier is not None:
        incoming = incoming.below(earlier)
    server = _server_name(message.server)
    name, attributes = request_attributes(message.method, message.params)
    if message.request is None:
        attributes.update(message.lead.attributes)
    else:
        attributes.update(http_peer_attributes(message.request))
    if message.request_id is not None:
        attributes[otel.JSONRPC_REQUEST_ID] = str(message.request_id)
    if message.protocol_version is not None:
        attributes[otel.MCP_PROTOCOL_VERSION] = message.protocol_version
    if message.session_id is not None:
        attributes[otel.MCP_SESSION_ID] = message.session_id
    marked = marked_span(message.meta, incoming.parent)
    if marked is not None:
        attributes[elf.ELF_CALLER_SPAN_ID] = marked
    attributes.update(incoming.carried.caller)
    _name_ends(attributes, message, server)
    unasked = message.method == "tools/list" and (asking_itself.get() or incoming.carried.implicit)
    if unasked:
        attributes[elf.ELF_IMPLICIT] = True
    if earlier is not None:
        attributes[elf.ELF_CONTINUES] = True
    span = instruments.tracer.start_span(name, incoming.context, SpanKind.SERVER, attributes, incoming.links)
    acting = _acting(incoming, span, server)
    # A server may run in a task that such a listing started.
    if unasked or LISTING_UNASKED in acting:
        acting = context_with(acting, {LISTING_UNASKED: unasked})
    return Operation(
        CallSpan(span, acting),
        message.method,
        attributes,
        instruments.durations.server_operation,
    )


def _earlier(message: Received) -> SpanContext | None:
    """Return the round that a request goes on with, None where its client says itself what it belongs to."""
    earlier = earlier_round(message.method, message.params)
    return None if earlier is None or carries_context(message.meta) else earlier


def _name_ends(attributes: dict[str, AttributeValue], message: Received, server: str | None) -> None:
    """Add who is asked, and who asks where the caller's baggage does not say it."""
    if elf.ELF_SOURCE_ID not in attributes:
        client = client_name(message.meta, message.client_params)
        caller, kind = (client, "mcp_client") if client is not None else (message.asker, "mcp")
        if caller is not None:
            attributes[elf.ELF_SOURCE_ID] = caller
            attributes[elf.ELF_SOURCE_TYPE] = kind
    if server is not None:
        attributes[elf.ELF_TARGET_ID] = server
    elif message.asked is not None:
        attributes[elf.ELF_TARGET_ID] = message.asked
        attributes[elf.ELF_TARGET_TYPE] = "mcp_client"


def _acting(incoming: Incoming, span: Span, server: str | None) -> Context:
    """Return the context of a handler: `span` is the current one, and the server acts."""
    values: dict[str, object] = {SPAN: span}
    if incoming.carried.kept:
        values[BAGGAGE] = incoming.carried.kept
    if server is not None:
        values[ACTOR] = _entity(server)
    return context_with(incoming.base, values)


@lru_cache(maxsize=256)
def _entity(server: str) -> EntityRef:
    return EntityRef(server, "mcp")


def _server_name(server: object) -> str | None:
    name = getattr(server, "name", None)
    return name if isinstance(name, str) and name else None


def meta_of(params: object) -> Mapping[str, Any]:
    """Return the `_meta` of raw params; empty when there is none."""
    meta = field(params, META)
    return cast("Mapping[str, Any]", meta) if isinstance(meta, dict) else {}
