"""What tracing costs an A2A call in machine instructions, which do not depend on what else the machine does.

python tests/benchmarks/a2a_instructions.py [--calls 100] [--bindings JSONRPC,HTTP+JSON,GRPC]     needs valgrind

Each variant of a2a_overhead.py runs twice under callgrind, with `--calls` more calls the second time, no garbage
collected. The difference is divided by the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from a2a_agents import agent, events_of
from benchmarks.a2a_overhead import Nowhere, connected, variants
from benchmarks.callgrind import available, instructions_a_call, table

_NAMES = ("off", "native", "ours")


async def called(name: str, binding: str, calls: int, *, streaming: bool) -> None:
    """Make the calls of one run."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=65_536))
    trace.set_tracer_provider(provider)
    with variants(provider)[name]():
        async with agent("sales-team") as where:
            client = await connected(where, binding, streaming=streaming)
            gc.disable()
            for _ in range(calls):
                await events_of(client, "complete")
            provider.force_flush()
            await client.close()


def main() -> int:
    """Print instructions a call of each variant, binding and mode."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--calls", type=int, default=100)
    arguments.add_argument("--bindings", default="JSONRPC,HTTP+JSON,GRPC")
    arguments.add_argument("--run", help=argparse.SUPPRESS)
    arguments.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    if chosen.run:
        asyncio.run(called(chosen.run, chosen.bindings, chosen.calls, streaming=chosen.stream))
        return 0
    if not available():
        return 2
    print(f"a2a-sdk {version('a2a-sdk')}: instructions a call, {chosen.calls} calls")
    for binding in chosen.bindings.split(","):
        for mode in ((), ("--stream",)):
            runs = [(__file__, "--run", name, "--bindings", binding, *mode) for name in _NAMES]
            a_call = instructions_a_call(runs, chosen.calls)
            print(f"\n{binding} {'stream' if mode else 'unary'}")
            print("\n".join(table(dict(zip(_NAMES, a_call, strict=True)), "off")), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
