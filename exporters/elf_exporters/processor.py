"""`CommunicationSpanProcessor`: finished spans straight into the exporter's queue, no second queue in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import SpanProcessor

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from elf_exporters.exporter import CommunicationTelemetryExporter


class CommunicationSpanProcessor(SpanProcessor):
    """Hands every sampled span to `exporter` as it ends; add it to any `TracerProvider`."""

    def __init__(self, exporter: CommunicationTelemetryExporter) -> None:
        self.exporter = exporter

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span; returns at once whatever the database does."""
        context = span.context
        if context is not None and context.trace_flags.sampled:
            self.exporter.export((span,))

    def shutdown(self) -> None:
        """Flush and end the exporter within its shutdown time."""
        self.exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait for the exporter; see `CommunicationTelemetryExporter.force_flush`."""
        return self.exporter.force_flush(timeout_millis)
