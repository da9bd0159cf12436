"""What one span says about one call, before anyone decides whether it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Final, Literal, TypeAlias, cast, get_args

import orjson

from elf_automations.conventions import elf
from elf_automations.model.entity import Entity, EntityRef
from elf_automations.model.immutable import changed, record
from elf_automations.model.records import AttributeValue, SpanRecord

Protocol: TypeAlias = Literal["mcp", "a2a", "n8n"]
Side: TypeAlias = Literal["client", "server", "internal", "manual"]
Status: TypeAlias = Literal["success", "error", "timeout", "cancelled"]

STATUSES: frozenset[str] = frozenset(get_args(Status))
SIDES: frozenset[str] = frozenset(get_args(Side))


@record(frozen=True, slots=True)
class Outcome:
    """How a call ended, from the most trustworthy witness there is."""

    status: Status
    error_message: str | None = None
    error_code: str | None = None


@record(frozen=True, slots=True, kw_only=True)
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


@record(frozen=True, slots=True, kw_only=True)
class Call:
    """One span's statement about one call; `settle` decides which statements count.

    `key` names what is called (a tool, a method): nested client spans with the same protocol, operation
    and key are layers of one call. `target_named` is False when the target is a guess that any layer knows
    better. `outcome_derived` marks a client that saw nothing wrong and did not say how the call ended: a server that
    saw it cancelled knows better; or a server that asked for input first: who goes on with it knows. `relayed` marks a
    span that passes on the call of the server span above it in its process, or goes on with it, if that is a call of
    the same. `unasked` marks a request that libraries also make on their own account.
    `unhandled` marks a server that no handler of the application answers for: what it lists it looks up by itself.
    `counts` is False for what is kept for drill-down only, whoever else saw it.
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
    outcome_derived: bool = False
    relayed: bool = False
    unasked: bool = False
    unhandled: bool = False
    counts: bool = True


def stated(call: Call) -> Call:
    """Return `call` with every explicit `elf.*` statement of its span in place of what was derived.

    Source of the rule: `conventions/elf.py`. Unknown statuses and sides are ignored, never stored.
    """
    span = call.span
    target, named = stated_target(span, lambda: call.target)
    return changed(
        call,
        operation=span.text(elf.ELF_OPERATION) or call.operation,
        side=stated_side(span, call.side),
        source=stated_source(span, lambda: call.source),
        target=target,
        target_named=call.target_named or named,
        outcome=stated_outcome(span, lambda: call.outcome),
        duration_ms=stated_duration(span, call.duration_ms),
        details=stated_details(span, call.details),
    )


def stated_side(span: SpanRecord, derived: Side) -> Side:
    """Return the side `span` states, else the `derived` one."""
    said = span.attributes.get(elf.ELF_OBSERVED_BY)
    return cast("Side", said) if isinstance(said, str) and said in SIDES else derived


def stated_source(span: SpanRecord, derive: Callable[[], EntityRef]) -> EntityRef:
    """Return the source `span` states; what it does not say is derived."""
    said = span.text(elf.ELF_SOURCE_ID)
    return EntityRef(said, span.text(elf.ELF_SOURCE_TYPE) or derive().type) if said else derive()


def stated_target(span: SpanRecord, derive: Callable[[], EntityRef]) -> tuple[EntityRef, bool]:
    """Return the target `span` states, and whether it does; what it does not say is derived."""
    said = span.text(elf.ELF_TARGET_ID)
    return (EntityRef(said, span.text(elf.ELF_TARGET_TYPE) or derive().type), True) if said else (derive(), False)


def stated_outcome(span: SpanRecord, derive: Callable[[], Outcome]) -> Outcome:
    """Return the outcome `span` states; what it does not say is derived."""
    status = span.attributes.get(elf.ELF_OUTCOME)
    if status == "success":
        return _SUCCESS
    derived = derive()
    if not isinstance(status, str) or status not in STATUSES:
        return derived
    return Outcome(
        cast("Status", status),
        span.text(elf.ELF_ERROR_MESSAGE) or derived.error_message,
        span.text(elf.ELF_ERROR_CODE) or derived.error_code,
    )


def states_outcome(span: SpanRecord) -> bool:
    """Return whether `span` says explicitly how its call ended."""
    said = span.attributes.get(elf.ELF_OUTCOME)
    return isinstance(said, str) and said in STATUSES


def stated_duration(span: SpanRecord, derived: float | None) -> float | None:
    """Return the duration in ms: of a call recorded by hand what `span` states or nothing, else the `derived` one."""
    if span.attributes.get(elf.ELF_OBSERVED_BY) != "manual":
        return derived
    said = span.number(elf.ELF_DURATION_MS)
    return float(said) if said is not None and said >= 0 else None


def stated_size(span: SpanRecord) -> int | None:
    """Return the payload size in bytes that `span` states."""
    said = span.number(elf.ELF_PAYLOAD_SIZE)
    return None if said is None else int(said)


def stated_details(span: SpanRecord, derived: Details) -> Details:
    """Return `derived` with what `span` states of it; metadata is added to."""
    attributes = span.attributes
    if _DETAILS.isdisjoint(attributes):
        # All that most calls state is a size, if anything.
        size = stated_size(span)
        return derived if size in {None, derived.payload_size_bytes} else changed(derived, payload_size_bytes=size)
    changes: dict[str, object] = {
        column: text for name, column in _TEXTS.items() if name in attributes and (text := span.text(name))
    }
    for name, column in _NUMBERS.items():
        if (number := span.number(name)) is not None:
            changes[column] = float(number) if column == "estimated_cost" else int(number)
    if capabilities := span.texts(elf.ELF_CAPABILITIES_REQUIRED):
        changes["capabilities_required"] = capabilities
    if elf.ELF_METADATA in attributes:
        changes["metadata"] = {**derived.metadata, **_stated_metadata(span)}
    return changed(derived, **changes) if changes else derived


_SUCCESS: Final = Outcome("success")
_TEXTS: Final[Mapping[str, str]] = {
    elf.ELF_TOOL_CATEGORY: "tool_category",
    elf.ELF_TASK_DESCRIPTION: "task_description",
    elf.ELF_MESSAGE_TYPE: "message_type",
    elf.ELF_WORKFLOW_ID: "workflow_id",
    elf.ELF_WORKFLOW_NAME: "workflow_name",
    elf.ELF_WORKFLOW_NODE: "workflow_node",
}
_NUMBERS: Final[Mapping[str, str]] = {
    elf.ELF_PAYLOAD_SIZE: "payload_size_bytes",
    elf.ELF_TOKENS_USED: "tokens_used",
    elf.ELF_COST_USD: "estimated_cost",
}
_DETAILS: Final = frozenset(
    {*_TEXTS, elf.ELF_TOKENS_USED, elf.ELF_COST_USD, elf.ELF_CAPABILITIES_REQUIRED, elf.ELF_METADATA}
)


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
