"""Who is at the other end of an MCP connection: the server of a client session, the client of a server request."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Any, Final, cast
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from mcp.client.stdio import StdioServerParameters
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel

_CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"

_connections: WeakKeyDictionary[Any, Mapping[str, AttributeValue]] = WeakKeyDictionary()


def wrap_client_enter(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap `Client.__aenter__`: remember where its session leads, the session itself only has streams."""

    @functools.wraps(original)
    async def enter(self: Any) -> Any:
        entered = await original(self)
        session = getattr(self, "_session", None)
        if session is not None:
            _connections[session] = connection_attributes(getattr(self, "server", None))
        return entered

    return enter


def connection_attributes(server: object) -> dict[str, AttributeValue]:
    """Return the transport attributes of what a `Client` was given: a URL, a command, or an in-process server.

    A URL is kept without credentials, query and fragment.
    """
    if isinstance(server, str):
        parts = urlsplit(server)
        attributes: dict[str, AttributeValue] = {otel.NETWORK_TRANSPORT: "tcp"}
        if parts.hostname:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            attributes[otel.SERVER_ADDRESS] = parts.hostname
            attributes[otel.SERVER_PORT] = port
            attributes[elf.ELF_TARGET_ENDPOINT] = f"{parts.scheme}://{parts.hostname}:{port}{parts.path}"
        return attributes
    if isinstance(server, StdioServerParameters):
        return {otel.NETWORK_TRANSPORT: "pipe", elf.ELF_TARGET_ENDPOINT: f"stdio:{PurePath(server.command).name}"}
    return {}


def server_attributes(session: object) -> dict[str, AttributeValue]:
    """Return what a client session knows of its server: its name, where it is, the protocol version."""
    attributes = dict(_connections.get(session, {}))
    info = getattr(session, "server_info", None)
    name = getattr(info, "name", None) or attributes.get(otel.SERVER_ADDRESS)
    if isinstance(name, str) and name:
        attributes[elf.ELF_TARGET_ID] = name
        attributes[elf.ELF_TARGET_TYPE] = "mcp"
    version = getattr(session, "protocol_version", None)
    if isinstance(version, str):
        attributes[otel.MCP_PROTOCOL_VERSION] = version
    return attributes


def client_name(context: Any) -> str | None:
    """Return the calling client's own name in a server request: per request in `_meta`, else from `initialize`."""
    meta = context.meta
    info = cast("Mapping[str, Any]", meta).get(_CLIENT_INFO_KEY) if isinstance(meta, Mapping) else None
    if isinstance(info, Mapping):
        name = cast("Mapping[str, Any]", info).get("name")
        return name if isinstance(name, str) and name else None
    initialized = getattr(context.session, "client_params", None)
    name = getattr(getattr(initialized, "client_info", None), "name", None)
    return name if isinstance(name, str) and name else None
