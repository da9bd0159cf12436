"""Span name and attributes of an MCP request, by the GenAI MCP semantic convention."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.mcp.payload import field, size, text

IMPLICIT_BAGGAGE: Final = elf.ELF_IMPLICIT
_NAMED_BY: Final[Mapping[str, str]] = {
    "tools/call": otel.GEN_AI_TOOL_NAME,
    "prompts/get": otel.GEN_AI_PROMPT_NAME,
}
_URI_METHODS: Final = frozenset({"resources/read", "resources/subscribe", "resources/unsubscribe"})


def request_attributes(method: str, params: object) -> tuple[str, dict[str, AttributeValue]]:
    """Return span name and attributes of a request; `params` is the typed model or the raw mapping, or None.

    The name is `{method} {tool or prompt}`; arguments are content and stay out, only their size is kept.
    """
    target = text(params, "name") if method in _NAMED_BY else None
    name, known = _named(method, target)
    attributes = dict(known)
    if method in _URI_METHODS and (uri := text(params, "uri")) is not None:
        attributes[otel.MCP_RESOURCE_URI] = uri
    sent = size(field(params, "arguments"))
    if sent is not None:
        attributes[elf.ELF_PAYLOAD_SIZE] = sent
    return name, attributes


@lru_cache(maxsize=512)
def _named(method: str, target: str | None) -> tuple[str, Mapping[str, AttributeValue]]:
    """Return the span name of a request for `target`, and the attributes that are the same in each of them."""
    attributes: dict[str, AttributeValue] = {otel.MCP_METHOD_NAME: method}
    if method == "tools/call":
        attributes[otel.GEN_AI_OPERATION_NAME] = "execute_tool"
    if target is None:
        return method, attributes
    attributes[_NAMED_BY[method]] = target
    return f"{method} {target}", attributes
