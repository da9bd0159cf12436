"""A process without telemetry, for as long as a test lasts, whatever ran before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.util._once import Once

from elf_automations import pipeline
from elf_automations.instrumentation.identity import set_process_entity
from elf_exporters import exporter


@contextmanager
def fresh_pipeline() -> Iterator[None]:
    """Start without provider and pipeline; afterwards shut down what was set up, and forget it."""
    before = trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE
    state = dict(pipeline._state)
    propagator = propagate.get_global_textmap()
    announced = exporter._announced.is_set()
    exporter._announced.clear()
    trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
    pipeline._state.clear()
    try:
        yield
    finally:
        telemetry = pipeline._state.get("telemetry")
        if telemetry is not None:
            telemetry.shutdown()
        for name in ("MCPInstrumentor", "A2AInstrumentor"):
            import elf_automations

            instrumentor = getattr(elf_automations, name)()
            if instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.uninstrument()
        set_process_entity(None)
        propagate.set_global_textmap(propagator)
        pipeline._state.clear()
        pipeline._state.update(state)
        if announced:
            exporter._announced.set()
        trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = before
