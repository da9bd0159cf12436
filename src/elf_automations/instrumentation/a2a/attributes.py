"""Attributes of an A2A call from its request and the Agent Card, by the draft A2A semantic convention.

Content (message parts, artifacts) stays out; of the request only ids and its size are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from a2a.client.base_client import BaseClient
from a2a.types.a2a_pb2 import AgentCard, AgentInterface, SendMessageRequest
from a2a.utils.constants import TransportProtocol
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import a2a_draft, elf, otel
from elf_automations.instrumentation.a2a.methods import Method

_BINDINGS: Final = (
    ("jsonrpc", TransportProtocol.JSONRPC.value),
    ("rest", TransportProtocol.HTTP_JSON.value),
    ("grpc", TransportProtocol.GRPC.value),
)
_PORTS: Final = {"http": 80, "https": 443}


def call_attributes(method: Method, side: str) -> dict[str, AttributeValue]:
    """Return what is known of a call before looking at anything: the attributes a sampler sees."""
    attributes: dict[str, AttributeValue] = {
        a2a_draft.A2A_METHOD_NAME: method.name,
        elf.ELF_OPERATION: method.operation,
    }
    message_type = method.message_type(side)
    if message_type:
        attributes[elf.ELF_MESSAGE_TYPE] = message_type
    return attributes


def request_attributes(request: Any) -> dict[str, AttributeValue | None]:
    """Return ids and size in bytes (as protobuf) of any A2A request message."""
    message = request.message if isinstance(request, SendMessageRequest) else None
    task_id = message.task_id if message is not None else getattr(request, "task_id", "") or getattr(request, "id", "")
    context_id = message.context_id if message is not None else getattr(request, "context_id", "")
    return {
        a2a_draft.A2A_MESSAGE_ID: (message.message_id or None) if message is not None else None,
        a2a_draft.A2A_TASK_ID: task_id or None,
        a2a_draft.A2A_TENANT: getattr(request, "tenant", "") or None,
        otel.GEN_AI_CONVERSATION_ID: context_id or None,
        elf.ELF_PAYLOAD_SIZE: request.ByteSize(),
    }


def team_attributes(card: AgentCard) -> dict[str, AttributeValue | None]:
    """Return what an Agent Card says of the called team; its name is the team's entity id."""
    named = bool(card.name)
    return {
        otel.GEN_AI_AGENT_NAME: card.name or None,
        otel.GEN_AI_AGENT_DESCRIPTION: card.description or None,
        otel.GEN_AI_AGENT_VERSION: card.version or None,
        elf.ELF_TARGET_ID: card.name or None,
        elf.ELF_TARGET_TYPE: "team" if named else None,
        elf.ELF_TARGET_ENDPOINT: next((place.url for place in card.supported_interfaces if "://" in place.url), None),
        elf.ELF_TARGET_CAPABILITIES: skills(card) or None,
    }


def skills(card: AgentCard) -> tuple[str, ...]:
    """Return the capabilities of a team: the ids of its skills."""
    return tuple(skill.id or skill.name for skill in card.skills if skill.id or skill.name)


def endpoint_attributes(client: BaseClient) -> dict[str, AttributeValue | None]:
    """Return where a client's requests go."""
    binding = binding_of(client)
    interface = _interface(client, binding)
    url = str(getattr(_transport(client), "url", "") or (interface.url if interface else ""))
    attributes: dict[str, AttributeValue | None] = {
        **address_attributes(url),
        a2a_draft.A2A_PROTOCOL_VERSION: (interface.protocol_version or None) if interface else None,
    }
    if "://" in url:  # a gRPC address is no place to fetch the card from again
        attributes[elf.ELF_TARGET_ENDPOINT] = url
    return attributes


def address_attributes(url: str) -> dict[str, AttributeValue | None]:
    """Return `server.address` and `server.port` of a URL or of a gRPC `host:port`."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        port = parts.port
    except ValueError:
        port = None
    return {otel.SERVER_ADDRESS: parts.hostname or None, otel.SERVER_PORT: port or _PORTS.get(parts.scheme)}


def binding_of(client: BaseClient) -> str | None:
    """Return the protocol binding a client speaks (JSONRPC, HTTP+JSON, GRPC), None for a transport of one's own."""
    name = type(_transport(client)).__name__.lower()
    return next((binding for word, binding in _BINDINGS if word in name), None)


def server_binding(state: Mapping[str, Any]) -> str:
    """Return the protocol binding a request came over, from the state of its ServerCallContext."""
    if "grpc_context" in state:
        return TransportProtocol.GRPC.value
    return TransportProtocol.JSONRPC.value if "request_id" in state else TransportProtocol.HTTP_JSON.value


def streams(client: BaseClient) -> bool:
    """Return whether this client's `send_message` streams: both sides must be able to."""
    return bool(client._config.streaming and client._card.capabilities.streaming)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def card_of(client: BaseClient) -> AgentCard:
    """Return the Agent Card a client was made from."""
    return client._card  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _transport(client: BaseClient) -> object:
    transport: Any = client._transport  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return getattr(transport, "_base", transport)  # TenantTransportDecorator wraps the one that speaks


def _interface(client: BaseClient, binding: str | None) -> AgentInterface | None:
    interfaces = card_of(client).supported_interfaces
    url = getattr(_transport(client), "url", None)
    speaking = [interface for interface in interfaces if interface.protocol_binding == binding]
    return next((interface for interface in speaking if interface.url == url), speaking[0] if speaking else None)
