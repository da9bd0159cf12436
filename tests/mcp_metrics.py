"""What an MCPInstrumentor of a test measures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from elf_automations.instrumentation.mcp import MCPInstrumentor
from tracing import Spans


@contextmanager
def measured() -> Iterator[InMemoryMetricReader]:
    """Instrument MCP for the body; yield what reads its metrics."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    instrumentor = MCPInstrumentor()
    instrumentor.instrument(tracer_provider=Spans().provider, meter_provider=provider)
    yield reader
    instrumentor.uninstrument()
    provider.shutdown()


def points(reader: InMemoryMetricReader) -> dict[str, list[Any]]:
    """Return the data points of the metrics in seconds, by the metric's name."""
    data = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.unit == "s"
    }
