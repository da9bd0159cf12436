"""One span a request: the layers that open spans of their own work on ours while it is open.

The SDK (2.x) opens spans through `otel_span`, FastMCP's server through its `get_tracer()`. Both are wrapped: when the
span they are about to open is the one our operation of the same kind and method already has, they get that one.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast

from opentelemetry import context as otel_context
from opentelemetry.trace import Span, SpanKind, Tracer

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.contexts import context_with
from elf_automations.instrumentation.mcp.operation import Operation
from elf_automations.instrumentation.mcp.propagation import put_context
from elf_automations.instrumentation.mcp.sending import LISTING_UNASKED
from elf_automations.instrumentation.spans import attached

logger = logging.getLogger(__name__)

outbound: Final[ContextVar[Operation | None]] = ContextVar("elf_mcp_outbound", default=None)
inbound: Final[ContextVar[Operation | None]] = ContextVar("elf_mcp_inbound", default=None)
_WAITING: Final = {SpanKind.CLIENT: outbound, SpanKind.SERVER: inbound}


class _Lent(AbstractContextManager[Span]):
    """Our span, lent to the layer below, which believes it opened it; we end it."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Span:
        return self._span

    def __exit__(self, *_: object) -> None:
        return None


def wrap_otel_span(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the SDK's `otel_span`, as the module that calls it knows it."""

    @functools.wraps(original)
    def otel_span(*args: Any, **kwargs: Any) -> Any:
        attributes = cast("dict[str, Any]", kwargs.get("attributes") or {})
        operation = _take(kwargs.get("kind"), attributes.get(otel.MCP_METHOD_NAME))
        if operation is None:
            return original(*args, **kwargs)
        operation.call.at_end({otel.JSONRPC_REQUEST_ID: attributes.get(otel.JSONRPC_REQUEST_ID)})
        return _Lent(operation.call.span)

    return otel_span


def wrap_inject(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap the dispatcher's `inject_trace_context`: of our calls, we know what their context says."""

    @functools.wraps(original)
    def inject_trace_context(meta: dict[str, Any]) -> None:
        operation = outbound.get()
        if operation is None or not operation.adopted:
            original(meta)
            return
        try:
            call = operation.call
            put_context(meta, call.context, call.span if operation.behind_a_network else None)
        except Exception:
            logger.debug("the context of an MCP call could not be written", exc_info=True)
            original(meta)

    return inject_trace_context


def wrap_middleware(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap the SDK's `OpenTelemetryMiddleware.__call__`: the request it would trace has its span already."""

    @functools.wraps(original)
    async def middleware(self: Any, ctx: Any, call_next: Callable[..., Awaitable[Any]]) -> Any:
        operation = inbound.get()
        if operation is None or operation.adopted or operation.method != ctx.method:
            return await original(self, ctx, call_next)
        operation.adopted = True
        return await call_next(ctx)

    return middleware


def wrap_get_tracer(original: Callable[..., Tracer]) -> Callable[..., Tracer]:
    """Wrap the `get_tracer` of FastMCP's server."""

    @functools.wraps(original)
    def get_tracer(*args: Any, **kwargs: Any) -> Tracer:
        tracer = original(*args, **kwargs)
        operation = inbound.get()
        return tracer if operation is None else cast("Tracer", _LendingTracer(tracer, operation))

    return get_tracer


def wrap_session_attributes(original: Callable[..., dict[str, str]]) -> Callable[..., dict[str, str]]:
    """Wrap FastMCP's `get_session_span_attributes`: where the protocol has no session, FastMCP makes an id up."""

    @functools.wraps(original)
    def get_session_span_attributes(*args: Any, **kwargs: Any) -> dict[str, str]:
        operation = inbound.get()
        return {} if operation is not None and not operation.in_session else original(*args, **kwargs)

    return get_session_span_attributes


class _LendingTracer:
    """FastMCP's tracer, lending our SERVER span where FastMCP would open one for the same request."""

    def __init__(self, tracer: Tracer, operation: Operation) -> None:
        self._tracer = tracer
        self._operation = operation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracer, name)

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, **kwargs: Any) -> Generator[Span]:
        method = name.partition(" ")[0]
        operation = _take(kwargs.get("kind"), method)
        if operation is not None:
            operation.call.set(kwargs.get("attributes") or {})
            yield operation.call.span
            return
        with self._tracer.start_as_current_span(name, *args, **kwargs) as span:
            if method != "tools/list" or not (self._operation.implicit or self._operation.method != method):
                yield span
                return
            span.set_attributes({elf.ELF_IMPLICIT: True})  # the server looks a tool up in its own list
            with attached(context_with(otel_context.get_current(), {LISTING_UNASKED: True})):
                yield span


def _take(kind: object, method: object) -> Operation | None:
    """Return the operation that waits for a span of this kind and method; it waits no longer."""
    waiting = _WAITING.get(cast("SpanKind", kind))
    operation = waiting.get() if waiting is not None else None
    if operation is None or operation.adopted or operation.method != method:
        return None
    operation.adopted = True
    return operation
