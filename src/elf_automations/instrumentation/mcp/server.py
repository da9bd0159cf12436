"""The server side of MCP 2.x: one SERVER span a request, at the kernel that every transport and FastMCP 4 go through.

The SDK's own middleware and FastMCP's work on this span instead of opening theirs (`adoption`).
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any

from elf_automations.instrumentation.contexts import enter, leave
from elf_automations.instrumentation.mcp.adoption import inbound
from elf_automations.instrumentation.mcp.continuing import answered
from elf_automations.instrumentation.mcp.operation import Instruments
from elf_automations.instrumentation.mcp.serving import Received, asking_itself, meta_of, notified, receiving
from elf_automations.instrumentation.mcp.transports import NOWHERE, lead_of
from elf_automations.instrumentation.spans import attached


def wrap_on_request(instruments: Instruments, prepare: Callable[[], None]) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ServerRunner._on_request`; `prepare` runs before each request."""
    receive = receiving(instruments, prepare, _received)

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def on_request(self: Any, dctx: Any, method: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            operation = receive(self, dctx, method, params)
            if operation is None:
                return await original(self, dctx, method, params, *args, **kwargs)
            token, entered = inbound.set(operation), enter(operation.call.context)
            try:
                result = await original(self, dctx, method, params, *args, **kwargs)
            except BaseException as error:
                operation.fail(error)
                raise
            finally:
                leave(entered)
                inbound.reset(token)
            answered(operation, params, result)
            operation.conclude(result)
            return result

        return on_request

    return make


def wrap_on_notify(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ServerRunner._on_notify`: its handler continues the sender's trace and baggage."""

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def on_notify(self: Any, dctx: Any, method: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            context = notified(instruments, meta_of(params), getattr(self, "server", None))
            if context is None:
                return await original(self, dctx, method, params, *args, **kwargs)
            with attached(context):
                return await original(self, dctx, method, params, *args, **kwargs)

        return on_notify

    return make


def wrap_tool_input_schema(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap the HTTP transport's look-up of a tool's schema: the `tools/list` it makes is nobody's call."""

    @functools.wraps(original)
    async def tool_input_schema(*args: Any, **kwargs: Any) -> Any:
        token = asking_itself.set(True)
        try:
            return await original(*args, **kwargs)
        finally:
            asking_itself.reset(token)

    return tool_input_schema


def _received(runner: Any, dctx: Any, method: Any, params: Any) -> Received | None:
    if not isinstance(method, str):
        return None
    connection = runner.connection
    request = getattr(dctx.message_metadata, "request_context", None)
    return Received(
        method,
        params,
        meta_of(params),
        runner.server,
        request,
        dctx.request_id,
        connection.client_params,
        connection.protocol_version,
        connection.session_id,
        # The modern protocol wraps what leads to the stream.
        lead=lead_of(getattr(dctx, "_inner", dctx)) if request is None else NOWHERE,
    )
