"""The server side of MCP: the SDK's own SERVER span, made to tell caller, target and true outcome.

The SDK (2.x) opens a SERVER span for each inbound message in its OpenTelemetry middleware and continues the
caller's trace; no second span is opened here. While the handler runs, the server is the acting entity.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import get_current_span

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.identity import caller_attributes, correlation_of, with_actor
from elf_automations.instrumentation.mcp.attributes import IMPLICIT_BAGGAGE, request_attributes
from elf_automations.instrumentation.mcp.outcome import end_with_error, end_with_result
from elf_automations.instrumentation.mcp.peers import client_name
from elf_automations.instrumentation.spans import CallSpan
from elf_automations.model import EntityRef
from elf_automations.model.protocols.mcp import is_chatter

logger = logging.getLogger(__name__)

_serving: ContextVar[str | None] = ContextVar("elf_mcp_serving", default=None)


def wrap_compose_middleware(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `ServerRunner._compose_server_middleware`: the chain it returns knows which server it serves."""

    @functools.wraps(original)
    def compose(self: Any, inner: Any) -> Any:
        chain = original(self, inner)
        name = getattr(self.server, "name", None)

        async def named(context: Any) -> Any:
            token = _serving.set(name if isinstance(name, str) else None)
            try:
                return await chain(context)
            finally:
                _serving.reset(token)

        return named

    return compose


def wrap_middleware(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `OpenTelemetryMiddleware.__call__`: inside its span, say who calls whom and how it ended."""

    @functools.wraps(original)
    async def middleware(self: Any, context: Any, call_next: Callable[..., Awaitable[Any]]) -> Any:
        async def inside(inner_context: Any) -> Any:
            call, acting = _enrich(inner_context)
            if call is None:
                return await call_next(inner_context)
            try:
                with _attached(acting):
                    result = await call_next(inner_context)
            except BaseException as error:
                end_with_error(call, error)
                raise
            end_with_result(call, result)
            return result

        return await original(self, context, inside)

    return middleware


class _AdoptedSpan(CallSpan):
    """The SDK's own span: we state its outcome, the SDK ends it."""

    def finish(self) -> None:
        """Leave the end to the SDK, whose `with` block owns the span."""


def _enrich(context: Any) -> tuple[CallSpan | None, Context]:
    """Put caller, target and request facts on the current SERVER span; (None, …) when there is nothing to say."""
    current = otel_context.get_current()
    try:
        span = get_current_span()
        if is_chatter(context.method) or not span.is_recording():
            return None, current
        incoming = propagate.extract(cast("dict[str, Any]", context.meta or {}), current)
        call = _AdoptedSpan(span, current)
        server = _serving.get()
        caller = caller_attributes(incoming)
        name = None if elf.ELF_SOURCE_ID in caller else client_name(context)
        _, attributes = request_attributes(context.method, context.params)
        call.set(
            {
                **attributes,
                otel.NETWORK_TRANSPORT: "tcp" if context.request is not None else "pipe",
                elf.ELF_SOURCE_ID: name,
                elf.ELF_SOURCE_TYPE: "mcp_client" if name else None,
                **caller,
                elf.ELF_TARGET_ID: server,
                elf.ELF_TARGET_TYPE: "mcp" if server else None,
                elf.ELF_IMPLICIT: True if baggage.get_baggage(IMPLICIT_BAGGAGE, incoming) else None,
            }
        )
        acting = current
        correlation_id = correlation_of(incoming)
        if correlation_id:
            acting = baggage.set_baggage(elf.ELF_CORRELATION_ID, correlation_id, acting)
        if server:
            acting = with_actor(acting, EntityRef(server, "mcp"))
    except Exception:
        logger.debug("an MCP server span could not be enriched", exc_info=True)
        return None, current
    return call, acting


@contextmanager
def _attached(context: Context) -> Generator[None]:
    token = otel_context.attach(context)
    try:
        yield
    finally:
        otel_context.detach(token)
