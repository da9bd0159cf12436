"""A batch of span records into rows; a span that cannot be mapped costs itself and never its neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from elf_automations.model.communication import Communication
from elf_automations.model.entity import Entity
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.model.protocols.n8n import NATIVE_SCOPE
from elf_automations.model.records import SpanRecord
from elf_automations.model.settle import settle


@dataclass(frozen=True, slots=True)
class Fault:
    """A span that has no row because mapping it failed, and how."""

    span: SpanRecord
    error: Exception


@dataclass(frozen=True, slots=True)
class MappedBatch:
    """The rows and entities of a batch, and what became of the spans that gave none.

    `ignored` are no call of any protocol, `repeated` were in the batch more than once, `faults` could not be mapped:
    rows, ignored, repeated and faults add up to the batch.
    """

    rows: tuple[Communication, ...]
    entities: tuple[Entity, ...]
    ignored: int
    repeated: int
    faults: tuple[Fault, ...]


def map_batch(
    records: Sequence[SpanRecord], n8n_nodes: NodeScope = "external", *, n8n_exports: bool = True
) -> MappedBatch:
    """Return what `records` say together; raises nothing for any span.

    Of n8n it takes the steps that `n8n_nodes` says, and nothing of its own export unless `n8n_exports`: executions that
    come from hooks or from polling as well would count twice.
    """
    faults: tuple[Fault, ...] = ()
    wanted = records if n8n_exports else [record for record in records if record.scope_name != NATIVE_SCOPE]
    good = wanted
    try:
        settled = settle(good, n8n_nodes)
    except Exception:
        faults = tuple(_faults(wanted))
        broken = {id(fault.span) for fault in faults}
        good = [record for record in wanted if id(record) not in broken]
        settled = settle(good, n8n_nodes)
    repeated = _repeated(good, settled.rows)
    return MappedBatch(
        rows=settled.rows,
        entities=settled.entities,
        ignored=len(records) - len(faults) - len(settled.rows) - repeated,
        repeated=repeated,
        faults=faults,
    )


def _repeated(records: Sequence[SpanRecord], rows: Sequence[Communication]) -> int:
    """Return how often spans of `rows` were given again."""
    if len({(record.trace_id, record.span_id) for record in records}) == len(records):
        return 0
    given = Counter((record.trace_id.hex(), record.span_id.hex()) for record in records)
    return sum(given[row.trace_id, row.span_id] - 1 for row in rows)


def _faults(records: Sequence[SpanRecord]) -> list[Fault]:
    """Return the records that cannot be settled even alone."""
    faults: list[Fault] = []
    for record in records:
        try:
            settle([record])
        except Exception as error:
            faults.append(Fault(record, error))
    return faults
