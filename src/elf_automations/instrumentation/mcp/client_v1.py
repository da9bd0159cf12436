"""The client side of MCP 1.x, which traces nothing itself: one CLIENT span a request, its context put in `_meta`.

`BaseSession.send_request` sends the requests of clients and, the other way round, of servers (sampling, elicitation,
roots). The request object stays as it is: what is dumped for the wire carries the context.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, cast

from opentelemetry.trace import Span

from elf_automations.conventions import otel
from elf_automations.instrumentation.contexts import enter, leave
from elf_automations.instrumentation.mcp.asking import asked_attributes
from elf_automations.instrumentation.mcp.operation import Instruments, Operation
from elf_automations.instrumentation.mcp.peers import greeted, server_attributes
from elf_automations.instrumentation.mcp.propagation import with_context
from elf_automations.instrumentation.mcp.sending import sent


def wrap_send_request(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for `BaseSession.send_request`."""

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def send_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            typed = getattr(request, "root", request)
            # The session numbers its requests from this counter, before it first waits.
            number = {otel.JSONRPC_REQUEST_ID: str(getattr(self, "_request_id", ""))}
            operation = sent(instruments, typed, lambda: _peer(self), number)
            if operation is None:
                result = await original(self, _carrying(request), *args, **kwargs)
                if getattr(typed, "method", None) == "initialize":
                    greeted(self, result)
                return result
            entered = enter(operation.call.context)
            try:
                args, kwargs = _watched(operation, args, kwargs)
                span = operation.call.span if operation.behind_a_network else None
                result = await original(self, _carrying(request, span), *args, **kwargs)
            except BaseException as error:
                operation.fail(error)
                raise
            finally:
                leave(entered)
            operation.conclude(result)
            return result

        return send_request

    return make


def wrap_send_notification(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `BaseSession.send_notification`: notifications carry the context too."""

    @functools.wraps(original)
    async def send_notification(self: Any, notification: Any, *args: Any, **kwargs: Any) -> Any:
        return await original(self, _carrying(notification), *args, **kwargs)

    return send_notification


def _peer(session: Any) -> Any:
    if hasattr(session, "client_params"):
        return asked_attributes(session)
    return server_attributes(session)


class _Carrying:
    """A message that, dumped for the wire, carries the current context; in all else it is the message itself."""

    def __init__(self, message: Any, span: Span | None) -> None:
        self._elf_message = message
        self._elf_span = span

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # isinstance() and the SDK's error texts see the message's own class.
        return cast("Any", type(self._elf_message))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._elf_message, name)

    def model_dump(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Dump the message with the context in its `_meta`."""
        data: dict[str, Any] = self._elf_message.model_dump(*args, **kwargs)
        params = with_context(data.get("params"), self._elf_span)
        if params is not None:
            data["params"] = params
        return data


class _Watched:
    """The type of a result, which shows the operation the result as it came over the wire."""

    def __init__(self, result_type: Any, operation: Operation) -> None:
        self._elf_type = result_type
        self._elf_operation = operation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._elf_type, name)

    def model_validate(self, wire_result: Any, *args: Any, **kwargs: Any) -> Any:
        """Validate a result as its type does."""
        self._elf_operation.answered(wire_result)
        return self._elf_type.model_validate(wire_result, *args, **kwargs)


def _watched(
    operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of `send_request` with its result type, the first of them, watched."""
    if args:
        return (_Watched(args[0], operation), *args[1:]), kwargs
    if "result_type" in kwargs:
        return args, {**kwargs, "result_type": _Watched(kwargs["result_type"], operation)}
    return args, kwargs


def _carrying(message: Any, span: Span | None = None) -> Any:
    return cast("Any", _Carrying(message, span)) if hasattr(message, "model_dump") else message
