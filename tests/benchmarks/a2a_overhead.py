"""What an A2A call costs in CPU time with our spans: against telemetry off, and against the SDK's own spans.

Run by hand: `python tests/benchmarks/a2a_overhead.py [--calls 60] [--rounds 40] [--bindings JSONRPC,HTTP+JSON,GRPC]`.
Client and server share one process (HTTP without a network, gRPC over loopback). The variants take turns, some calls
at a time, so that only ratios count, each with an agent that was made under it, as applications are: `off` is what
OTEL_INSTRUMENTATION_A2A_SDK_ENABLED=false does at import, `native` the SDK's own spans, `ours` A2AInstrumentor; the
last two with one BatchSpanProcessor and an exporter that does nothing.

A block is the CPU time of some calls in a row and of exporting their spans, garbage collection included. Three ratios:
of the blocks' lower quartiles, which other work on the machine disturbs least; the median of the rounds' own ratios,
with the interval that holds it in 95 of 100 runs; and of the sums. The bars are held against the first two.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from types import ModuleType

sys.path.insert(0, str(Path(__file__).parents[1]))

import grpc
import httpx
from a2a.client import Client, ClientConfig, create_client
from a2a.utils import telemetry
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from a2a_agents import Agent, agent, events_of
from elf_automations.instrumentation.a2a import A2AInstrumentor

SWITCH = "OTEL_INSTRUMENTATION_A2A_SDK_ENABLED"
BARS = {"ours / off": 1.05, "ours / native": 0.6}
# Switching changes classes, after which each place in the code takes some 50 runs to be specialised again.
WARM_UP, SETTLE = 2, 60


class Nowhere(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def switched_off() -> ModuleType:
    """Return the SDK's tracing module as it is when its own switch turns it off."""
    os.environ[SWITCH] = "false"
    spec = importlib.util.spec_from_file_location("a2a_telemetry_off", telemetry.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    del os.environ[SWITCH]
    return module


def variants(provider: TracerProvider) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    disabled = switched_off()

    @contextmanager
    def off() -> Iterator[None]:
        before = telemetry.trace, telemetry.StatusCode
        telemetry.trace, telemetry.StatusCode = disabled.trace, disabled.StatusCode
        try:
            yield
        finally:
            telemetry.trace, telemetry.StatusCode = before

    @contextmanager
    def ours() -> Iterator[None]:
        A2AInstrumentor().instrument(tracer_provider=provider)
        try:
            yield
        finally:
            A2AInstrumentor().uninstrument()

    return {"off": off, "native": nullcontext, "ours": ours}


async def connected(where: Agent, binding: str, *, streaming: bool) -> Client:
    """Return a client of the agent `where`, in its process."""
    config = ClientConfig(
        streaming=streaming,
        httpx_client=httpx.AsyncClient(transport=httpx.ASGITransport(where.app)),
        supported_protocol_bindings=[binding],
        grpc_channel_factory=grpc.aio.insecure_channel,
    )
    return await create_client(where.card, config)


async def measure(binding: str, *, streaming: bool, calls: int, rounds: int) -> dict[str, list[float]]:
    """Return CPU seconds a call, for each variant and round; each has an agent that was made under it."""
    provider = trace.get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    kinds = variants(provider)
    names = list(kinds)
    times: dict[str, list[float]] = {name: [] for name in names}
    async with AsyncExitStack() as agents:
        clients: dict[str, Client] = {}
        for name in names:
            with kinds[name]():
                where = await agents.enter_async_context(agent("sales-team"))
                clients[name] = await connected(where, binding, streaming=streaming)
        for turn in range(rounds + WARM_UP):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                with kinds[name]():
                    spent = await block(clients[name], provider, calls)
                if turn >= WARM_UP:
                    times[name].append(spent)
        for client in clients.values():
            await client.close()
    return times


async def block(client: Client, provider: TracerProvider, calls: int) -> float:
    """Return CPU seconds a call of a block, after as many calls as it takes to settle."""
    for _ in range(SETTLE):
        await events_of(client, "complete")
    provider.force_flush()
    gc.collect()
    began = time.process_time()
    for _ in range(calls):
        await events_of(client, "complete")
    provider.force_flush()
    return (time.process_time() - began) / calls


@dataclass(frozen=True, slots=True)
class Ratios:
    """`ours` against another variant: of lower quartiles, of rounds (the median and its interval), of sums."""

    quartiles: float
    median: float
    low: float
    high: float
    sums: float

    def __str__(self) -> str:
        return f"{self.quartiles:.3f} / {self.median:.3f} ({self.low:.2f}-{self.high:.2f}) / {self.sums:.3f}"


def ratios(times: dict[str, list[float]], other: str) -> Ratios:
    """Return `ours` against `other`."""
    ours, theirs = times["ours"], times[other]
    rounds = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    # By order statistics: the number of rounds below the true median is binomial.
    reach = 1.96 * math.sqrt(len(rounds)) / 2
    low = max(0, math.floor(len(rounds) / 2 - reach))
    high = min(len(rounds) - 1, math.ceil(len(rounds) / 2 + reach))
    quartile = quantiles(ours)[0] / quantiles(theirs)[0]
    return Ratios(quartile, median(rounds), rounds[low], rounds[high], sum(ours) / sum(theirs))


async def run(bindings: Sequence[str], calls: int, rounds: int) -> bool:
    good = True
    print(f"load {os.getloadavg()[0]:.1f}; ratios: of the lower quartiles / median of the rounds (95 %) / of the sums")
    print(f"{'binding':10} {'mode':6}  off µs  native µs  ours µs  {'ours / off':33}  {'ours / native'}")
    for binding in bindings:
        for streaming in (False, True):
            times = await measure(binding, streaming=streaming, calls=calls, rounds=rounds)
            low = {name: quantiles(each)[0] * 1e6 for name, each in times.items()}
            found = {f"ours / {other}": ratios(times, other) for other in ("off", "native")}
            good &= all(max(found[name].quartiles, found[name].median) <= bar for name, bar in BARS.items())
            mode = "stream" if streaming else "unary"
            shown = "  ".join(map(str, found.values()))
            print(
                f"{binding:10} {mode:6} {low['off']:7.0f} {low['native']:10.0f} {low['ours']:8.0f}  {shown}",
                flush=True,
            )
    print(f"load {os.getloadavg()[0]:.1f}")
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--bindings", default="JSONRPC,HTTP+JSON,GRPC")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=65_536))
    trace.set_tracer_provider(provider)
    good = asyncio.run(run(chosen.bindings.split(","), chosen.calls, chosen.rounds))
    print("bars: " + ", ".join(f"{name} <= {bar}" for name, bar in BARS.items()) + (" - held" if good else " - missed"))


if __name__ == "__main__":
    main()
