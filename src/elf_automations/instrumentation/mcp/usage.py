"""Tokens and model that a tool's result tells of itself, in `_meta` or in its structured content.

There is no standard place for them; read are the shapes in use: `gen_ai.usage.*` keys, a `usage` object with
`input_tokens` and `output_tokens` (or `prompt_tokens` and `completion_tokens`, or the same in camel case), and a
total under `tokens_used` or `total_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from elf_automations.conventions import elf, otel
from elf_automations.instrumentation.mcp.payload import field

_INPUT: Final = (otel.GEN_AI_USAGE_INPUT_TOKENS, "input_tokens", "inputTokens", "prompt_tokens", "promptTokens")
_OUTPUT: Final = (
    otel.GEN_AI_USAGE_OUTPUT_TOKENS,
    "output_tokens",
    "outputTokens",
    "completion_tokens",
    "completionTokens",
)
_TOTAL: Final = ("tokens_used", "tokensUsed", "total_tokens", "totalTokens")
_NAMES: Final = frozenset(("usage", *_INPUT, *_OUTPUT, *_TOTAL))
_NOTHING: Final[Mapping[str, int | str]] = {}
_MODEL: Final = ("gen_ai.response.model", "model")


def usage_attributes(result: object) -> Mapping[str, int | str]:
    """Return the usage attributes that a result tells of; empty for one that tells nothing."""
    for place in (field(result, "_meta", "meta"), field(result, "structuredContent", "structured_content")):
        if isinstance(place, dict):
            told = cast("dict[str, Any]", place)
            if not _NAMES.isdisjoint(told) and (said := _said(told)):
                return said
    return _NOTHING


def _said(place: Mapping[str, Any]) -> dict[str, int | str]:
    said: dict[str, int | str] = {}
    inner = place.get("usage")
    usage = cast("Mapping[str, Any]", inner) if isinstance(inner, dict) else place
    sent, received, total = _count(usage, _INPUT), _count(usage, _OUTPUT), _count(usage, _TOTAL)
    if sent is not None or received is not None:
        if sent is not None:
            said[otel.GEN_AI_USAGE_INPUT_TOKENS] = sent
        if received is not None:
            said[otel.GEN_AI_USAGE_OUTPUT_TOKENS] = received
    elif total is not None:
        said[elf.ELF_TOKENS_USED] = total
    if said:
        model = next((place[name] for name in _MODEL if isinstance(place.get(name), str)), None)
        if model:
            said[otel.GEN_AI_RESPONSE_MODEL] = model
    return said


def _count(usage: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = usage.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
