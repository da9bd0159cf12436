"""MCP spans: ours, the official SDK's, and any that speak the GenAI MCP convention.

Source of the fallback chains: MCP fact sheet, sections 2, 4 and 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from elf_automations.conventions import elf, otel
from elf_automations.model.call import Call, Details, Side, elapsed_ms, stated
from elf_automations.model.entity import Entity, EntityRef, identify
from elf_automations.model.noise import Noise
from elf_automations.model.outcome import span_outcome
from elf_automations.model.records import AttributeValue, SpanKind, SpanRecord

UNKNOWN_SERVER: Final = "unknown"
_NOISE: Final = Noise("mcp")

OPERATIONS: Final[Mapping[str, str]] = {
    "tools/call": "tool_call",
    "tools/list": "tool_list",
    "prompts/get": "prompt_get",
    "prompts/list": "prompt_list",
    "resources/read": "resource_read",
    "resources/list": "resource_list",
    "resources/templates/list": "resource_template_list",
    "resources/subscribe": "resource_subscribe",
    "resources/unsubscribe": "resource_unsubscribe",
    "completion/complete": "completion",
    "logging/setLevel": "logging_set_level",
    "sampling/createMessage": "sampling",
    "elicitation/create": "elicitation",
    "roots/list": "roots_list",
}
CHATTER: Final = frozenset({"initialize", "ping", "server/discover", "subscriptions/listen"})
_SDK_SCOPE: Final = "mcp-python-sdk"
_SDK_CLIENT_PREFIX: Final = "MCP send "
_SIDES: Final[Mapping[SpanKind, Side]] = {SpanKind.CLIENT: "client", SpanKind.SERVER: "server"}
_KEPT: Final[Mapping[str, str]] = {
    otel.MCP_PROTOCOL_VERSION: "protocol_version",
    otel.MCP_RESOURCE_URI: "resource_uri",
    otel.NETWORK_TRANSPORT: "transport",
    otel.JSONRPC_REQUEST_ID: "jsonrpc_request_id",
    otel.GEN_AI_PROMPT_NAME: "prompt",
}


def recognise(span: SpanRecord) -> Call | Noise | None:
    """Return the MCP call of `span`; `Noise` for handshakes, notifications and listings nobody asked for."""
    method = span.text(otel.MCP_METHOD_NAME)
    if method is None:
        return _NOISE if span.scope_name == _SDK_SCOPE else None
    if is_chatter(method) or span.attributes.get(elf.ELF_IMPLICIT) is True:
        return _NOISE
    tool = span.text(otel.GEN_AI_TOOL_NAME) or _named_in_span(span, method)
    prompt, uri = span.text(otel.GEN_AI_PROMPT_NAME), span.text(otel.MCP_RESOURCE_URI)
    side: Side = _SIDES.get(span.kind, "internal")
    here = identify(span.resource.attributes)
    call = Call(
        span=span,
        protocol="mcp",
        operation=OPERATIONS.get(method, method.replace("/", "_")),
        side=side,
        source=EntityRef("unknown", "mcp_client") if side == "server" else here,
        target=EntityRef(here.id if side == "server" else UNKNOWN_SERVER, "mcp"),
        outcome=span_outcome(span),
        duration_ms=elapsed_ms(span),
        details=Details(tool_name=tool, tokens_used=_tokens(span), metadata=_metadata(span, prompt, uri)),
        key=tool or prompt or uri or "",
    )
    return _with_server(stated(call))


def is_chatter(method: str) -> bool:
    """Return whether the MCP `method` is protocol chatter that is nobody's call."""
    return method in CHATTER or method.startswith("notifications/")


def _named_in_span(span: SpanRecord, method: str) -> str | None:
    if method != "tools/call":
        return None
    name = span.name.removeprefix(_SDK_CLIENT_PREFIX)
    return name.removeprefix("tools/call ") if name.startswith("tools/call ") else None


def _tokens(span: SpanRecord) -> int | None:
    used = [span.number(name) for name in (otel.GEN_AI_USAGE_INPUT_TOKENS, otel.GEN_AI_USAGE_OUTPUT_TOKENS)]
    known = [int(count) for count in used if count is not None]
    return sum(known) if known else None


def _metadata(span: SpanRecord, prompt: str | None, uri: str | None) -> dict[str, AttributeValue]:
    kept = {label: span.attributes[name] for name, label in _KEPT.items() if name in span.attributes}
    if prompt:
        kept["prompt"] = prompt
    if uri:
        kept["resource_uri"] = uri
    return kept


def _with_server(call: Call) -> Call:
    """Add the server as a registry entity when the span names it, not when it is only guessed."""
    span = call.span
    if span.text(elf.ELF_TARGET_ID) is None or call.side == "manual":
        return call
    server = Entity(
        entity_id=call.target.id,
        entity_type="mcp_server",
        entity_name=call.target.id,
        endpoint_url=span.text(elf.ELF_TARGET_ENDPOINT),
        capabilities=span.texts(elf.ELF_TARGET_CAPABILITIES) or (),
    )
    return replace(call, entities=(server,))
