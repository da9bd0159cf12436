"""Span records for tests, with fixed ids and times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from elf_automations.model import ResourceRecord, SpanKind, SpanRecord
from elf_automations.model.from_otlp_bytes import from_json

START_NS = 1_795_330_132_219_785_364
TRACE = bytes.fromhex("61a33238829efb19f623a564eb015fd6")


def span_id(number: int) -> bytes:
    return number.to_bytes(8)


def span(number: int, name: str, kind: SpanKind, attributes: dict[str, Any] | None = None, **fields: Any) -> SpanRecord:
    """Return the record of span `number`; `parent` is the parent's number."""
    parent = fields.pop("parent", None)
    fields.setdefault("trace_id", TRACE)
    fields.setdefault("start_ns", START_NS + number * 1_000_000)
    fields.setdefault("end_ns", fields["start_ns"] + 5_250_000)
    fields.setdefault("resource", ResourceRecord({"service.name": "planner"}))
    return SpanRecord(
        span_id=span_id(number),
        parent_span_id=span_id(parent) if parent is not None else None,
        name=name,
        kind=kind,
        attributes=attributes or {},
        **fields,
    )


def tool_call(number: int, kind: SpanKind, tool: str = "get_weather", /, **fields: Any) -> SpanRecord:
    attributes = {"mcp.method.name": "tools/call", "gen_ai.tool.name": tool, **fields.pop("attributes", {})}
    return span(number, f"tools/call {tool}", kind, attributes, **fields)


def recorded(path: Path) -> list[SpanRecord]:
    """Return the records of a file of OTLP JSON, as the sink reads it; all of it must be readable."""
    read = from_json(path.read_bytes())
    assert not read.refused
    return list(read.records)
