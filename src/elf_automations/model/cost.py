"""What a call used and cost, from the attributes of its own span: tokens, and US dollars.

Only the span itself is read. A model's calls below it have spans of their own, and the layers of one call repeat
the same usage, so nothing is ever added up here or in `settle`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from elf_automations.conventions import otel
from elf_automations.model.records import SpanRecord

# AgentGateway knows what it paid; it writes the number as text.
_STATED: Final = ("agw.ai.usage.cost.total",)


def tokens_used(span: SpanRecord) -> int | None:
    """Return the input and output tokens of the span together, None when it states neither.

    By the GenAI convention the input includes cached tokens and the output includes reasoning.
    """
    sent, received = _count(span, otel.GEN_AI_USAGE_INPUT_TOKENS), _count(span, otel.GEN_AI_USAGE_OUTPUT_TOKENS)
    return None if sent is None and received is None else (sent or 0) + (received or 0)


def estimated_cost(span: SpanRecord, tokens: int | None) -> float | None:
    """Return what the span's usage cost in US dollars: as stated, else by the model's list price on that day.

    `tokens` is what `tokens_used` says. None when nothing is stated and the usage, the model or its price is unknown.
    """
    for name in _STATED:
        stated = _dollars(span.text(name))
        if stated is not None:
            return stated
    model = span.text(otel.GEN_AI_RESPONSE_MODEL, otel.GEN_AI_REQUEST_MODEL) if tokens is not None else None
    if model is None:
        return None
    return _list_price(span, model)


def _list_price(span: SpanRecord, model: str) -> float | None:
    # Bundled prices only: nothing is fetched and no updater runs. Imported late, for few calls name a model.
    from genai_prices import Usage, calc_price  # noqa: PLC0415

    usage = Usage(
        input_tokens=_count(span, otel.GEN_AI_USAGE_INPUT_TOKENS) or 0,
        output_tokens=_count(span, otel.GEN_AI_USAGE_OUTPUT_TOKENS) or 0,
        cache_read_tokens=_count(span, otel.GEN_AI_USAGE_CACHE_READ_INPUT_TOKENS),
        cache_write_tokens=_count(span, otel.GEN_AI_USAGE_CACHE_CREATION_INPUT_TOKENS),
    )
    began = datetime.fromtimestamp(span.start_ns // 1_000_000_000, tz=UTC)
    # A provider spelled in a way the price list does not know must not hide a model it does know.
    for provider in dict.fromkeys((span.text(otel.GEN_AI_PROVIDER_NAME), None)):
        try:
            price = calc_price(usage, model, provider_id=provider, genai_request_timestamp=began)
        except Exception:  # noqa: S112  (an unknown model is no fault, and a price list's fault must not cost the row)
            continue
        return float(price.total_price)
    return None


def _count(span: SpanRecord, name: str) -> int | None:
    value = span.number(name)
    return int(value) if value is not None and 0 <= value < 2**63 else None


def _dollars(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
