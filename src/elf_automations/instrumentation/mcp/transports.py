"""Where the streams of a session lead: a session only has streams, the transport knows address and process.

Each transport is seen where it makes its streams; the session is then found by the stream it writes to. Streams of
nobody we know are in memory and lead to no address.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.mcp.propagation import META, context_headers, message_context
from elf_automations.instrumentation.spans import attached


@dataclass(frozen=True, slots=True)
class Lead:
    """Where a stream leads: its attributes, and the HTTP transport that knows the session id."""

    attributes: Mapping[str, AttributeValue]
    transport: Any = None

    @property
    def session_id(self) -> str | None:
        """The session id the server gave, on streamable HTTP of the protocols that have one."""
        session_id = getattr(self.transport, "session_id", None)
        return session_id if isinstance(session_id, str) and session_id else None


# Where `post_writer` takes the stream that sessions write to.
_WRITE_STREAM: Final = 3
NOWHERE: Final = Lead({})
_leads: WeakKeyDictionary[Any, Lead] = WeakKeyDictionary()
# The trace context of the message that is being posted, as headers.
_posting: ContextVar[Mapping[str, str] | None] = ContextVar("elf_mcp_posting", default=None)


def lead_of(session: object) -> Lead:
    """Return where a session leads, or a request on its way through one."""
    dispatcher = getattr(session, "_dispatcher", session)
    stream = getattr(dispatcher, "_write_stream", None)
    return NOWHERE if stream is None else _leads.get(_bare(stream), NOWHERE)


def http_attributes(url: str) -> dict[str, AttributeValue]:
    """Return the attributes of an HTTP endpoint; its URL is kept without credentials, query and fragment."""
    parts = urlsplit(url)
    attributes: dict[str, AttributeValue] = {otel.NETWORK_TRANSPORT: "tcp", otel.NETWORK_PROTOCOL_NAME: "http"}
    if parts.hostname:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        attributes[otel.SERVER_ADDRESS] = parts.hostname
        attributes[otel.SERVER_PORT] = port
        attributes[elf.ELF_TARGET_ENDPOINT] = f"{parts.scheme}://{parts.hostname}:{port}{parts.path}"
    return attributes


def wrap_stdio_client(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what `stdio_client` is made of: its streams lead to a process."""
    return _remembering(original, "server", _process_attributes)


def wrap_stdio_server(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what `stdio_server` is made of: its streams lead to the process that started this one."""
    return _remembering(original, "stdin", lambda _: {otel.NETWORK_TRANSPORT: "pipe"})


def wrap_sse_client(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap what `sse_client` is made of: its streams lead to a URL."""
    return _remembering(original, "url", lambda url: http_attributes(str(url)))


def wrap_sse_post(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap what `sse_client` posts a message with: the request travels in its message's context, headers included."""

    @functools.wraps(original)
    async def request(client: Any, method: Any, url: Any, *args: Any, **kwargs: Any) -> Any:
        meta = _meta_in(field(kwargs.get("json"), "params"))
        if not meta:
            return await original(client, method, url, *args, **kwargs)
        of_the_client = getattr(client, "headers", ())
        carried = {name: value for name, value in context_headers(meta).items() if name not in of_the_client}
        kwargs["headers"] = {**carried, **(kwargs.get("headers") or {})}
        with attached(message_context(meta)):
            return await original(client, method, url, *args, **kwargs)

    return request


def wrap_post_writer(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `StreamableHTTPTransport.post_writer`: the stream it drains leads to its URL."""

    @functools.wraps(original)
    async def post_writer(self: Any, *args: Any, **kwargs: Any) -> Any:
        stream = args[_WRITE_STREAM] if len(args) > _WRITE_STREAM else kwargs.get("write_stream")
        _remember(stream, lambda: Lead(http_attributes(self.url), self))
        return await original(self, *args, **kwargs)

    return post_writer


def wrap_post_request(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `StreamableHTTPTransport._handle_post_request`: the request travels in its message's context.

    In 1.x it is made by a task that knows nothing of the caller; an HTTP client span must still be the call's child.
    """

    @functools.wraps(original)
    async def handle_post_request(self: Any, ctx: Any, *args: Any, **kwargs: Any) -> Any:
        meta = _meta_of(ctx)
        if not meta:
            return await original(self, ctx, *args, **kwargs)
        token = _posting.set(context_headers(meta))
        try:
            with attached(message_context(meta)):
                return await original(self, ctx, *args, **kwargs)
        finally:
            _posting.reset(token)

    return handle_post_request


def wrap_prepare_headers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `StreamableHTTPTransport._prepare_headers`: a message's context is in its headers as well."""

    @functools.wraps(original)
    def prepare_headers(self: Any, *args: Any, **kwargs: Any) -> Any:
        headers = original(self, *args, **kwargs)
        carried = _posting.get()
        return {**carried, **cast("dict[str, str]", headers)} if carried and isinstance(headers, dict) else headers

    return prepare_headers


def _process_attributes(server: Any) -> dict[str, AttributeValue]:
    command = PurePath(str(getattr(server, "command", ""))).name
    attributes: dict[str, AttributeValue] = {otel.NETWORK_TRANSPORT: "pipe"}
    if command:
        attributes[elf.ELF_TARGET_ENDPOINT] = f"stdio:{command}"
    return attributes


def _remembering(
    original: Callable[..., Any], argument: str, attributes_of: Callable[[Any], Mapping[str, AttributeValue]]
) -> Callable[..., Any]:
    """Wrap the async generator of a transport whose first argument says where it leads."""
    opening = asynccontextmanager(original)

    @functools.wraps(original)
    async def opened(*args: Any, **kwargs: Any) -> AsyncGenerator[Any]:
        async with opening(*args, **kwargs) as streams:
            _remember(streams[1], lambda: Lead(attributes_of(args[0] if args else kwargs.get(argument))))
            yield streams

    return opened


def _remember(stream: Any, lead: Callable[[], Lead]) -> None:
    try:
        _leads[_bare(stream)] = lead()
    except Exception:  # a stream or URL of another kind: calls over it say nothing of their transport
        return


def _bare(stream: Any) -> Any:
    """Return the memory stream inside the SDK's context-carrying one, which cannot be referred to weakly."""
    return getattr(stream, "_inner", stream)


def _meta_of(ctx: Any) -> Mapping[str, Any] | None:
    message = getattr(getattr(ctx, "session_message", None), "message", None)
    return _meta_in(getattr(getattr(message, "root", message), "params", None))


def _meta_in(params: object) -> Mapping[str, Any] | None:
    meta = field(params, META)
    return cast("Mapping[str, Any]", meta) if isinstance(meta, dict) else None
