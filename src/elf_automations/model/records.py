"""What arrives: one finished span, and who emitted it, free of any SDK or wire type."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from elf_automations.conventions.elf import ELF_CALLER_SPAN_ID
from elf_automations.model.immutable import record

_SPAN_ID = re.compile("[0-9a-f]{16}")

AttributeValue: TypeAlias = (
    "str | bool | int | float | bytes | Sequence[AttributeValue] | Mapping[str, AttributeValue] | None"
)
Attributes: TypeAlias = Mapping[str, AttributeValue]


class SpanKind(IntEnum):
    """Span kinds with OTLP's numbers."""

    UNSPECIFIED = 0
    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class StatusCode(IntEnum):
    """Span status codes with OTLP's numbers."""

    UNSET = 0
    OK = 1
    ERROR = 2


@dataclass(frozen=True, slots=True)
class ResourceRecord:
    """Who emitted: the resource attributes of one process, shared by all spans of its batch."""

    attributes: Attributes = field(default_factory=dict[str, AttributeValue])


@dataclass(frozen=True, slots=True)
class ExceptionRecord:
    """One exception event of a span."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """A link to another span, ids as bytes (16 and 8)."""

    trace_id: bytes
    span_id: bytes


@record(frozen=True, slots=True, kw_only=True)
class SpanRecord:
    """One finished span: ids as bytes (16, 8, 8), times in ns since 1970, `end_ns` None when it never ended.

    `trace_state` is the W3C header as it was, unparsed.
    """

    trace_id: bytes
    span_id: bytes
    parent_span_id: bytes | None = None
    trace_state: str = ""
    name: str
    kind: SpanKind = SpanKind.INTERNAL
    start_ns: int
    end_ns: int | None
    status: StatusCode = StatusCode.UNSET
    status_message: str = ""
    attributes: Attributes = field(default_factory=dict[str, AttributeValue])
    exceptions: tuple[ExceptionRecord, ...] = ()
    links: tuple[LinkRecord, ...] = ()
    scope_name: str = ""
    scope_version: str = ""
    resource: ResourceRecord = field(default_factory=ResourceRecord)

    @property
    def caller_span_id(self) -> bytes | None:
        """The span of the call this one belongs under: as the caller said (`elf.caller.span_id`), else the parent."""
        said = self.attributes.get(ELF_CALLER_SPAN_ID)
        if said is not None and isinstance(said, str) and _SPAN_ID.fullmatch(said):
            return bytes.fromhex(said)
        return self.parent_span_id

    def text(self, *names: str) -> str | None:
        """Return the first non-empty string attribute among `names`, numbers spelled out; None when all miss."""
        # Asked a dozen times for each span: the common answers come without another call.
        for name in names:
            value = self.attributes.get(name)
            if value is not None:
                return value if value and type(value) is str else first_text(self.attributes, *names)
        return None

    def number(self, name: str) -> int | float | None:
        """Return a finite numeric attribute, None for anything else (booleans are not numbers here)."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def texts(self, name: str) -> tuple[str, ...] | None:
        """Return a list attribute as strings, None when it is absent or no list."""
        value = self.attributes.get(name)
        if value is None or not isinstance(value, Sequence) or isinstance(value, str | bytes):
            return None
        return tuple(item for item in value if isinstance(item, str))


def first_text(attributes: Attributes, *names: str) -> str | None:
    """Return the first non-empty textual value among the attributes `names`; None when all miss."""
    for name in names:
        value = attributes.get(name)
        if value is None or value == "" or isinstance(value, bool):
            continue
        if isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return str(value)
    return None
