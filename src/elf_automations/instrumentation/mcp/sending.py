"""Starting the operation of a request that a session is about to send, in either major of the SDK."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf
from elf_automations.instrumentation.mcp.attributes import IMPLICIT_BAGGAGE, request_attributes
from elf_automations.instrumentation.mcp.operation import Instruments, Operation, start_client
from elf_automations.model.protocols.mcp import is_chatter

logger = logging.getLogger(__name__)

# The key that `opentelemetry.instrumentation.utils.suppress_instrumentation` sets.
_SUPPRESSED: Final = "suppress_instrumentation"

# Set while the SDK lists tools on its own account, to check a result against the tool's schema.
listing_for_itself: Final[ContextVar[bool]] = ContextVar("elf_mcp_listing_for_itself", default=False)
# The same in the context of a server that answers such a listing, which may have to ask others.
LISTING_UNASKED: Final = otel_context.create_key("elf-mcp-listing-unasked")


def sent(
    instruments: Instruments,
    request: Any,
    peer: Callable[[], Mapping[str, AttributeValue]],
    extra: Mapping[str, AttributeValue] | None = None,
) -> Operation | None:
    """Start the operation of a typed request; None for chatter, when off or suppressed, and when telemetry fails."""
    try:
        method = getattr(request, "method", None)
        if not isinstance(method, str) or is_chatter(method):
            return None
        if not instruments.on or otel_context.get_value(_SUPPRESSED):
            return None
        name, attributes = request_attributes(method, getattr(request, "params", None))
        attributes.update(peer())
        if extra is not None:
            attributes.update(extra)
        implicit = method == "tools/list" and (
            listing_for_itself.get() or bool(otel_context.get_value(LISTING_UNASKED))
        )
        if implicit:
            attributes[elf.ELF_IMPLICIT] = True
        operation = start_client(instruments, name, method, attributes)
        if implicit:
            operation.call.context = baggage.set_baggage(IMPLICIT_BAGGAGE, "true", operation.call.context)
    except Exception:
        logger.debug("an MCP request could not be traced", exc_info=True)
        return None
    return operation
