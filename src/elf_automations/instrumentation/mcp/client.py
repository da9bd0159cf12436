"""The client side of MCP: one CLIENT span a request, whose context travels in `_meta`.

`ClientSession.send_request` sees every typed request and its typed result. The SDK opens a span of its own one
layer below (scope `mcp-python-sdk`); while ours is open that layer works on ours instead of opening a second.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

from opentelemetry import baggage
from opentelemetry.trace import SpanKind, Tracer

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.mcp.attributes import IMPLICIT_BAGGAGE, request_attributes
from elf_automations.instrumentation.mcp.outcome import end_with_error, end_with_result
from elf_automations.instrumentation.mcp.peers import server_attributes
from elf_automations.instrumentation.spans import CallSpan, start_client_span
from elf_automations.model.protocols.mcp import is_chatter

logger = logging.getLogger(__name__)

# The method and call whose span the SDK's dispatcher, one layer below, is about to adopt.
_adoptable: ContextVar[tuple[str, CallSpan] | None] = ContextVar("elf_mcp_adoptable", default=None)
# Set while the SDK lists tools on its own account, to check a result against the tool's schema.
_listing_for_itself: ContextVar[bool] = ContextVar("elf_mcp_listing_for_itself", default=False)


def wrap_send_request(tracer: Tracer) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ClientSession.send_request`."""

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def send_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            call = _start(tracer, self, request)
            if call is None:
                return await original(self, request, *args, **kwargs)
            token = _adoptable.set((request.method, call))
            try:
                with call.active():
                    result = await original(self, request, *args, **kwargs)
            except BaseException as error:
                end_with_error(call, error)
                raise
            finally:
                _adoptable.reset(token)
            end_with_result(call, result)
            return result

        return send_request

    return make


def wrap_otel_span(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the dispatcher's `otel_span`: the layer below adopts our open span instead of opening its own."""

    @functools.wraps(original)
    def otel_span(*args: Any, **kwargs: Any) -> Any:
        adoptable = _adoptable.get()
        attributes = cast("dict[str, Any]", kwargs.get("attributes") or {})
        if adoptable is None or kwargs.get("kind") is not SpanKind.CLIENT:
            return original(*args, **kwargs)
        method, call = adoptable
        if attributes.get(otel.MCP_METHOD_NAME) != method:
            return original(*args, **kwargs)
        _adoptable.set(None)
        return _adopt(call, attributes)

    return otel_span


@contextmanager
def _adopt(call: CallSpan, attributes: dict[str, Any]) -> Generator[Any]:
    call.set({otel.JSONRPC_REQUEST_ID: attributes.get(otel.JSONRPC_REQUEST_ID)})
    yield call.span


def wrap_validate_tool_result(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `ClientSession.validate_tool_result`: the listing it makes is the SDK's, not the application's."""

    @functools.wraps(original)
    async def validate_tool_result(self: Any, *args: Any, **kwargs: Any) -> Any:
        token = _listing_for_itself.set(True)
        try:
            return await original(self, *args, **kwargs)
        finally:
            _listing_for_itself.reset(token)

    return validate_tool_result


def _start(tracer: Tracer, session: Any, request: Any) -> CallSpan | None:
    """Start the span of a request; None for chatter and whenever telemetry itself fails."""
    try:
        method = getattr(request, "method", None)
        if not isinstance(method, str) or is_chatter(method):
            return None
        name, attributes = request_attributes(method, getattr(request, "params", None))
        attributes |= server_attributes(session)
        implicit = _listing_for_itself.get() and method == "tools/list"
        if implicit:
            attributes[elf.ELF_IMPLICIT] = True
        call = start_client_span(tracer, name, attributes)
        if implicit:
            call.context = baggage.set_baggage(IMPLICIT_BAGGAGE, "true", call.context)
    except Exception:
        logger.debug("an MCP request could not be traced", exc_info=True)
        return None
    return call
