"""How long the guide's views take, from rollups and naively, on tables of two sizes.

python tests/benchmarks/views.py --rows 1000000 --rows 5000000 [--folder DIR]

Starts a PostgreSQL of its own, about 4 GB for 5 million rows, and removes it. Thirty days of calls, 8 % of them in the
last day and 1 % in the last hour, of 200 callers (the nth calls 1/n as often as the first) with 8 targets each over 3
protocols. Times are planning and execution on the server: medians of interleaved rounds, one moment for all (now()
stands still), prepared statements, parallel workers and JIT off.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from naive_views import VIEWS, assert_views_are_right

_SETTINGS: Final = {
    "shared_buffers": "2GB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "30min",
    "synchronous_commit": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}
_BARS: Final = {"system_health_overview": 3, "communication_patterns": 20, "top_communication_pairs": 10}
_GROWTH: Final = 1.5

_CALLS: Final = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status, tool_name,
    tokens_used, estimated_cost, correlation_id, trace_id, span_id, observed_by, metadata
)
select
    now() - made.age, made.protocol, 'team-' || made.source, 'team',
    'server-' || (made.source * 7 + made.target) %% 200, 'mcp', 'tool_call',
    round(exp(4 + 1.2 * sqrt(-2 * ln(1 - random())) * cos(6.283185307 * random()))::numeric, 3),
    case when random() < 0.96 then 'success' when random() < 0.9 then 'error' else 'timeout' end,
    'search', (random() * 2000)::bigint, (random() * 0.01)::numeric(12, 6),
    md5(random()::text), md5(random()::text), left(md5(random()::text), 16), 'client',
    '{{"model": "small", "attempt": 1, "region": "eu-central", "queue": "default"}}'
from (
    select
        {age} as age,
        (array['mcp', 'a2a', 'n8n'])[1 + floor(3 * random())] as protocol,
        floor(exp(random() * ln(201)))::integer as source,
        floor(8 * random())::integer as target
    from generate_series(1, %s)
) as made
"""
_OLD: Final = _CALLS.format(
    age="interval '1 hour' + case when random() < 0.07 then random() * interval '23 hours' "
    "else random() * interval '29 days' + interval '23 hours' end"
)
_RECENT: Final = _CALLS.format(age="random() * interval '1 hour'")
_A_ROW_A_DAY: Final = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, status
)
select day, 'mcp', 'team-1', 'team', 'server-1', 'mcp', 'tool_call', 'success'
from generate_series(now() - interval '30 days', now(), interval '1 day') as day
"""


@dataclass(frozen=True, slots=True)
class Timed:
    """One view on one table: milliseconds naively and from rollups, and how many rows it answers."""

    naive: float
    rolled: float
    answers: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Load, time and print."""
    parser = argparse.ArgumentParser(description="How long the guide's views take, from rollups and naively.")
    parser.add_argument("--rows", type=int, action="append", help="size of a table; give it twice to see the growth")
    parser.add_argument("--rounds", type=int, default=7, help="how often each view is timed")
    parser.add_argument("--folder", type=Path, help="where the server keeps its data for the time being")
    given = parser.parse_args(arguments)
    sizes = given.rows or [100_000]
    folder = Path(tempfile.mkdtemp(prefix="elf-views-", dir=given.folder))
    server = EmbeddedPostgres(folder, settings=_SETTINGS)
    try:
        url = server.start()
        results = [_measure(url, rows, given.rounds) for rows in sizes]
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    _print(sizes, results)


def _measure(server: str, rows: int, rounds: int) -> dict[str, Timed]:
    name = f"views_{rows}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    url = server.replace("/postgres?", f"/{name}?")
    migrate(url)
    with psycopg.connect(url, autocommit=True, prepare_threshold=None) as connection:
        _load(connection, rows)
        with connection.transaction():
            found = {view: _time(connection, view, naive, rounds) for view, naive in VIEWS.items()}
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"drop database {name}".encode())
    return found


