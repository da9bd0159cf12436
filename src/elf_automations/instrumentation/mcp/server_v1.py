"""The server side of MCP 1.x, which traces nothing itself: one SERVER span a request, FastMCP 1 to 3 included.

`Server._handle_request` handles a request and swallows how it ended: the answer it gives through its responder tells.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from opentelemetry.context import Context
from opentelemetry.trace import get_current_span, set_span_in_context

from elf_automations.instrumentation.contexts import enter, leave
from elf_automations.instrumentation.mcp.adoption import inbound
from elf_automations.instrumentation.mcp.operation import Instruments
from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.mcp.responses_v1 import Noting
from elf_automations.instrumentation.mcp.serving import Received, notified, receiving
from elf_automations.instrumentation.mcp.transports import NOWHERE, lead_of
from elf_automations.instrumentation.spans import attached

# The protocol version a server session agreed to.
_versions: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
# The span around each HTTP request: its message is handled by a task that was started by another request.
_arrivals: WeakKeyDictionary[Any, Context] = WeakKeyDictionary()


def wrap_handle_request(instruments: Instruments, prepare: Callable[[], None]) -> Callable[[Any], Any]:
    """Return the wrapper maker for the low-level `Server._handle_request`; `prepare` runs before each request."""
    receive = receiving(instruments, prepare, _received)

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def handle_request(self: Any, message: Any, req: Any, session: Any, *args: Any, **kwargs: Any) -> Any:
            operation = receive(self, message, req, session)
            if operation is None:
                return await original(self, message, req, session, *args, **kwargs)
            noting = Noting(message)
            token, entered = inbound.set(operation), enter(operation.call.context)
            try:
                result = await original(self, message, req, session, *args, **kwargs)
            except BaseException as error:
                operation.fail(error)
                raise
            finally:
                leave(entered)
                inbound.reset(token)
                noting.stop()
            noting.conclude(operation)
            return result

        return handle_request

    return make


def wrap_handle_notification(instruments: Instruments) -> Callable[[Any], Any]:
    """Return the wrapper maker for the low-level `Server._handle_notification`: it continues the sender's trace."""

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def handle_notification(self: Any, notify: Any, *args: Any, **kwargs: Any) -> Any:
            context = notified(instruments, getattr(getattr(notify, "params", None), "meta", None), self)
            if context is None:
                return await original(self, notify, *args, **kwargs)
            with attached(context):
                return await original(self, notify, *args, **kwargs)

        return handle_notification

    return make


def wrap_respond(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `RequestResponder.respond`: the handshake, which no handler sees, agrees on the protocol version."""

    @functools.wraps(original)
    async def respond(self: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(getattr(self.request, "root", None), "method", None) == "initialize":
            agreed = field(getattr(response, "root", response), "protocolVersion")
            if isinstance(agreed, str):
                _versions[self._session] = agreed
        return await original(self, response, *args, **kwargs)

    return respond


def wrap_http_post(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `StreamableHTTPServerTransport._handle_post_request`: remember the span the request arrived in."""

    @functools.wraps(original)
    async def handle_post_request(self: Any, scope: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _arrivals[request] = set_span_in_context(get_current_span(), Context())
        return await original(self, scope, request, *args, **kwargs)

    return handle_post_request


def wrap_sse_post(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `SseServerTransport._handle_post_message`: it makes the request itself, from what is known here."""

    @functools.wraps(original)
    async def handle_post_message(self: Any, scope: Any, receive: Any, *args: Any, **kwargs: Any) -> Any:
        with suppress(TypeError):  # a server's `receive` may be of a kind that cannot be referred to weakly
            _arrivals[receive] = set_span_in_context(get_current_span(), Context())
        return await original(self, scope, receive, *args, **kwargs)

    return handle_post_message


def _received(server: Any, message: Any, req: Any, session: Any) -> Received | None:
    method = getattr(req, "method", None)
    if not isinstance(method, str):
        return None
    request = getattr(message.message_metadata, "request_context", None)
    return Received(
        method=method,
        params=getattr(req, "params", None),
        meta=message.request_meta,
        server=server,
        request=request,
        request_id=message.request_id,
        client_params=getattr(session, "client_params", None),
        protocol_version=_versions.get(session),
        session_id=_session_id(request),
        ambient=None if request is None else _arrival(request),
        lead=lead_of(session) if request is None else NOWHERE,
    )


def _arrival(request: Any) -> Context:
    for key in (request, getattr(request, "receive", request)):
        with suppress(TypeError):
            known = _arrivals.get(key)
            if known is not None:
                return known
    return Context()


def _session_id(request: Any) -> str | None:
    headers = getattr(request, "headers", None)
    return None if headers is None else headers.get("mcp-session-id")
