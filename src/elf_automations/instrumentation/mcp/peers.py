"""Who is at the other end of an MCP connection, as a client session or a server connection knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.mcp.transports import NOWHERE, Lead, lead_of

_CLIENT_INFO_KEY: Final = "io.modelcontextprotocol/clientInfo"

# What a client session said of its server when the handshake was done: 1.x sessions do not keep it.
_greetings: WeakKeyDictionary[Any, object] = WeakKeyDictionary()
# The attributes of a session's server, made once for each protocol version it has spoken.
_known: WeakKeyDictionary[Any, tuple[object, Lead, Mapping[str, AttributeValue]]] = WeakKeyDictionary()


def greeted(session: object, result: object) -> None:
    """Remember the result of a session's `initialize`."""
    _greetings[session] = result
    _known.pop(session, None)


def server_attributes(session: object) -> dict[str, AttributeValue]:
    """Return what a client session knows of its server: name, address, transport, protocol version, session id."""
    version = getattr(session, "protocol_version", None)
    known = _known.get(session)
    if known is None or known[0] != version:
        lead = lead_of(session)
        known = (version, lead, _describe(session, version, lead))
        _known[session] = known
    attributes = dict(known[2])
    session_id = known[1].session_id
    if session_id is not None:
        attributes[otel.MCP_SESSION_ID] = session_id
    return attributes


def transport_attributes(session: object) -> Mapping[str, AttributeValue]:
    """Return what `server_attributes` last found; empty before the session's first call."""
    known = _known.get(session)
    return known[2] if known is not None else {}


def client_attributes(client_params: object) -> dict[str, AttributeValue]:
    """Return what a server connection knows of its client, as the target of a request to it."""
    name = _name_in(client_params)
    return {elf.ELF_TARGET_ID: name, elf.ELF_TARGET_TYPE: "mcp_client"} if name else {}


def client_name(meta: object, client_params: object) -> str | None:
    """Return the calling client's own name: per request in `_meta`, else from `initialize`."""
    info = cast("Mapping[str, Any]", meta).get(_CLIENT_INFO_KEY) if isinstance(meta, Mapping) else None
    if isinstance(info, Mapping):
        name = cast("Mapping[str, Any]", info).get("name")
        return name if isinstance(name, str) and name else None
    return _name_in(client_params)


def http_peer_attributes(request: object) -> dict[str, AttributeValue]:
    """Return the transport attributes of a server request that came over HTTP, with its client's address."""
    attributes: dict[str, AttributeValue] = {otel.NETWORK_TRANSPORT: "tcp", otel.NETWORK_PROTOCOL_NAME: "http"}
    peer = getattr(request, "client", None)
    host, port = getattr(peer, "host", None), getattr(peer, "port", None)
    if isinstance(host, str) and host:
        attributes[otel.CLIENT_ADDRESS] = host
        if isinstance(port, int):
            attributes[otel.CLIENT_PORT] = port
    return attributes


def _describe(session: object, version: object, lead: Lead) -> Mapping[str, AttributeValue]:
    attributes = dict(lead.attributes) if lead is not NOWHERE else {}
    greeting = _greetings.get(session)
    info = getattr(session, "server_info", None) or field(greeting, "serverInfo", "server_info")
    name = getattr(info, "name", None) or attributes.get(otel.SERVER_ADDRESS)
    if isinstance(name, str) and name:
        attributes[elf.ELF_TARGET_ID] = name
    said = version or field(greeting, "protocolVersion", "protocol_version")
    if said is not None:
        attributes[otel.MCP_PROTOCOL_VERSION] = str(said)
    return attributes


def _name_in(client_params: object) -> str | None:
    name = getattr(field(client_params, "clientInfo", "client_info"), "name", None)
    return name if isinstance(name, str) and name else None