def _load(connection: psycopg.Connection[Any], rows: int) -> None:
    """Put all but the last hour past the triggers and roll it up by day; write the last hour as writers do."""
    recent = rows // 100
    connection.execute(_A_ROW_A_DAY.encode())
    connection.execute("select ensure_telemetry_partitions()")
    started = time.perf_counter()
    connection.execute("set session_replication_role = replica")
    for chunk in _chunks(rows - recent, 250_000):
        connection.execute(_OLD.encode(), [chunk])
    connection.execute("reset session_replication_role")
    loaded = time.perf_counter()
    for (day,) in connection.execute(
        "select generate_series(current_date - 31, current_date + 1, interval '1 day')::date"
    ).fetchall():
        connection.execute("select rebuild_telemetry_rollups(%s)", [day])
    rolled = time.perf_counter()
    for chunk in _chunks(recent, 512):
        connection.execute(_RECENT.encode(), [chunk])
    connection.execute("select fold_telemetry_rollups()")
    # What a running system has pending, and some more. A snapshot that stands still does not fold.
    connection.execute("set default_transaction_isolation = 'repeatable read'")
    for _ in range(4):
        connection.execute(_RECENT.encode(), [512])
    connection.execute("reset default_transaction_isolation")
    connection.execute("vacuum analyze")
    pending = connection.execute("select count(*) from telemetry_rollup_pending").fetchone()
    assert_views_are_right(connection)
    print(
        f"{rows:,} rows: loaded in {loaded - started:.0f} s, rolled up in {rolled - loaded:.0f} s, "
        f"{pending[0] if pending else 0} rows pending"
    )
    for table, size in connection.execute(
        "select 'all communications', pg_size_pretty(sum(pg_total_relation_size(relid))) "
        "from pg_partition_tree('communication_telemetry') "
        "union all select relname, pg_size_pretty(pg_total_relation_size(oid)) from pg_class "
        "where relkind = 'r' and relname like 'telemetry\\_%' and relpages > 100"
    ).fetchall():
        print(f"    {table}: {size}")


def _chunks(rows: int, size: int) -> list[int]:
    return [size] * (rows // size) + ([rows % size] if rows % size else [])


def _time(connection: psycopg.Connection[Any], view: str, naive: str, rounds: int) -> Timed:
    times: dict[str, list[float]] = {}
    answers = 0
    for _ in range(rounds):
        for query in (f"select * from {view}", naive):
            plan = _explained(connection, query)
            times.setdefault(query, []).append(plan["Planning Time"] + plan["Execution Time"])
            answers = int(plan["Plan"]["Actual Rows"])
    rolled, plain = (median(taken) for taken in times.values())
    return Timed(plain, rolled, answers)


def _explained(connection: psycopg.Connection[Any], query: str) -> dict[str, Any]:
    found = connection.execute(f"explain (analyze, timing off, summary, format json) {query}".encode()).fetchone()
    return found[0][0] if found else {}


def _print(sizes: Sequence[int], results: Sequence[dict[str, Timed]]) -> None:
    print("\n| view | rows | answers | naive ms | rollup ms | faster | bar |")
    print("|---|---|---|---|---|---|---|")
    for view in VIEWS:
        for rows, found in zip(sizes, results, strict=True):
            timed = found[view]
            bar = f"≥ {_BARS[view]}" if view in _BARS else ""
            print(
                f"| {view} | {rows:,} | {timed.answers:,} | {timed.naive:.1f} | {timed.rolled:.1f} "
                f"| {timed.naive / timed.rolled:.1f} | {bar} |"
            )
    if len(sizes) > 1:
        print(f"\n| view | {sizes[0]:,} → {sizes[-1]:,} rows | naive | rows it answers | bar |")
        print("|---|---|---|---|---|")
        for view in VIEWS:
            first, last = results[0][view], results[-1][view]
            print(
                f"| {view} | {last.rolled / first.rolled:.2f} | {last.naive / first.naive:.2f} "
                f"| {last.answers / max(first.answers, 1):.2f} | ≤ {_GROWTH} |"
            )


if __name__ == "__main__":
    main()
