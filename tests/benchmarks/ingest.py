"""How much of a raw COPY's speed the idempotent write paths keep, and what the table costs beside the original one.

python tests/benchmarks/ingest.py [--batches 30] [--rounds 5] [--filled 1000000] [--spread 1]

Starts a PostgreSQL of its own and removes it. The variants of a group take turns, in another order each round, each
after a CHECKPOINT; the medians of the rounds are printed, as wall clock and as CPU time of the server's backends, which
is steadier on a busy machine. Only ratios within a group count. Whatever keeps rollups also pays for folding them: once
in 4096 pending rows, as the trigger does on average, but here not by chance (a round is as many batches as that takes,
times what comes near `--batches`).

- Idempotent paths: into an empty table. "raw COPY" is a COPY of the same rows into the same table, pre-encoded.
- Tables alone: raw COPY into tables that hold `--filled` rows, no trigger on either.
- As they run: the same with what each system does for a row: the original updates the activity of both ends in its
  registry, a row at a time; ours keeps rollups, and the writer adds activity once a batch.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ingest_rows import BATCH, COLUMNS, ORIGINAL_COLUMNS, Batch, Supply, push
from benchmarks.original_system import add_trigger, fill, make_original
from elf_automations.model import Entity
from elf_automations.storage.connection import connect
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from elf_automations.storage.writer import PostgresWriter

_TABLE: Final = "communication_telemetry"
_FOLDED_AT: Final = 4096
_ENTITIES: Final = [
    *(("team", f"team-{team}") for team in range(200)),
    *(("mcp_server", f"team-{team}-target-{target}") for team in range(200) for target in range(8)),
]
_EMPTY: Final = ("TRUNCATE communication_telemetry, bare_telemetry", "VACUUM", "CHECKPOINT")
_BARE: Final = """
CREATE TABLE bare_telemetry (LIKE communication_telemetry INCLUDING ALL) PARTITION BY RANGE (timestamp);
CREATE TABLE bare_telemetry_default PARTITION OF bare_telemetry DEFAULT
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of writing a batch, what its ratio is taken against, and the bar for that ratio."""

    name: str
    write: Callable[[Batch], object]
    against: str
    bar: float | None = None
    folds: psycopg.Connection | None = None


def main() -> int:
    """Print each variant's speed and its ratio; return 1 when a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--batches", type=int, default=30, help="batches of a variant in a round")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--filled", type=int, default=1_000_000, help="rows the filled tables hold")
    arguments.add_argument("--spread", type=float, default=1, help="seconds of call begins in a batch; 600: late spans")
    options = arguments.parse_args()
    print(f"{BATCH} rows a batch from {options.spread:g} s, median of {options.rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="elf-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "db", settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        try:
            missed = measure(server.start(), options.batches, options.rounds, options.filled, options.spread)
        finally:
            server.stop()
    return 1 if missed else 0


def measure(url: str, count: int, rounds: int, filled: int, spread: float) -> int:
    """Run the three groups and return how many bars were missed."""
    urls = {name: url.replace("/postgres?", f"/{name}?") for name in ("encoder", "ours", "original")}
    with ExitStack() as stack:
        admin = stack.enter_context(connect(url))
        for name in urls:
            admin.execute(f"CREATE DATABASE {name}".encode())
        # In a snapshot that stands still the trigger leaves folding to others: here to the benchmark.
        admin.execute("ALTER DATABASE ours SET default_transaction_isolation = 'repeatable read'")
        for name in ("encoder", "ours"):
            migrate(urls[name])
        encoder, ours, original = (stack.enter_context(connect(urls[name])) for name in urls)
        supply = Supply(encoder, datetime.now(UTC) - timedelta(minutes=20), spread)
        writer = PostgresWriter(urls["ours"])
        stack.callback(writer.close)
        folded = _batches_of_a_fold(ours, supply.take(8))
        count = folded * max(1, round(count / folded))
        print(f"{count} batches a round, rollups folded every {folded}")
        bench = Bench(admin, supply, count, rounds, folded)

        ours.execute(_BARE)
        missed = bench.run(
            "Idempotent paths, empty table",
            [
                Variant("raw COPY", lambda b: push(ours, _TABLE, COLUMNS, b.ours), "raw COPY", folds=ours),
                Variant("optimistic", lambda b: writer.write(b.rows, (), retry=False), "raw COPY", 0.50, ours),
                Variant("staging", lambda b: writer.write(b.rows, (), retry=True), "raw COPY", 0.35, ours),
                Variant(
                    "raw COPY without rollups", lambda b: push(ours, "bare_telemetry", COLUMNS, b.ours), "raw COPY"
                ),
            ],
            [(ours, _EMPTY)],
        )
        ours.execute("DROP TABLE bare_telemetry")

        make_original(original, _ENTITIES)
        _register(writer)
        fill(original, filled, original=True)
        fill(ours, filled, original=False)
        (trigger,) = ours.execute(
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'communication_telemetry_added'"
        ).fetchone() or ("",)
        ours.execute("DROP TRIGGER communication_telemetry_added ON communication_telemetry")
        alone = Variant(
            "original, alone", lambda b: push(original, _TABLE, ORIGINAL_COLUMNS, b.original), "original, alone"
        )
        copied = Variant("ours, alone", lambda b: push(ours, _TABLE, COLUMNS, b.ours), "original, alone", 1.5)
        missed += bench.run(f"Tables alone, {filled:,} rows in them", [alone, copied], [(ours, ("CHECKPOINT",))])

        ours.execute(str(trigger).encode())
        missed += bench.run(
            f"As they run, {filled:,} rows in them",
            [
                Variant("original, registry by row", _with_trigger(original), "original, registry by row"),
                Variant("ours, COPY + rollups", copied.write, "original, registry by row", 1.5, ours),
                Variant(
                    "ours, writer + rollups + registry",
                    lambda b: writer.write(b.rows, b.entities, retry=False),
                    "original, registry by row",
                    1.5,
                    ours,
                ),
            ],
            [(ours, ("CHECKPOINT",))],
        )
    return missed


class Bench:
    """Runs groups of variants, each batch once a round, and prints what came of it."""

    def __init__(self, admin: psycopg.Connection, supply: Supply, count: int, rounds: int, folded: int) -> None:
        self._admin = admin
        self._supply = supply
        self._count = count
        self._rounds = rounds
        self._folded = folded

    def run(
        self,
        title: str,
        variants: Sequence[Variant],
        before: Sequence[tuple[psycopg.Connection, Sequence[str]]],
    ) -> int:
        """Time `variants` in turns after one round that does not count; return how many bars were missed."""
        seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
        busy: dict[str, list[float]] = {variant.name: [] for variant in variants}
        for number in range(self._rounds + 1):
            turn = number % len(variants)
            for variant in (*variants[turn:], *variants[:turn]):
                batches = self._supply.take(self._count)
                for connection, statements in before:
                    for statement in statements:
                        connection.execute(statement.encode())
                took, used = self._timed(variant, batches)
                if number:
                    seconds[variant.name].append(took)
                    busy[variant.name].append(used)
        return self._print(title, variants, seconds, busy)

    def _timed(self, variant: Variant, batches: Sequence[Batch]) -> tuple[float, float]:
        used, began = self._busy(), time.perf_counter()
        for number, batch in enumerate(batches, 1):
            variant.write(batch)
            if variant.folds and number % self._folded == 0:
                variant.folds.execute("SELECT fold_telemetry_rollups()")
        return time.perf_counter() - began, self._busy() - used

    def _busy(self) -> float:
        """Return the CPU seconds of all sessions so far; 0 where the kernel does not tell."""
        pids = self._admin.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'").fetchall()
        try:
            return (
                sum(int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) for (pid,) in pids) / 1e9
            )
        except OSError:
            return 0

    def _print(
        self,
        title: str,
        variants: Sequence[Variant],
        seconds: Mapping[str, Sequence[float]],
        busy: Mapping[str, Sequence[float]],
    ) -> int:
        rows = self._count * BATCH
        missed = 0
        print(f"{title}\n  {'':<34}{'rows/s':>9}{'ratio':>7}{'server us':>11}{'ratio':>7}   bar")
        for variant in variants:
            took, used = median(seconds[variant.name]), median(busy[variant.name])
            ratio = median(seconds[variant.against]) / took
            by_cpu = median(busy[variant.against]) / used if used else 0
            missed += variant.bar is not None and ratio < variant.bar
            bar = f"   {variant.bar:.2f} {'met' if ratio >= variant.bar else 'MISSED'}" if variant.bar else ""
            server = f"{used / rows * 1e6:>11.1f}{by_cpu:>7.2f}"
            print(f"  {variant.name:<34}{rows / took:>9,.0f}{ratio:>7.2f}{server}{bar}", flush=True)
        return missed


def _batches_of_a_fold(connection: psycopg.Connection, batches: Sequence[Batch]) -> int:
    for batch in batches:
        push(connection, _TABLE, COLUMNS, batch.ours)
    (pending,) = connection.execute("SELECT count(*) FROM telemetry_rollup_pending").fetchone() or (0,)
    return max(1, round(_FOLDED_AT * len(batches) / pending))


def _register(writer: PostgresWriter) -> None:
    writer.write(
        (), [Entity(entity_id=name, entity_type=kind, entity_name=name) for kind, name in _ENTITIES], retry=False
    )


def _with_trigger(connection: psycopg.Connection) -> Callable[[Batch], None]:
    add_trigger(connection)
    return lambda batch: push(connection, _TABLE, ORIGINAL_COLUMNS, batch.original)


if __name__ == "__main__":
    sys.exit(main())
