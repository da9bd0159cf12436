"""A server that asks its client (sampling, elicitation, roots): the sides are swapped, the connection is the same.

The client's handler runs in the trace of the request, on a SERVER span of the client. Source: the MCP convention has
requests of servers mirrored.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf
from elf_automations.instrumentation.mcp.adoption import inbound
from elf_automations.instrumentation.mcp.operation import CONNECTION, Instruments
from elf_automations.instrumentation.mcp.peers import client_attributes, server_attributes
from elf_automations.instrumentation.mcp.responses_v1 import Noting
from elf_automations.instrumentation.mcp.serving import Received, meta_of, receiving
from elf_automations.instrumentation.mcp.transports import Lead


def asked_attributes(session: Any) -> dict[str, AttributeValue]:
    """Return what a server's session knows of the client it asks, and of the connection it was itself asked over."""
    attributes = client_attributes(getattr(session, "client_params", None))
    operation = inbound.get()
    if operation is not None:
        attributes.update(operation.connection)
    return attributes


def wrap_on_request(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ClientSession._on_request` (2.x)."""
    receive = receiving(instruments, _nothing, _received)

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def on_request(self: Any, dctx: Any, method: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
            operation = receive(self, method, params, meta_of(params), dctx.request_id)
            if operation is None:
                return await original(self, dctx, method, params, *args, **kwargs)
            try:
                with operation.call.active():
                    result = await original(self, dctx, method, params, *args, **kwargs)
            except BaseException as error:
                operation.fail(error)
                raise
            operation.conclude(result)
            return result

        return on_request

    return make


def wrap_received_request(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ClientSession._received_request` (1.x)."""
    receive = receiving(instruments, _nothing, _received_first)

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def received_request(self: Any, responder: Any, *args: Any, **kwargs: Any) -> Any:
            operation = receive(self, responder)
            if operation is None:
                return await original(self, responder, *args, **kwargs)
            noting = Noting(responder)
            try:
                with operation.call.active():
                    result = await original(self, responder, *args, **kwargs)
            except BaseException as error:
                operation.fail(error)
                raise
            finally:
                noting.stop()
            noting.conclude(operation)
            return result

        return received_request

    return make


def _nothing() -> None:
    """Prepare nothing: the client's session is long open."""


def _received_first(session: Any, responder: Any) -> Received | None:
    request = responder.request.root
    return _received(session, request.method, request.params, responder.request_meta, responder.request_id)


def _received(session: Any, method: Any, params: Any, meta: Any, request_id: Any) -> Received | None:
    if not isinstance(method, str):
        return None
    known = server_attributes(session)
    asker = known.get(elf.ELF_TARGET_ID)
    return Received(
        method=method,
        params=params,
        meta=meta,
        server=None,
        request_id=request_id,
        lead=Lead(_connection_in(known)),
        asker=asker if isinstance(asker, str) else None,
        asked=getattr(getattr(session, "_client_info", None), "name", None),
    )


def _connection_in(known: Mapping[str, AttributeValue]) -> Mapping[str, AttributeValue]:
    return {name: known[name] for name in CONNECTION if name in known}
