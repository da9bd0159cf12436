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
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mcp_overhead import connected
from benchmarks.mcp_variants import Pipeline, variants

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
_BEFORE = 150


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


def counted(name: str, over: str, calls: int) -> int:
    """Return the instructions of a run, its server's included."""
    with tempfile.TemporaryDirectory(prefix="elf-callgrind-") as folder:
        subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/%p",
                sys.executable, __file__, "--run", name, "--over", over, "--calls", str(calls),
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        return sum(int(match[1]) for each in Path(folder).iterdir() if (match := _TOTAL.search(each.read_text())))


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
    if shutil.which("valgrind") is None:
        print("valgrind is needed: apt-get install valgrind", file=sys.stderr)
        return 2
    names = list(variants())
    runs = [(name, chosen.over, calls) for name in names for calls in (_BEFORE, _BEFORE + chosen.calls)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        totals = list(pool.map(lambda run: counted(*run), runs))
    a_call = {name: (totals[2 * i + 1] - totals[2 * i]) / chosen.calls for i, name in enumerate(names)}
    print(f"mcp {version('mcp')}: instructions per call_tool over {chosen.over}, {chosen.calls} calls")
    print(f"{'variant':<12}{'a call':>12}{'above bare':>12}{'of bare':>9}")
    for name, each in a_call.items():
        print(f"{name:<12}{each:12,.0f}{each - a_call['bare']:12,.0f}{each / a_call['bare']:9.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
