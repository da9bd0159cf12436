"""Span name and attributes of an MCP request, by the GenAI MCP semantic convention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import orjson
from opentelemetry.util.types import AttributeValue
from pydantic import BaseModel

from elf_automations.conventions import elf, otel

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
    attributes: dict[str, AttributeValue] = {otel.MCP_METHOD_NAME: method}
    if method == "tools/call":
        attributes[otel.GEN_AI_OPERATION_NAME] = "execute_tool"
    target = None
    naming = _NAMED_BY.get(method)
    if naming is not None and (target := _field(params, "name")) is not None:
        attributes[naming] = target
    if method in _URI_METHODS and (uri := _field(params, "uri")) is not None:
        attributes[otel.MCP_RESOURCE_URI] = uri
    size = payload_size(_value(params, "arguments"))
    if size is not None:
        attributes[elf.ELF_PAYLOAD_SIZE] = size
    return f"{method} {target}" if target else method, attributes


def payload_size(arguments: object) -> int | None:
    """Return the size in bytes of call arguments as JSON, None when there are none or they are no JSON."""
    if not arguments:
        return None
    try:
        return len(orjson.dumps(arguments, default=str))
    except (TypeError, ValueError):
        return None


def _value(params: object, name: str) -> object:
    if isinstance(params, Mapping):
        return cast("Mapping[str, Any]", params).get(name)
    return getattr(params, name, None) if isinstance(params, BaseModel) else None


def _field(params: object, name: str) -> str | None:
    value = _value(params, name)
    return str(value) if value is not None and str(value) else None
