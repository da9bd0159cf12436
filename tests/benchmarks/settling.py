"""What it costs to settle what came, beside reading all of the last hour for it, and to note what is to be settled.

python tests/benchmarks/settling.py [--hour 100000 1000000] [--new 10000] [--rounds 3]

Starts a PostgreSQL of its own and removes it. The last hour holds so many rows, half of them the server's side of a
call, all settled. Then come the new ones: in the first group the two sides of a call in different statements, so that
half of them must be taken out of the counts; in the second one client row for each call, with nothing to settle.
"all of the hour" is `settle_communications` as of migration 0039, as each writer called it every ten seconds: over the
last 15 minutes and an hour before. A pass runs in a transaction that is rolled back, so that each finds the same;
medians of the rounds, wall clock. Last, a COPY of 512 rows with the trigger that notes what is to be settled and
without it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Final

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ingest_rows import COLUMNS, Supply, push
from elf_automations.storage.connection import connect
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from elf_automations.storage.sql_files import migrations

_BEFORE: Final = "select settle_communications_0039(now() - interval '15 minutes 10 seconds')"
_AFTER: Final = "select settle_communications_if_due(p_wait => true)"
_RENAMED: Final = ("pair_recorded_calls", "settle_recorded_by_hand", "settle_communications")
_ROWS: Final = """
insert into communication_telemetry (
    id, timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status, tool_name,
    payload_size_bytes, tokens_used, correlation_id, metadata, trace_id, span_id, parent_span_id, observed_by, counted,
    service_name, service_instance_id, created_at
)
select
    (right(trace.id, 16) || side.span)::uuid, made.at, 'mcp', 'team-' || made.number %% 200, 'team',
    'target-' || made.number %% 1600, 'mcp', 'tool_call',
    case side.is_server when true then 0.9 else 1 end * drawn.ms, 'success',
    'tool_' || made.number %% 30,
    1200, case side.is_server when true then null else 700 end, trace.id,
    '{"protocol_version": "2026-07-28", "transport": "tcp"}', trace.id, side.span, side.parent,
    case side.is_server when true then 'server' else 'client' end, %(apart)s or not side.is_server,
    case side.is_server when true then 'target-' || made.number %% 1600 else 'team-' || made.number %% 200 end,
    'pod-1', made.at
from (
    select number, now() - %(age)s * interval '1 second' * random() as at
    from generate_series(%(first)s::integer, %(last)s::integer) as number
) as made
cross join lateral (select md5(made.number::text) as id) as trace
cross join lateral (
    select -80 * ln(1 - ('x' || left(md5('ms' || made.number), 7))::bit(28)::integer / 268435456.0::float8) as ms
) as drawn
cross join lateral (
    values (false, left(md5('client' || made.number), 16), left(md5('agent' || made.number), 16)),
        (true, left(md5('server' || made.number), 16), left(md5('client' || made.number), 16))
) as side (is_server, span, parent)
where side.is_server = any(%(sides)s)
"""


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--hour", type=int, nargs="+", default=[100_000, 1_000_000], help="rows of the last hour")
    arguments.add_argument("--new", type=int, default=10_000, help="rows that came since the last pass")
    arguments.add_argument("--rounds", type=int, default=3)
    options = arguments.parse_args()
    print(f"{'rows of the hour':>16}  {'new rows':<34} {'all of the hour':>15} {'what came':>10} {'ratio':>6}")
    with tempfile.TemporaryDirectory(prefix="elf-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "db", settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        try:
            url = server.start()
            for hour in options.hour:
                measure(_made(url, f"hour_{hour}"), hour, options.new, options.rounds)
            note(_made(url, "noting"), _made(url, "encoder"), options.rounds * 40)
        finally:
            server.stop()


def measure(url: str, hour: int, new: int, rounds: int) -> None:
    """Print the lines of one database whose last hour holds `hour` rows."""
    with connect(url) as connection:
        _keep_0039(connection)
        connection.execute("alter table communication_telemetry disable trigger user")
        _insert(connection, 1, hour // 2, 3600, [False, True], apart=False)
        connection.execute("alter table communication_telemetry enable trigger user")
        connection.execute("vacuum analyze communication_telemetry")
        first = hour // 2 + 1
        kinds: list[tuple[str, int, Sequence[list[bool]]]] = [
            (f"{new:,}, the sides of {new // 2:,} calls", new // 2, [[False], [True]]),
            (f"{new:,}, nothing to settle", new, [[False]]),
        ]
        for label, calls, statements in kinds:
            for sides in statements:
                for start in range(first, first + calls, 512):
                    _insert(connection, start, min(start + 512, first + calls) - 1, 10, sides, apart=True)
            first += calls
            connection.execute("select fold_telemetry_rollups()")
            taken: dict[str, list[float]] = {_BEFORE: [], _AFTER: []}
            for _ in range(rounds):
                for query, seconds in taken.items():
                    seconds.append(_seconds(connection, query))
            before, after = median(taken[_BEFORE]), median(taken[_AFTER])
            line = f"{hour:>16,}  {label:<34} {before * 1e3:>12,.0f} ms {after * 1e3:>7,.0f} ms {before / after:>6.1f}"
            print(line, flush=True)
            connection.execute(_AFTER.encode())
        idle = median(_seconds(connection, _AFTER) for _ in range(20))
        print(f"{hour:>16,}  {'none':<34} {'':>15} {idle * 1e3:>7,.1f} ms", flush=True)


def note(url: str, encoder_url: str, rounds: int) -> None:
    """Print what a COPY of 512 rows costs with and without noting what is to be settled."""
    taken: dict[str, list[float]] = {"enable": [], "disable": []}
    with connect(url) as connection, connect(encoder_url) as encoder:
        supply = Supply(encoder, datetime.now(UTC) - timedelta(minutes=10), 1)
        for _ in range(rounds):
            for state, seconds in taken.items():
                trigger = f"alter table communication_telemetry {state} trigger communication_telemetry_unsettled"
                connection.execute(trigger.encode())
                [batch] = supply.take(1)
                began = time.perf_counter()
                push(connection, "communication_telemetry", COLUMNS, batch.ours)
                seconds.append(time.perf_counter() - began)
    noting, silent = median(taken["enable"]), median(taken["disable"])
    print(f"COPY of 512 rows: {noting * 1e3:.2f} ms with noting them, {silent * 1e3:.2f} ms without", flush=True)


def _made(url: str, name: str) -> str:
    with connect(url) as admin:
        admin.execute(f"create database {name}".encode())
    own = url.replace("/postgres?", f"/{name}?")
    migrate(own)
    return own


def _keep_0039(connection: psycopg.Connection) -> None:
    """Make the functions of 0037 to 0039 again, under names of their own."""
    for migration in migrations():
        if migration.name.startswith(("0037", "0038", "0039")):
            text = migration.sql
            for function in _RENAMED:
                text = text.replace(function, f"{function}_0039")
            connection.execute(text.encode())


def _insert(connection: psycopg.Connection, first: int, last: int, age: int, sides: list[bool], *, apart: bool) -> None:
    connection.execute(_ROWS.encode(), {"first": first, "last": last, "age": age, "sides": sides, "apart": apart})


def _seconds(connection: psycopg.Connection, query: str) -> float:
    with connection.transaction(force_rollback=True):
        began = time.perf_counter()
        connection.execute(query.encode())
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
