"""How much of a raw COPY's speed the idempotent write paths keep, and what the table itself costs.

Run by hand: `python tests/benchmarks/ingest.py [--batches 40] [--rounds 7]`. All variants take turns in one run on a
private server, so that only ratios count; the medians of the rounds are printed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median

import psycopg
from psycopg import sql

from elf_automations.model import Communication
from elf_automations.storage.connection import connect
from elf_automations.storage.copy_rows import copy_into_table
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from elf_automations.storage.writer import PostgresWriter

BATCH = 512
ORIGINAL_COLUMNS = [field.name for field in fields(Communication)][:26]
BARS = {"optimistic": 0.50, "staging": 0.35, "raw into filled ours": 1.5}


def row(dice: random.Random, at: datetime) -> Communication:
    """Return a row as a busy fleet makes them: 200 sources, 8 targets each, one in twelve fails."""
    trace, span = dice.randbytes(16), dice.randbytes(8)
    source = f"team-{int(dice.paretovariate(1.2)) % 200}"
    failed = dice.random() < 1 / 12
    return Communication(
        id=uuid.UUID(bytes=trace[8:] + span),
        timestamp=at + timedelta(seconds=dice.random() * 600),
        protocol=dice.choice(("mcp", "a2a")),
        source_id=source,
        source_type="team",
        target_id=f"{source}-target-{dice.randrange(8)}",
        target_type="mcp",
        operation="tool_call",
        duration_ms=dice.expovariate(1 / 80),
        status="error" if failed else "success",
        tool_name=f"tool_{dice.randrange(30)}",
        tool_category=None,
        task_description=None,
        capabilities_required=None,
        message_type=None,
        workflow_id=None,
        workflow_name=None,
        workflow_node=None,
        payload_size_bytes=dice.randrange(4000),
        tokens_used=dice.randrange(2000),
        estimated_cost=Decimal("0.001200"),
        error_message="the upstream answered 503" if failed else None,
        error_code="503" if failed else None,
        correlation_id=trace.hex(),
        parent_correlation_id=span.hex(),
        metadata={
            "protocol_version": "2026-07-28",
            "transport": "tcp",
            "jsonrpc_request_id": str(dice.randrange(9999)),
        },
        trace_id=trace.hex(),
        span_id=span.hex(),
        parent_span_id=span.hex(),
        observed_by="client",
        counted=True,
        service_name="bench",
        service_instance_id="bench-1",
    )


def encoded(connection: psycopg.Connection, batches: Sequence[list[Communication]], columns: list[str]) -> list[bytes]:
    """Return each batch as the bytes of a binary COPY of `columns`."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    made: list[bytes] = []
    for batch in batches:
        with connection.transaction(force_rollback=True):
            connection.execute("ALTER TABLE communication_telemetry DISABLE TRIGGER USER")
            copy_into_table(connection, batch)
            query = sql.SQL("COPY (SELECT {} FROM communication_telemetry) TO STDOUT (FORMAT BINARY)").format(names)
            with connection.cursor().copy(query) as copy:
                made.append(b"".join(bytes(part) for part in copy))
    return made


def push(connection: psycopg.Connection, table: str, columns: list[str], batches: Sequence[bytes]) -> None:
    """COPY pre-encoded batches, one transaction each."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), names)
    for batch in batches:
        with connection.transaction(), connection.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(batch)


def main() -> int:
    """Print each variant's rows per second and its ratio to raw COPY; exit 1 when a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--batches", type=int, default=40)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--filled", type=int, default=1_000_000, help="rows in the tables `into ours`/`original`")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="elf-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "db", settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        try:
            rates = measure(server.start(), options.batches, options.rounds, options.filled)
        finally:
            server.stop()
    print(f"{BATCH} rows a batch, {options.batches} batches, median of {options.rounds} rounds")
    missed = 0
    for name, (rate, base) in rates.items():
        bar = BARS.get(name)
        missed += bar is not None and rate / base < bar
        print(f"  {name:<24} {rate:>10,.0f} rows/s   ratio {rate / base:5.2f}" + (f"   bar {bar:.2f}" if bar else ""))
    return 1 if missed else 0


