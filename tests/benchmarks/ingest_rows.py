"""The rows that the ingest benchmark writes, also as the bytes of a COPY into ours and into the original table."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import psycopg
from psycopg import sql

from elf_automations.model import Communication, Entity
from elf_automations.storage.copy_rows import copy_into_table

BATCH = 512
COLUMNS = [field.name for field in fields(Communication)]
ORIGINAL_COLUMNS = COLUMNS[:26]
"""All columns of the original table but created_at."""
_CONVERTED: Final = {
    "workflow_id": "uuid",
    "duration_ms": "integer",
    "tokens_used": "integer",
    "payload_size_bytes": "integer",
    "estimated_cost": "decimal(10, 4)",
}


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as rows with what they add to the registry, and as two COPYs of the same values."""

    rows: Sequence[Communication]
    entities: Sequence[Entity]
    ours: bytes
    original: bytes


class Supply:
    """Makes batches, a second apart, each of calls that began in its last `spread` seconds; no row twice."""

    def __init__(self, encoder: psycopg.Connection, begin: datetime, spread: float) -> None:
        self._encoder = encoder
        self._until = begin
        self._spread = spread
        self._dice = random.Random(7)

    def take(self, count: int) -> list[Batch]:
        """Return the next `count` batches."""
        return [self._batch() for _ in range(count)]

    def _batch(self) -> Batch:
        self._until += timedelta(seconds=1)
        dice = self._dice
        rows = [_row(dice, self._until - timedelta(seconds=dice.random() * self._spread)) for _ in range(BATCH)]
        # In the order in which spans end, as exporters send them.
        rows.sort(key=lambda row: row.timestamp + timedelta(milliseconds=row.duration_ms or 0))
        ours, original = encoded(self._encoder, rows)
        return Batch(rows, _activity(rows), ours, original)


def push(connection: psycopg.Connection, table: str, columns: Sequence[str], batch: bytes) -> None:
    """COPY one encoded batch in a transaction of its own."""
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(table), names)
    with connection.transaction(), connection.cursor() as cursor, cursor.copy(query) as copy:
        copy.write(batch)


def _row(dice: random.Random, at: datetime) -> Communication:
    """Return a row as a busy fleet makes them: 200 sources, 8 targets each, one in twelve fails."""
    trace, span = dice.randbytes(16), dice.randbytes(8)
    source = f"team-{int(dice.paretovariate(1.2)) % 200}"
    failed = dice.random() < 1 / 12
    return Communication(
        id=uuid.UUID(bytes=trace[8:] + span),
        timestamp=at,
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


def _activity(rows: Sequence[Communication]) -> list[Entity]:
    calls: Counter[tuple[str, str]] = Counter()
    errors: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for end in (("team", row.source_id), ("mcp_server", row.target_id)):
            calls[end] += 1
            errors[end] += row.status == "error"
    return [
        Entity(
            entity_id=name,
            entity_type=kind,
            observed=False,
            calls=number,
            errors=errors[kind, name],
            last_activity=rows[-1].timestamp,
        )
        for (kind, name), number in sorted(calls.items())
    ]


def encoded(connection: psycopg.Connection, rows: Sequence[Communication]) -> tuple[bytes, bytes]:
    columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    converted = sql.SQL(", ").join(
        sql.SQL(f"{{}}::{_CONVERTED[name]}" if name in _CONVERTED else "{}").format(sql.Identifier(name))
        for name in ORIGINAL_COLUMNS
    )
    made: list[bytes] = []
    with connection.transaction(force_rollback=True):
        connection.execute("DROP TRIGGER communication_telemetry_added ON communication_telemetry")
        copy_into_table(connection, rows)
        for chosen in (columns, converted):
            # By the place of the rows, which is the order they were sent in.
            query = sql.SQL("COPY (SELECT {} FROM communication_telemetry) TO STDOUT (FORMAT BINARY)").format(chosen)
            with connection.cursor().copy(query) as copy:
                made.append(b"".join(bytes(part) for part in copy))
    return made[0], made[1]
