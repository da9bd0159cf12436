"""The row of `communication_telemetry`, and how a settled call becomes one."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import attrgetter
from typing import Final

from elf_automations.conventions import elf, otel
from elf_automations.model.call import Call, Outcome, Protocol, Side, Status
from elf_automations.model.immutable import changed, record
from elf_automations.model.records import AttributeValue
from elf_automations.model.redact import bounded, bounded_metadata, safe_text

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BIGINT_MAX = 2**63 - 1
_MAX_DOLLARS = 1_000_000
# What a client that says nothing of the end may yet learn of it, or has learnt from its server.
_UNSEEN: Final = frozenset({"success", "cancelled"})
_ID_LIMIT, _NAME_LIMIT, _TEXT_LIMIT = 255, 500, 4000


@record(frozen=True, slots=True, kw_only=True)
class Communication:
    """One row; fields are the table's columns in their order, `created_at` left to the database."""

    id: uuid.UUID
    timestamp: datetime
    protocol: Protocol
    source_id: str
    source_type: str
    target_id: str
    target_type: str
    operation: str
    duration_ms: float | None
    status: Status
    tool_name: str | None
    tool_category: str | None
    task_description: str | None
    capabilities_required: list[str] | None
    message_type: str | None
    workflow_id: str | None
    workflow_name: str | None
    workflow_node: str | None
    payload_size_bytes: int | None
    tokens_used: int | None
    estimated_cost: Decimal | None
    error_message: str | None
    error_code: str | None
    correlation_id: str | None
    parent_correlation_id: str | None
    metadata: Mapping[str, AttributeValue]
    trace_id: str
    span_id: str
    parent_span_id: str | None
    observed_by: Side
    counted: bool
    service_name: str | None
    service_instance_id: str | None


def row_id(trace_id: bytes, span_id: bytes) -> uuid.UUID:
    """Return the deterministic row id `trace_id[8:16] ‖ span_id`, so that re-delivery is a no-op."""
    return uuid.UUID(bytes=trace_id[8:16] + span_id)


def instant(ns: int) -> datetime:
    """Return ns since 1970 as UTC, truncated to µs (not rounded: every delivery must give the same µs)."""
    return _EPOCH + timedelta(microseconds=ns // 1000)


def communication(call: Call, *, counted: bool, outcome: Outcome) -> Communication:
    """Return the row of `call` with the settled `outcome`: redacted, bounded, free of what Postgres refuses."""
    span, details, resource = call.span, call.details, call.span.resource.attributes
    trace_id, span_id, parent = span.trace_id.hex(), span.span_id.hex(), span.caller_span_id
    parent_span_id = parent.hex() if parent else None
    row = Communication(
        id=row_id(span.trace_id, span.span_id),
        timestamp=instant(span.start_ns),
        protocol=call.protocol,
        source_id=call.source.id,
        source_type=call.source.type,
        target_id=call.target.id,
        target_type=call.target.type,
        operation=call.operation,
        duration_ms=call.duration_ms,
        status=outcome.status,
        tool_name=details.tool_name or None,
        tool_category=details.tool_category or None,
        task_description=_prose(details.task_description),
        capabilities_required=_list(details.capabilities_required),
        message_type=details.message_type or None,
        workflow_id=details.workflow_id or None,
        workflow_name=details.workflow_name or None,
        workflow_node=details.workflow_node or None,
        payload_size_bytes=_count(details.payload_size_bytes),
        tokens_used=_count(details.tokens_used),
        estimated_cost=_dollars(details.estimated_cost),
        error_message=_prose(outcome.error_message),
        error_code=outcome.error_code or None,
        correlation_id=span.text(elf.ELF_CORRELATION_ID) or trace_id,
        parent_correlation_id=span.text(elf.ELF_PARENT_CORRELATION_ID) or parent_span_id,
        metadata=bounded_metadata(_metadata(call, outcome)),
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent_span_id,
        observed_by=call.side,
        counted=counted,
        service_name=_string(resource.get(otel.SERVICE_NAME)),
        service_instance_id=_string(resource.get(otel.SERVICE_INSTANCE_ID)),
    )
    # One look at all names together: nearly always they are plain and short.
    names = "".join(filter(None, _names(row)))
    return row if len(names) <= _ID_LIMIT and names.isascii() and "\x00" not in names else _bounded(row)


def _metadata(call: Call, outcome: Outcome) -> Mapping[str, AttributeValue]:
    """Return the metadata of a call, with what nobody said of it: settling in SQL takes that from whoever knows."""
    said = call.details.metadata
    if not call.target_named and call.target.id != "unknown":
        said = {**said, "target_guessed": True}
    return {**said, "outcome_derived": True} if call.outcome_derived and outcome.status in _UNSEEN else said


def _bounded(row: Communication) -> Communication:
    values = zip(_LIMITS.items(), _names(row), strict=True)
    return changed(row, **{name: bounded(value, limit) if value else value for (name, limit), value in values})


_LIMITS: Final = {
    "source_id": _ID_LIMIT,
    "source_type": _ID_LIMIT,
    "target_id": _ID_LIMIT,
    "target_type": _ID_LIMIT,
    "operation": _ID_LIMIT,
    "tool_name": _ID_LIMIT,
    "tool_category": _ID_LIMIT,
    "message_type": _ID_LIMIT,
    "workflow_id": _ID_LIMIT,
    "workflow_name": _NAME_LIMIT,
    "workflow_node": _NAME_LIMIT,
    "error_code": _ID_LIMIT,
    "correlation_id": _ID_LIMIT,
    "parent_correlation_id": _ID_LIMIT,
    "service_name": _ID_LIMIT,
    "service_instance_id": _ID_LIMIT,
}
_names: Final = attrgetter(*_LIMITS)


def _string(value: AttributeValue) -> str | None:
    return value or None if isinstance(value, str) else None


def _prose(value: str | None) -> str | None:
    return safe_text(value, _TEXT_LIMIT) if value else None


def _list(values: tuple[str, ...] | None) -> list[str] | None:
    return [bounded(value, _ID_LIMIT) for value in values[:100]] if values else None


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value <= _BIGINT_MAX else None


def _dollars(value: float | None) -> Decimal | None:
    if value is None or not math.isfinite(value) or not 0 <= value < _MAX_DOLLARS:
        return None
    return Decimal(str(round(value, 6)))
