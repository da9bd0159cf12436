"""The client side of MCP 2.x: one CLIENT span a request, whose context travels in `_meta`.

`send_request` of a session sees every typed request. The dispatcher one layer below opens a span of its own and
injects the context; it works on our span instead (`adoption`), and shows the result as it came over the wire.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from elf_automations.conventions import otel
from elf_automations.instrumentation.contexts import enter, leave
from elf_automations.instrumentation.mcp.adoption import outbound
from elf_automations.instrumentation.mcp.asking import asked_attributes
from elf_automations.instrumentation.mcp.operation import Instruments
from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.mcp.peers import server_attributes
from elf_automations.instrumentation.mcp.propagation import with_context
from elf_automations.instrumentation.mcp.rounds import held_for_headers, held_for_input
from elf_automations.instrumentation.mcp.sending import listing_for_itself, sent


def wrap_send_request(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ClientSession.send_request`."""
    return _wrap(instruments, server_attributes)


def wrap_server_send_request(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ServerSession.send_request`: the server asks its client."""
    return _wrap(instruments, asked_attributes)


def _wrap(instruments: Instruments, peer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def send_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            operation = sent(instruments, request, lambda: peer(self))
            if operation is None:
                return await original(self, request, *args, **kwargs)
            token, entered = outbound.set(operation), enter(operation.call.context)
            try:
                result = await original(self, request, *args, **kwargs)
            except BaseException as error:
                outbound.reset(token)
                if not held_for_headers(self, operation, entered, error):
                    leave(entered)
                    operation.fail(error)
                raise
            outbound.reset(token)
            if not held_for_input(self, operation, entered):
                leave(entered)
                operation.conclude(result)
            return result

        return send_request

    return make


def wrap_send_raw(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `JSONRPCDispatcher.send_raw_request`: the result as it came is what has a size."""

    @functools.wraps(original)
    async def send_raw_request(self: Any, method: str, params: Any, *args: Any, **kwargs: Any) -> Any:
        operation = outbound.get()
        if operation is None or operation.method != method:
            return await original(self, method, params, *args, **kwargs)
        result = await original(self, method, params, *args, **kwargs)
        operation.answered(result)
        return result

    return send_raw_request


def wrap_direct_request(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `DirectDispatcher._dispatch_request`: between two ends in one process nothing else injects the context."""

    @functools.wraps(original)
    async def dispatch_request(self: Any, method: str, params: Any, *args: Any, **kwargs: Any) -> Any:
        operation = outbound.get()
        if operation is None or operation.method != method:
            return await original(self, method, with_context(params), *args, **kwargs)
        operation.adopted = True
        operation.call.at_end({otel.JSONRPC_REQUEST_ID: _number(self, *args)})
        result = await original(self, method, with_context(params), *args, **kwargs)
        operation.answered(result)
        return result

    return dispatch_request


def _number(dispatcher: Any, opts: Any = None, *_: Any) -> str | None:
    """Return the id that a direct dispatcher is about to give a request, None when it may give another."""
    chosen = field(opts, "request_id")
    if chosen is not None:
        return str(chosen)
    last = getattr(dispatcher, "_next_id", None)
    if type(last) is not int or last + 1 in getattr(dispatcher, "_in_flight_ids", ()):
        return None
    return str(last + 1)


def wrap_notify(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a dispatcher's `notify`: notifications carry the context too."""

    @functools.wraps(original)
    async def notify(self: Any, method: str, params: Any, *args: Any, **kwargs: Any) -> Any:
        return await original(self, method, with_context(params), *args, **kwargs)

    return notify


def wrap_validate_tool_result(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a session's check of a tool result: the listing it makes is the SDK's, not the application's."""

    async def listing(self: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        token = listing_for_itself.set(True)
        try:
            return await original(self, name, *args, **kwargs)
        finally:
            listing_for_itself.reset(token)

    @functools.wraps(original)
    def validate_tool_result(self: Any, name: Any, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        if name in getattr(self, "_tool_output_schemas", ()):
            return original(self, name, *args, **kwargs)  # what it needs it has listed before
        return listing(self, name, *args, **kwargs)

    return validate_tool_result
