"""What tracing costs a call of a tool: CPU time of the process, client and server in it.

Run by hand: `python tests/benchmarks/mcp_overhead.py [--over http] [--rounds 12] [--chunks 8]`, with mcp 2.x or, in the
environment `mcp-1` of `make test-matrix`, with mcp 1.x; there Traceloop's instrumentation and logfire take part.
All variants take turns in one process, so that only ratios count. Other work on the machine only ever adds to a chunk
of calls, so the lower quartile of the chunks is compared. Every variant that makes spans ends them in a batch processor
whose exporter throws them away.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import random
import sys
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median, quantiles
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracer

from elf_automations.demo.serving import served
from elf_automations.instrumentation.mcp import MCPInstrumentor

MAJOR = int(version("mcp").partition(".")[0])
NATIVE_BAR = 1.15
# Patching a class makes the interpreter forget what it specialised: a long-running process pays that once.
WARM_UP = 200
CHUNK = 40


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


@asynccontextmanager
async def connected(over: str) -> AsyncIterator[Callable[[], Any]]:
    """Connect a client to a server with one trivial tool, in memory or over HTTP; yield what calls the tool."""
    async with AsyncExitStack() as opened:
        if MAJOR < 2:
            session = await _first(opened, over)
            yield lambda: session.call_tool("greet", {"name": "Ada"})
            return
        from mcp import Client
        from mcp.server.mcpserver import MCPServer

        server = MCPServer("bench", log_level="CRITICAL")
        server.tool()(greet)
        where: Any = server
        if over == "http":
            where = f"{await opened.enter_async_context(served(lambda _: server.streamable_http_app()))}/mcp"
        client = await opened.enter_async_context(Client(where, mode="legacy"))
        yield lambda: client.call_tool("greet", {"name": "Ada"})


async def _first(opened: AsyncExitStack, over: str) -> Any:
    from mcp import ClientSession
    from mcp.client import streamable_http
    from mcp.server.fastmcp import FastMCP
    from mcp.shared.memory import create_connected_server_and_client_session

    server: Any = FastMCP("bench", log_level="CRITICAL")
    server.tool()(greet)
    if over == "memory":
        return await opened.enter_async_context(create_connected_server_and_client_session(server))
    url = await opened.enter_async_context(served(lambda _: server.streamable_http_app()))
    # By the name that Traceloop's instrumentation wraps.
    streams = await opened.enter_async_context(streamable_http.streamablehttp_client(f"{url}/mcp"))
    session = await opened.enter_async_context(ClientSession(streams[0], streams[1]))
    await session.initialize()
    return session


def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello {name}"


async def measure(variant: Variant, chunks: int, over: str) -> tuple[list[float], float]:
    """Return CPU microseconds a call of each chunk of calls, and spans a call."""
    pipeline = Pipeline()
    taken: list[float] = []
    with variant(pipeline):
        async with connected(over) as call:
            for _ in range(WARM_UP):
                await call()
            pipeline.processor.force_flush()
            spans = pipeline.exporter.spans
            gc.collect()
            gc.disable()
            for _ in range(chunks):
                began = time.process_time()
                for _ in range(CHUNK):
                    await call()
                taken.append((time.process_time() - began) / CHUNK * 1e6)
            pipeline.processor.force_flush()
            gc.enable()
    made = (pipeline.exporter.spans - spans) / (chunks * CHUNK)
    pipeline.close()
    return taken, made


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


def main() -> int:
    """Print the table; exit 1 when a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--chunks", type=int, default=8)
    arguments.add_argument("--over", choices=["memory", "http"], default="memory")
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    compared = variants()
    taken: dict[str, list[float]] = {name: [] for name in compared}
    spans: dict[str, float] = {}
    order = list(compared.items())
    for _ in range(chosen.rounds):
        random.shuffle(order)
        for name, variant in order:
            costs, spans[name] = asyncio.run(measure(variant, chosen.chunks, chosen.over))
            taken[name] += costs
    low = {name: quantiles(costs, n=4)[0] for name, costs in taken.items()}
    chunks = f"{chosen.rounds * chosen.chunks} chunks of {CHUNK} calls each"
    print(f"mcp {version('mcp')}: CPU us per call_tool over {chosen.over}, {chunks}")
    print(f"{'variant':<12}{'lowest':>9}{'quarter':>9}{'median':>9}{'of bare':>9}{'spans':>7}")
    for name, costs in taken.items():
        row = f"{min(costs):9.0f}{low[name]:9.0f}{median(costs):9.0f}{low[name] / low['bare']:9.2f}"
        print(f"{name:<12}{row}{spans[name]:7.1f}")
    failed = False
    for rival in [name for name in ("native", "traceloop", "logfire") if name in low]:
        bar = NATIVE_BAR if rival == "native" else 1.0
        failed |= low["ours"] / low[rival] > bar
        print(f"ours / {rival}: {low['ours'] / low[rival]:.3f} by the lower quartile (bar {bar:.2f})")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
