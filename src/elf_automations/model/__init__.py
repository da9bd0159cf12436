"""The pure core: span → `SpanRecord` → `Call` → `Communication`, and the `Entity` it names. No I/O."""

from __future__ import annotations

from elf_automations.model.batch import Fault, MappedBatch, map_batch
from elf_automations.model.call import Call, Details, Outcome, Protocol, Side, Status
from elf_automations.model.communication import Communication, communication, row_id
from elf_automations.model.entity import ENTITY_TYPES, Entity, EntityRef, entity, identify
from elf_automations.model.noise import Noise
from elf_automations.model.protocols import recognise
from elf_automations.model.records import (
    AttributeValue,
    ExceptionRecord,
    LinkRecord,
    ResourceRecord,
    SpanKind,
    SpanRecord,
    StatusCode,
)
from elf_automations.model.settle import Settled, settle

__all__ = [
    "ENTITY_TYPES",
    "AttributeValue",
    "Call",
    "Communication",
    "Details",
    "Entity",
    "EntityRef",
    "ExceptionRecord",
    "Fault",
    "LinkRecord",
    "MappedBatch",
    "Noise",
    "Outcome",
    "Protocol",
    "ResourceRecord",
    "Settled",
    "Side",
    "SpanKind",
    "SpanRecord",
    "Status",
    "StatusCode",
    "communication",
    "entity",
    "identify",
    "map_batch",
    "recognise",
    "row_id",
    "settle",
]
