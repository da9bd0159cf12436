"""Spans of one batch into rows; a span that cannot be mapped costs itself and never its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from elf_automations.model import AttributeValue, Communication, Entity, SpanRecord, settle
from elf_automations.model.from_sdk import SdkSpans

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, slots=True)
class MappedBatch:
    """The rows and entities of a batch, and how many of its spans gave none: no call, delivered twice, or broken."""

    rows: tuple[Communication, ...]
    entities: tuple[Entity, ...]
    ignored: int
    repeated: int
    broken: int
    first_fault: Exception | None


class SpanMapping:
    """Maps batches of SDK spans; keeps each resource's record between them.

    `resource_attributes` are those of this process, for resources that do not state them.
    """

    def __init__(self, resource_attributes: Mapping[str, AttributeValue]) -> None:
        self._sdk = SdkSpans(resource_attributes)

    def map(self, spans: Sequence[ReadableSpan]) -> MappedBatch:
        """Return what `spans` say; raises nothing for any span."""
        faults: list[Exception] = []
        records: list[SpanRecord] = []
        for span in spans:
            try:
                record = self._sdk.record(span)
            except Exception as fault:
                faults.append(fault)
            else:
                if record is not None:
                    records.append(record)
        try:
            settled = settle(records)
        except Exception:
            records = _mappable(records, faults)
            settled = settle(records)
        given = Counter((record.trace_id.hex(), record.span_id.hex()) for record in records)
        repeated = sum(given[row.trace_id, row.span_id] - 1 for row in settled.rows)
        return MappedBatch(
            rows=settled.rows,
            entities=settled.entities,
            ignored=len(spans) - len(faults) - len(settled.rows) - repeated,
            repeated=repeated,
            broken=len(faults),
            first_fault=faults[0] if faults else None,
        )


def _mappable(records: Sequence[SpanRecord], faults: list[Exception]) -> list[SpanRecord]:
    """Return the records that can be settled alone; add the faults of the others to `faults`."""
    good: list[SpanRecord] = []
    for record in records:
        try:
            settle([record])
        except Exception as fault:
            faults.append(fault)
        else:
            good.append(record)
    return good
