"""Span records that cross from a server's process to the test's, through a file."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from elf_automations.model import ResourceRecord, SpanRecord
from elf_automations.model.from_sdk import SdkSpans


class SpanFile(SpanExporter):
    """Appends the record of each span to a file, at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = SdkSpans()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("ab") as file:
            for span in spans:
                if record := self._records.record(span):
                    resource = ResourceRecord(dict(record.resource.attributes))
                    pickle.dump(replace(record, attributes=dict(record.attributes), resource=resource), file)
        return SpanExportResult.SUCCESS


def records_in(path: Path) -> list[SpanRecord]:
    """Return the records written so far; a half-written last one is left for the next look."""
    found: list[SpanRecord] = []
    if not path.exists():
        return found
    with path.open("rb") as file:
        while True:
            try:
                found.append(pickle.load(file))
            except (EOFError, pickle.UnpicklingError):
                return found
