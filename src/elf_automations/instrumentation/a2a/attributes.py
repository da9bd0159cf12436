"""Attributes of an A2A call from its request and its method, by the draft A2A semantic convention.

Content (message parts, artifacts) stays out; of the request only ids and its size are kept.
"""

from __future__ import annotations

from typing import Any

from a2a.server.context import ServerCallContext
from a2a.types.a2a_pb2 import SendMessageRequest
from a2a.utils.constants import TransportProtocol
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import a2a_draft, elf, otel
from elf_automations.instrumentation.a2a.cards import binding_of, card_of, skills, streams, team_attributes
from elf_automations.instrumentation.a2a.methods import Method
from elf_automations.instrumentation.a2a.propagation import grpc_context_of

__all__ = [
    "binding_of",
    "call_attributes",
    "card_of",
    "request_attributes",
    "server_binding",
    "skills",
    "streams",
    "team_attributes",
]


def call_attributes(method: Method, side: str) -> dict[str, AttributeValue]:  # noqa: ARG001
    """Return what the method alone says of a call; the row derives operation and message type from it."""
    return {a2a_draft.A2A_METHOD_NAME: method.name}


def request_attributes(request: Any) -> dict[str, AttributeValue]:
    """Return ids and size in bytes (as protobuf) of any A2A request message, as far as it has them."""
    said: dict[str, AttributeValue] = {elf.ELF_PAYLOAD_SIZE: request.ByteSize()}
    if tenant := getattr(request, "tenant", ""):
        said[a2a_draft.A2A_TENANT] = tenant
    if isinstance(request, SendMessageRequest):
        message = request.message
        task_id, context_id = message.task_id, message.context_id
        if message.message_id:
            said[a2a_draft.A2A_MESSAGE_ID] = message.message_id
        if message.reference_task_ids:
            said[a2a_draft.A2A_REFERENCE_TASK_IDS] = tuple(message.reference_task_ids)
        if request.configuration.return_immediately:
            said[elf.ELF_A2A_RETURN_IMMEDIATELY] = True
    else:
        task_id = getattr(request, "task_id", "") or getattr(request, "id", "")
        context_id = getattr(request, "context_id", "")
    if task_id:
        said[a2a_draft.A2A_TASK_ID] = task_id
    if context_id:
        said[otel.GEN_AI_CONVERSATION_ID] = context_id
    return said


def server_binding(context: ServerCallContext) -> str:
    """Return the protocol binding a request came over."""
    if grpc_context_of(context) is not None:
        return TransportProtocol.GRPC.value
    return TransportProtocol.JSONRPC.value if "request_id" in context.state else TransportProtocol.HTTP_JSON.value
