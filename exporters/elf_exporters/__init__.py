"""The in-process way from OpenTelemetry spans to rows: an SDK span exporter, and a processor that feeds it directly."""

from __future__ import annotations

from elf_exporters.books import Books
from elf_exporters.exporter import CommunicationTelemetryExporter, live_exporters
from elf_exporters.processor import CommunicationSpanProcessor

__all__ = ["Books", "CommunicationSpanProcessor", "CommunicationTelemetryExporter", "live_exporters"]
