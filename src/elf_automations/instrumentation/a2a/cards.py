"""What an Agent Card says of its team and where a client's requests go.

A card is read once in ten seconds; the call that reads it also carries what only the registry needs of it (description,
endpoint, skills, provider), the calls between repeat the team's name and version alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from a2a.client.base_client import BaseClient
from a2a.types.a2a_pb2 import AgentCard, AgentInterface
from a2a.utils.constants import TransportProtocol
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import a2a_draft, elf, otel

_Attributes: TypeAlias = Mapping[str, AttributeValue]
_Read: TypeAlias = Callable[[], Mapping[str, AttributeValue | None]]

_BINDINGS: Final = (
    ("jsonrpc", TransportProtocol.JSONRPC.value),
    ("rest", TransportProtocol.HTTP_JSON.value),
    ("grpc", TransportProtocol.GRPC.value),
)
_PORTS: Final = {"http": 80, "https": 443}
# A card is the same object for many calls; one that its application changes in place is read again after this.
_MEMORY_S: Final = 10.0
_REGISTERED: Final = frozenset(
    {
        otel.GEN_AI_AGENT_DESCRIPTION,
        elf.ELF_TARGET_ENDPOINT,
        elf.ELF_TARGET_CAPABILITIES,
        elf.ELF_TARGET_PROVIDER,
        elf.ELF_TARGET_PROVIDER_URL,
    }
)
_remembered: WeakKeyDictionary[object, tuple[AgentCard | None, float, _Attributes]] = WeakKeyDictionary()


def target_attributes(transport: object, card: AgentCard | None) -> _Attributes:
    """Return what is known of the called team before the call: its card, binding and address."""
    return _once(transport, card, lambda: _target_attributes(transport, card))


def own_attributes(handler: object, card: AgentCard) -> _Attributes:
    """Return what a serving team's card says of it."""
    return _once(handler, card, lambda: team_attributes(card))


def team_attributes(card: AgentCard) -> dict[str, AttributeValue | None]:
    """Return what an Agent Card says of the called team; its name, the team's entity id, is the row's target."""
    return {
        otel.GEN_AI_AGENT_NAME: card.name or None,
        otel.GEN_AI_AGENT_DESCRIPTION: card.description or None,
        otel.GEN_AI_AGENT_VERSION: card.version or None,
        elf.ELF_TARGET_ENDPOINT: next((place.url for place in card.supported_interfaces if "://" in place.url), None),
        elf.ELF_TARGET_CAPABILITIES: skills(card) or None,
        elf.ELF_TARGET_PROVIDER: card.provider.organization or None,
        elf.ELF_TARGET_PROVIDER_URL: card.provider.url or None,
    }


def skills(card: AgentCard) -> tuple[str, ...]:
    """Return the capabilities of a team: the ids of its skills."""
    return tuple(skill.id or skill.name for skill in card.skills if skill.id or skill.name)


def card_of(client: BaseClient) -> AgentCard:
    """Return the Agent Card a client was made from."""
    return client._card  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def transport_of(client: BaseClient) -> object:
    """Return the transport a client's requests leave by, without the decorator that adds a tenant."""
    transport: Any = client._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return getattr(transport, "_base", transport)


def streams(client: BaseClient) -> bool:
    """Return whether this client's `send_message` streams: both sides must be able to."""
    return bool(client._config.streaming and client._card.capabilities.streaming)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def binding_of(client: BaseClient) -> str | None:
    """Return the protocol binding a client speaks (JSONRPC, HTTP+JSON, GRPC), None for a transport of one's own."""
    return _binding(transport_of(client))


def address_attributes(url: str) -> dict[str, AttributeValue | None]:
    """Return `server.address` and `server.port` of a URL or of a gRPC `host:port`."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    return {otel.SERVER_ADDRESS: parts.hostname or None, otel.SERVER_PORT: port or _PORTS.get(parts.scheme)}


def _target_attributes(transport: object, card: AgentCard | None) -> dict[str, AttributeValue | None]:
    binding = _binding(transport)
    interface = _interface(transport, card, binding)
    url = str(getattr(transport, "url", "") or (interface.url if interface else ""))
    attributes: dict[str, AttributeValue | None] = {
        **(team_attributes(card) if card is not None else {}),
        **address_attributes(url),
        a2a_draft.A2A_PROTOCOL_VERSION: (interface.protocol_version or None) if interface else None,
        elf.ELF_A2A_BINDING: binding,
    }
    if "://" in url:  # a gRPC address is no place to fetch the card from again
        attributes[elf.ELF_TARGET_ENDPOINT] = url
    return attributes


def _binding(transport: object) -> str | None:
    name = type(transport).__name__.lower()
    return next((binding for word, binding in _BINDINGS if word in name), None)


def _interface(transport: object, card: AgentCard | None, binding: str | None) -> AgentInterface | None:
    url = getattr(transport, "url", None)
    interfaces = card.supported_interfaces if card is not None else ()
    speaking = [interface for interface in interfaces if interface.protocol_binding == binding]
    return next((interface for interface in speaking if interface.url == url), speaking[0] if speaking else None)


def _once(owner: object, card: AgentCard | None, read: _Read) -> _Attributes:
    now = time.monotonic()
    try:
        known = _remembered.get(owner)
    except TypeError:  # an owner of one's own that cannot be hashed or referred to weakly
        return _valued(read())
    if known is not None and known[0] is card and known[1] >= now:
        return known[2]
    said = _valued(read())
    repeated = {name: value for name, value in said.items() if name not in _REGISTERED}
    _remembered[owner] = (card, now + _MEMORY_S, repeated)
    return said


def _valued(attributes: Mapping[str, AttributeValue | None]) -> _Attributes:
    return {name: value for name, value in attributes.items() if value is not None}
