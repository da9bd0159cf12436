"""Whose spans a benchmark of MCP compares: nobody's, the SDK's own, ours, Traceloop's and logfire's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracer

MAJOR = int(version("mcp").partition(".")[0])


class Nowhere(SpanExporter):
    """Counts the spans and forgets them."""

    def __init__(self) -> None:
        self.spans = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans += len(spans)
        return SpanExportResult.SUCCESS


class Pipeline:
    """A provider with a batch processor and an exporter to nowhere."""

    def __init__(self) -> None:
        self.exporter = Nowhere()
        self.processor = BatchSpanProcessor(self.exporter, max_queue_size=65_536)
        self.provider = TracerProvider(resource=Resource({"service.name": "bench"}), shutdown_on_exit=False)
        self.provider.add_span_processor(self.processor)

    def close(self) -> None:
        self.provider.shutdown()


Variant = Callable[[Pipeline], AbstractContextManager[None]]


@contextmanager
def bare(_: Pipeline) -> Iterator[None]:
    """Nobody traces."""
    if MAJOR < 2:
        yield
        return
    with _native_tracer(NoOpTracer()):
        yield


@contextmanager
def native(pipeline: Pipeline) -> Iterator[None]:
    """The SDK's own spans (2.x)."""
    with _native_tracer(pipeline.provider.get_tracer("mcp-python-sdk")):
        yield


@contextmanager
def ours(pipeline: Pipeline) -> Iterator[None]:
    """`MCPInstrumentor`."""
    # Here, since it imports the SDK: Traceloop's wraps modules at their first import.
    from elf_automations.instrumentation.mcp import MCPInstrumentor

    instrumentor = MCPInstrumentor()
    instrumentor.instrument(tracer_provider=pipeline.provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()


@contextmanager
def traceloop(pipeline: Pipeline) -> Iterator[None]:
    """`opentelemetry-instrumentation-mcp`."""
    from opentelemetry.instrumentation.mcp import McpInstrumentor

    instrumentor = McpInstrumentor()
    with _put_back():
        instrumentor.instrument(tracer_provider=pipeline.provider)
        try:
            yield
        finally:
            instrumentor.uninstrument()


@contextmanager
def logfire(pipeline: Pipeline) -> Iterator[None]:
    """`logfire.instrument_mcp()`."""
    import logfire as fire

    instance = fire.configure(
        local=True,
        send_to_logfire=False,
        console=False,
        metrics=False,
        inspect_arguments=False,
        additional_span_processors=[pipeline.processor],
    )
    with _put_back():
        instance.instrument_mcp()
        yield


@contextmanager
def _native_tracer(tracer: Any) -> Iterator[None]:
    from mcp.shared import _otel

    before, _otel._tracer = _otel._tracer, tracer
    try:
        yield
    finally:
        _otel._tracer = before


@contextmanager
def _put_back() -> Iterator[None]:
    """Undo what an instrumentation without a complete `uninstrument` patched in the SDK."""
    owners = [module for name, module in sys.modules.items() if name == "mcp" or name.startswith("mcp.")]
    owners += [item for owner in owners for item in vars(owner).values() if isinstance(item, type)]
    before = [(owner, dict(vars(owner))) for owner in owners if getattr(owner, "__module__", "mcp").startswith("mcp")]
    try:
        yield
    finally:
        for owner, attributes in before:
            for name, value in attributes.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)


def variants() -> dict[str, Variant]:
    """Return what can be compared here."""
    if MAJOR >= 2:
        return {"bare": bare, "native": native, "ours": ours}
    found: dict[str, Variant] = {"bare": bare, "ours": ours}
    if find_spec("opentelemetry.instrumentation.mcp"):
        found["traceloop"] = traceloop
    if find_spec("logfire"):
        found["logfire"] = logfire
    return found
