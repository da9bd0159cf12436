"""Counting a program's machine instructions with valgrind's callgrind, which other work does not change."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
_BEFORE = 150


def available() -> bool:
    """Return whether valgrind is there; if not, say on stderr how to get it."""
    if shutil.which("valgrind") is not None:
        return True
    print("valgrind is needed: apt-get install valgrind", file=sys.stderr)
    return False


def instructions_a_call(runs: Sequence[Sequence[str]], calls: int) -> list[float]:
    """Return what one call of each of the `runs` costs: its difference with `calls` more calls, by their number.

    A run is a Python program and its arguments, to which `--calls N` is added; its child processes are counted too.
    """
    counts = [(run, number) for run in runs for number in (_BEFORE, _BEFORE + calls)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        totals = list(pool.map(lambda each: _counted([*each[0], "--calls", str(each[1])]), counts))
    return [(totals[at + 1] - totals[at]) / calls for at in range(0, len(totals), 2)]


def table(a_call: dict[str, float], first: str) -> list[str]:
    """Return the lines of a table of instructions a call, with what each variant costs above and of the `first`."""
    base = a_call[first]
    rows = (f"{name:<12}{each:14,.0f}{each - base:14,.0f}{each / base:9.3f}" for name, each in a_call.items())
    return [f"{'variant':<12}{'a call':>14}{'above ' + first:>14}{'of ' + first:>9}", *rows]


def _counted(arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="elf-callgrind-") as folder:
        subprocess.run(
            [
                "valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={folder}/%p",
                sys.executable, *arguments,
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONHASHSEED": "0"},
        )  # fmt: skip
        return sum(int(match[1]) for each in Path(folder).iterdir() if (match := _TOTAL.search(each.read_text())))
