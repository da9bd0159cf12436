"""What tracing costs a call of a tool in machine instructions, which do not depend on what else the machine does.

python tests/benchmarks/mcp_instructions.py [--over stdio] [--calls 100]     needs valgrind

Each variant of mcp_overhead.py runs twice under callgrind, with `--calls` more calls the second time, no garbage
collected; a server over stdio is counted with its client. The difference is divided by the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.callgrind import available, instructions_a_call, table
from benchmarks.mcp_overhead import connected
from benchmarks.mcp_variants import Pipeline, variants


async def called(name: str, over: str, calls: int) -> None:
    """Make the calls of one run."""
    pipeline = Pipeline()
    with variants()[name](pipeline):
        async with connected(name, over) as bench:
            await bench.server()  # no garbage is collected there from here on
            gc.disable()
            for _ in range(calls):
                await bench.call()
            pipeline.processor.force_flush()
    pipeline.close()


def main() -> int:
    """Print instructions a call of each variant."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--over", choices=["memory", "stdio", "http"], default="stdio")
    arguments.add_argument("--calls", type=int, default=100)
    arguments.add_argument("--run", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if chosen.run:
        asyncio.run(called(chosen.run, chosen.over, chosen.calls))
        return 0
    if not available():
        return 2
    names = list(variants())
    a_call = instructions_a_call([(__file__, "--run", name, "--over", chosen.over) for name in names], chosen.calls)
    print(f"mcp {version('mcp')}: instructions per call_tool over {chosen.over}, {chosen.calls} calls")
    print("\n".join(table(dict(zip(names, a_call, strict=True)), "bare")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
