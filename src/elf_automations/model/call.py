"""What one span says about one call, before anyone decides whether it counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, cast, get_args

import orjson

from elf_automations.conventions import elf
from elf_automations.model.entity import Entity, EntityRef
from elf_automations.model.records import AttributeValue, SpanRecord

Protocol: TypeAlias = Literal["mcp", "a2a", "n8n"]
Side: TypeAlias = Literal["client", "server", "internal", "manual"]
Status: TypeAlias = Literal["success", "error", "timeout", "cancelled"]

STATUSES: frozenset[str] = frozenset(get_args(Status))
SIDES: frozenset[str] = frozenset(get_args(Side))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended, from the most trustworthy witness there is."""

    status: Status
    error_message: str | None = None
    error_code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Details:
    """The protocol's own columns of a row; units as in the table (bytes, tokens, US dollars)."""

    tool_name: str | None = None
    tool_category: str | None = None
    task_description: str | None = None
    capabilities_required: tuple[str, ...] | None = None
    message_type: str | None = None
    workflow_id: str | None = None
    workflow_name: str | None = None
    workflow_node: str | None = None
    payload_size_bytes: int | None = None
    tokens_used: int | None = None
    estimated_cost: float | None = None
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One span's statement about one call; `settle` decides which statements count.

    `key` names what is called (a tool, a method): nested client spans with the same protocol, operation
    and key are layers of one call. `target_named` is False when the target is a guess that any layer knows
    better. `relayed` marks a span that passes on the call of the server span above it in its process, if that is a
    call of the same. `unasked` marks a request that libraries also make on their own account.
    """

    span: SpanRecord
    protocol: Protocol
    operation: str
    side: Side
    source: EntityRef
    target: EntityRef
    outcome: Outcome
    duration_ms: float | None
    details: Details = field(default_factory=Details)
    key: str = ""
    entities: tuple[Entity, ...] = ()
    target_named: bool = True
    relayed: bool = False
    unasked: bool = False


def stated(call: Call) -> Call:
    """Return `call` with every explicit `elf.*` statement of its span in place of what was derived.

    Source of the rule: `conventions/elf.py`. Unknown statuses and sides are ignored, never stored.
    """
    span = call.span
    source_id = span.text(elf.ELF_SOURCE_ID)
    target_id = span.text(elf.ELF_TARGET_ID)
    side = span.text(elf.ELF_OBSERVED_BY)
    return replace(
        call,
        operation=span.text(elf.ELF_OPERATION) or call.operation,
        side=cast("Side", side) if side in SIDES else call.side,
        source=EntityRef(source_id, span.text(elf.ELF_SOURCE_TYPE) or call.source.type) if source_id else call.source,
        target=EntityRef(target_id, span.text(elf.ELF_TARGET_TYPE) or call.target.type) if target_id else call.target,
        target_named=call.target_named or bool(target_id),
        outcome=_stated_outcome(span, call.outcome),
        duration_ms=_stated_duration(span, call.duration_ms),
        # Most calls state none of them.
        details=call.details if _DETAILS.isdisjoint(span.attributes) else _stated_details(span, call.details),
    )


_DETAILS: Final = frozenset(
    {
        elf.ELF_TOOL_CATEGORY,
        elf.ELF_TASK_DESCRIPTION,
        elf.ELF_CAPABILITIES_REQUIRED,
        elf.ELF_MESSAGE_TYPE,
        elf.ELF_WORKFLOW_ID,
        elf.ELF_WORKFLOW_NAME,
        elf.ELF_WORKFLOW_NODE,
        elf.ELF_PAYLOAD_SIZE,
        elf.ELF_TOKENS_USED,
        elf.ELF_COST_USD,
        elf.ELF_METADATA,
    }
)


def _stated_details(span: SpanRecord, details: Details) -> Details:
    size, tokens = span.number(elf.ELF_PAYLOAD_SIZE), span.number(elf.ELF_TOKENS_USED)
    cost = span.number(elf.ELF_COST_USD)
    return replace(
        details,
        tool_category=span.text(elf.ELF_TOOL_CATEGORY) or details.tool_category,
        task_description=span.text(elf.ELF_TASK_DESCRIPTION) or details.task_description,
        capabilities_required=span.texts(elf.ELF_CAPABILITIES_REQUIRED) or details.capabilities_required,
        message_type=span.text(elf.ELF_MESSAGE_TYPE) or details.message_type,
        workflow_id=span.text(elf.ELF_WORKFLOW_ID) or details.workflow_id,
        workflow_name=span.text(elf.ELF_WORKFLOW_NAME) or details.workflow_name,
        workflow_node=span.text(elf.ELF_WORKFLOW_NODE) or details.workflow_node,
        payload_size_bytes=int(size) if size is not None else details.payload_size_bytes,
        tokens_used=int(tokens) if tokens is not None else details.tokens_used,
        estimated_cost=float(cost) if cost is not None else details.estimated_cost,
        metadata={**details.metadata, **_stated_metadata(span)},
    )


def _stated_outcome(span: SpanRecord, derived: Outcome) -> Outcome:
    status = span.text(elf.ELF_OUTCOME)
    if status not in STATUSES:
        return derived
    said = cast("Status", status)
    if said == "success":
        return Outcome("success")
    return Outcome(
        said,
        span.text(elf.ELF_ERROR_MESSAGE) or derived.error_message,
        span.text(elf.ELF_ERROR_CODE) or derived.error_code,
    )


def _stated_duration(span: SpanRecord, derived: float | None) -> float | None:
    if span.text(elf.ELF_OBSERVED_BY) != "manual":
        return derived
    said = span.number(elf.ELF_DURATION_MS)
    return float(said) if said is not None and said >= 0 else None


def _stated_metadata(span: SpanRecord) -> Mapping[str, AttributeValue]:
    said = span.attributes.get(elf.ELF_METADATA)
    if not isinstance(said, str):
        return {}
    try:
        parsed = orjson.loads(said)
    except orjson.JSONDecodeError:
        return {"metadata": said}
    return cast("Mapping[str, AttributeValue]", parsed) if isinstance(parsed, dict) else {"metadata": parsed}


def elapsed_ms(span: SpanRecord) -> float | None:
    """Return the span's duration in ms, None when it never ended or ended before it began."""
    if span.end_ns is None or span.end_ns < span.start_ns:
        return None
    return (span.end_ns - span.start_ns) / 1_000_000
