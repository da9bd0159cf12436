"""How long the guide's views and the command's queries take, from rollups and naively, on tables of two sizes.

python tests/benchmarks/views.py --rows 1000000 --rows 5000000 [--last-day CALLS] [--folder DIR]

Starts a PostgreSQL of its own, about 5 GB for these sizes, and removes it. 8 % of the calls are of the last day and an
eighth of those of the last hour, so that the larger table is also the busier fleet; with --last-day both tables have
that many, and only the history is longer. Times are planning and execution on the server: medians of rounds that take
turns between the tables, one moment for all (now() stands still), prepared statements, parallel workers and JIT off;
what takes less than 5 ms is run five times a round. Ends with 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fleet_calls import Traffic, load_history, load_last_hour, sizes
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from elf_automations.storage.queries import queries
from naive_views import VIEWS, assert_views_are_right

_SETTINGS: Final = {
    "shared_buffers": "2GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "synchronous_commit": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}
# Times the naive view takes, at the size the bars are set for; and what a table five times as large may cost.
_FASTER: Final = {"system_health_overview": 3, "communication_patterns": 20, "top_communication_pairs": 10}
_GROWTH: Final = 1.5
_JUDGED_ROWS: Final = 5_000_000
_QUICK_MS: Final = 5
_REPEATS: Final = 5

_REGISTRY_VIEWS: Final = ("system_entity_state", "entity_hierarchy")
# What `elf-telemetry status`, `top`, `entities`, `gaps` and the page ask for, with what they ask it.
_NAMED: Final[Mapping[str, Mapping[str, object]]] = {
    "request_volume": {"since": "1 hour"},
    "error_rates": {"since": "1 hour"},
    "latency": {"since": "1 hour"},
    "entity_health_share": {},
    "communication_matrix": {"since": "1 hour"},
    "top_pairs": {"since": "24 hours", "limit": 20},
    "entity_health": {},
    "active_alerts": {},
    "registration_gaps": {},
}


@dataclass(frozen=True, slots=True)
class Timed:
    """One query on one table: median milliseconds, how many rows it answers, and milliseconds of the naive view."""

    ms: float
    answers: int
    naive_ms: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, time, print, and return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="How long the guide's views take, from rollups and naively.")
    parser.add_argument("--rows", type=int, action="append", help="size of a table; give it twice to see the growth")
    parser.add_argument("--last-day", type=int, help="calls of the last day in each table, else 8 %% of its rows")
    parser.add_argument("--rounds", type=int, default=9, help="how often each query is timed")
    parser.add_argument("--folder", type=Path, help="where the server keeps its data for the time being")
    given = parser.parse_args(arguments)
    tables = [_traffic(rows, given.last_day) for rows in sorted(given.rows or [100_000])]
    folder = Path(tempfile.mkdtemp(prefix="elf-views-", dir=given.folder))
    server = EmbeddedPostgres(folder, settings=_SETTINGS)
    try:
        results = _measure(server.start(), tables, given.rounds)
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    missed = _print_speed(tables, results)
    if len(tables) > 1:
        missed += _print_growth(tables, results)
    for bar in missed:
        print(f"missed: {bar}", file=sys.stderr)
    return 1 if missed else 0


def _traffic(rows: int, last_day: int | None) -> Traffic:
    day = rows * 8 // 100 if last_day is None else last_day
    return Traffic(rows, day, day // 8)


def _measure(server: str, tables: Sequence[Traffic], rounds: int) -> list[dict[str, Timed]]:
    """Load all tables, then let them take turns."""
    with ExitStack() as stack:
        connections: list[psycopg.Connection[Any]] = []
        for number, traffic in enumerate(tables):
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(f"create database views_{number}".encode())
            url = server.replace("/postgres?", f"/views_{number}?")
            migrate(url)
            opened = stack.enter_context(
                psycopg.connect(url, autocommit=True, prepare_threshold=None, cursor_factory=psycopg.ClientCursor)
            )
            load_history(opened, traffic)
            connections.append(opened)
        # All last hours at the end: they would be over for the first table when the last one is loaded.
        for connection, traffic in zip(connections, tables, strict=True):
            load_last_hour(connection, traffic)
            _print_disk(connection, traffic)
            stack.enter_context(connection.transaction())
            assert_views_are_right(connection)
        return _time(connections, rounds)


def _time(connections: Sequence[psycopg.Connection[Any]], rounds: int) -> list[dict[str, Timed]]:
    asked = _questions()
    times: list[dict[str, list[float]]] = [{query: [] for query in asked} for _ in connections]
    answers: list[dict[str, int]] = [{} for _ in connections]
    for turn in range(rounds + 1):
        for query, (text, parameters) in asked.items():
            for connection, mine, found in zip(connections, times, answers, strict=True):
                took, found[query] = _explained(connection, text, parameters)
                # The first turn only fills the caches.
                repeats = 0 if turn == 0 else _REPEATS if took < _QUICK_MS else 1
                mine[query] += [_explained(connection, text, parameters)[0] for _ in range(repeats)]
    return [
        {
            query: Timed(median(mine[query]), found[query], median(mine[_naive(query)]) if query in VIEWS else None)
            for query in (*VIEWS, *_REGISTRY_VIEWS, *_NAMED)
        }
        for mine, found in zip(times, answers, strict=True)
    ]


def _questions() -> dict[str, tuple[str, Mapping[str, object]]]:
    """Return the text and parameters of all that is timed, by name."""
    nothing: Mapping[str, object] = {}
    return {
        **{view: (f"select * from {view}", nothing) for view in (*VIEWS, *_REGISTRY_VIEWS)},
        **{_naive(view): (text, nothing) for view, text in VIEWS.items()},
        **{name: (queries()[name], parameters) for name, parameters in _NAMED.items()},
    }


def _naive(view: str) -> str:
    return f"naive {view}"


def _explained(connection: psycopg.Connection[Any], query: str, parameters: Mapping[str, object]) -> tuple[float, int]:
    """Return the milliseconds of planning and execution, and the rows answered."""
    explain = f"explain (analyze, buffers off, timing off, summary, format json) {query}"
    found = connection.execute(explain.encode(), parameters or None).fetchone()
    assert found
    [plan] = found[0]
    return plan["Planning Time"] + plan["Execution Time"], int(plan["Plan"]["Actual Rows"])


def _print_disk(connection: psycopg.Connection[Any], traffic: Traffic) -> None:
    print(f"\n| table, {traffic.rows:,} rows | MB |\n|---|---|")
    for table, size in sorted(sizes(connection).items()):
        print(f"| {table} | {size / 1e6:,.1f} |")


def _print_speed(tables: Sequence[Traffic], results: Sequence[Mapping[str, Timed]]) -> list[str]:
    missed: list[str] = []
    print("\n| view or query | rows | answers | ms | naive ms | faster | bar |\n|---|---|---|---|---|---|---|")
    for query in results[0]:
        for traffic, found in zip(tables, results, strict=True):
            timed = found[query]
            naive, faster, bar = "", "", ""
            if timed.naive_ms is not None:
                naive, faster = f"{timed.naive_ms:.1f}", f"{timed.naive_ms / timed.ms:.1f}"
                if query in _FASTER and traffic.rows >= _JUDGED_ROWS:
                    bar = f"≥ {_FASTER[query]}"
                    if timed.naive_ms < _FASTER[query] * timed.ms:
                        missed.append(f"{query} is {faster} times as fast as the naive view, the bar is {bar}")
            print(f"| {query} | {traffic.rows:,} | {timed.answers:,} | {timed.ms:.2f} | {naive} | {faster} | {bar} |")
    return missed


def _print_growth(tables: Sequence[Traffic], results: Sequence[Mapping[str, Timed]]) -> list[str]:
    """Print what the larger table costs; a view whose answer is larger may take that much longer."""
    missed: list[str] = []
    judged = tables[-1].rows >= _JUDGED_ROWS
    print(f"\n{tables[0].rows:,} → {tables[-1].rows:,} rows, times as much:\n")
    print("| view or query | time | rows answered | time of the naive view | bar |\n|---|---|---|---|---|")
    for query, last in results[-1].items():
        first = results[0][query]
        time, answer = last.ms / first.ms, last.answers / max(first.answers, 1)
        naive = f"{last.naive_ms / first.naive_ms:.2f}" if last.naive_ms and first.naive_ms else ""
        bar = ""
        if judged and query in (*VIEWS, *_REGISTRY_VIEWS):
            allowed = _GROWTH * max(answer, 1)
            bar = f"≤ {allowed:.2f}"
            if time > allowed:
                missed.append(f"{query} takes {time:.2f} times as long, the bar is {bar}")
        print(f"| {query} | {time:.2f} | {answer:.2f} | {naive} | {bar} |")
    return missed


if __name__ == "__main__":
    sys.exit(main())
