"""Batches of SDK spans into rows; a span that cannot be mapped costs itself and never its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from elf_automations.model import AttributeValue, Communication, Entity, SpanRecord, map_batch
from elf_automations.model.from_sdk import SdkSpans
from elf_automations.model.n8n_nodes import NodeScope

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


@dataclass(frozen=True, slots=True)
class MappedSpans:
    """The rows and entities of a batch, and how many of its spans gave none: no call, delivered twice, or broken."""

    rows: tuple[Communication, ...]
    entities: tuple[Entity, ...]
    ignored: int
    repeated: int
    broken: int
    first_fault: Exception | None


class SpanMapping:
    """Maps batches of SDK spans; keeps each resource's record between them.

    `resource_attributes` are those of this process, for resources that do not state them; `n8n_nodes` says which steps
    of n8n are rows, `n8n_exports` whether its own export is.
    """

    def __init__(
        self,
        resource_attributes: Mapping[str, AttributeValue],
        n8n_nodes: NodeScope = "external",
        *,
        n8n_exports: bool = True,
    ) -> None:
        self._sdk = SdkSpans(resource_attributes)
        self._map = partial(map_batch, n8n_nodes=n8n_nodes, n8n_exports=n8n_exports)

    def map(self, spans: Sequence[ReadableSpan]) -> MappedSpans:
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
        mapped = self._map(records)
        faults += [fault.error for fault in mapped.faults]
        return MappedSpans(
            rows=mapped.rows,
            entities=mapped.entities,
            ignored=len(spans) - len(faults) - len(mapped.rows) - mapped.repeated,
            repeated=mapped.repeated,
            broken=len(faults),
            first_fault=faults[0] if faults else None,
        )