def measure(url: str, count: int, rounds: int, filled: int) -> dict[str, tuple[float, float]]:
    """Return for each variant its rows per second and those of what it is compared with.

    Into an empty table: raw COPY, and the two idempotent paths against it. Into tables that hold `filled` rows:
    raw COPY into ours against raw COPY into the guide system's original table.
    """
    migrate(url)
    dice = random.Random(7)
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=20)
    batches = [[row(dice, now) for _ in range(BATCH)] for _ in range(count)]
    with connect(url) as connection:
        columns = [field.name for field in fields(Communication)]
        ours = encoded(connection, batches, columns)
        original_columns = [
            name for name in ORIGINAL_COLUMNS if name not in {"workflow_id", "duration_ms", "tokens_used"}
        ]
        theirs = encoded(connection, batches, original_columns)
        connection.execute(original_table())
        writer = PostgresWriter(url)
        empty = timed(
            connection,
            rounds,
            {
                "raw": lambda: push(connection, "communication_telemetry", columns, ours),
                "optimistic": lambda: [writer.write(batch, (), retry=False) for batch in batches],
                "staging": lambda: [writer.write(batch, (), retry=True) for batch in batches],
            },
            before="TRUNCATE communication_telemetry",
        )
        writer.close()
        fill(connection, filled)
        full = timed(
            connection,
            rounds,
            {
                "raw into filled original": lambda: push(connection, "original_telemetry", original_columns, theirs),
                "raw into filled ours": lambda: push(connection, "communication_telemetry", columns, ours),
            },
            before="CHECKPOINT",
            undo=True,
        )
    rates = {name: count * BATCH / median(times) for name, times in {**empty, **full}.items()}
    return {
        name: (rate, rates["raw into filled original" if "filled" in name else "raw"]) for name, rate in rates.items()
    }


def timed(
    connection: psycopg.Connection,
    rounds: int,
    variants: dict[str, Callable[[], object]],
    *,
    before: str,
    undo: bool = False,
) -> dict[str, list[float]]:
    """Return the seconds of each variant, taken in turns after one round that does not count; `undo` rolls back."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            connection.execute(before)
            began = time.perf_counter()
            if undo:
                with connection.transaction(force_rollback=True):
                    run()
            else:
                run()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def fill(connection: psycopg.Connection, rows: int) -> None:
    """Put `rows` rows of the last 30 days into both tables, two thirds of them recent."""
    connection.execute("TRUNCATE communication_telemetry")
    connection.execute("ALTER TABLE communication_telemetry DISABLE TRIGGER USER")
    connection.execute(
        """
        INSERT INTO communication_telemetry (id, timestamp, protocol, source_id, source_type, target_id, target_type,
            operation, duration_ms, status, tool_name, correlation_id, parent_correlation_id, metadata,
            trace_id, span_id, parent_span_id, observed_by, counted)
        SELECT gen_random_uuid(), now() - interval '30 days' * power(random(), 3), 'mcp', 'team-' || n %% 200, 'team',
            'target-' || n %% 1600, 'mcp', 'tool_call', random() * 200,
            CASE WHEN n %% 12 = 0 THEN 'error' ELSE 'success' END, 'tool_' || n %% 30,
            md5(n::text), left(md5(n::text), 16), '{"transport": "tcp"}',
            md5(n::text), left(md5(n::text), 16), left(md5(n::text), 16), 'client', true
        FROM generate_series(1, %s) AS n
        """,
        [rows],
    )
    connection.execute("ALTER TABLE communication_telemetry ENABLE TRIGGER USER")
    connection.execute(
        """
        INSERT INTO original_telemetry (id, timestamp, protocol, source_id, source_type, target_id, target_type,
            operation, status, tool_name, correlation_id, parent_correlation_id, metadata)
        SELECT id, timestamp, protocol, source_id, source_type, target_id, target_type,
            operation, status, tool_name, correlation_id, parent_correlation_id, metadata
        FROM communication_telemetry
        """
    )
    connection.execute("VACUUM ANALYZE communication_telemetry, original_telemetry")


def original_table() -> str:
    """Return the guide system's original table and its seven indexes, under a name of its own."""
    return """
        CREATE TABLE original_telemetry (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(), timestamp timestamptz DEFAULT now(),
            protocol varchar(10) NOT NULL CHECK (protocol IN ('mcp', 'a2a', 'n8n')),
            source_id varchar(255) NOT NULL, source_type varchar(50) NOT NULL,
            target_id varchar(255) NOT NULL, target_type varchar(50) NOT NULL, operation varchar(100) NOT NULL,
            duration_ms integer,
            status varchar(20) NOT NULL CHECK (status IN ('success', 'error', 'timeout', 'cancelled')),
            tool_name varchar(100), tool_category varchar(50), task_description text, capabilities_required text[],
            message_type varchar(50), workflow_id uuid, workflow_name varchar(255), workflow_node varchar(100),
            payload_size_bytes bigint, error_message text, error_code varchar(50), correlation_id varchar(100),
            parent_correlation_id varchar(100), tokens_used integer, estimated_cost numeric(12, 6),
            metadata jsonb DEFAULT '{}', created_at timestamptz DEFAULT now()
        );
        CREATE INDEX ON original_telemetry (timestamp DESC);
        CREATE INDEX ON original_telemetry (source_id, source_type);
        CREATE INDEX ON original_telemetry (target_id, target_type);
        CREATE INDEX ON original_telemetry (protocol);
        CREATE INDEX ON original_telemetry (status);
        CREATE INDEX ON original_telemetry (correlation_id);
    """


if __name__ == "__main__":
    sys.exit(main())
