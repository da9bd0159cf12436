"""An SDK provider whose spans a test can look at, as spans and as rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from elf_automations.model import Communication, Settled, settle
from elf_automations.model.from_sdk import SdkSpans


class Spans:
    """The finished spans of a provider of its own."""

    def __init__(self, **resource: str) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(resource=Resource({"service.name": "planner", **resource}))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def finished(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def settled(self) -> Settled:
        records = SdkSpans()
        return settle([record for span in self.finished if (record := records.record(span))])

    def counted(self) -> list[Communication]:
        """Return the counted rows by time."""
        return sorted((row for row in self.settled().rows if row.counted), key=lambda row: row.timestamp)

    def clear(self) -> None:
        self._exporter.clear()


@contextmanager
def instrumented(instrumentor: BaseInstrumentor, spans: Spans) -> Iterator[Spans]:
    instrumentor.instrument(tracer_provider=spans.provider)
    try:
        yield spans
    finally:
        instrumentor.uninstrument()
