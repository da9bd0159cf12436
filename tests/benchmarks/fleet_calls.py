"""The calls of a fleet, loaded into a fresh schema at the speed of the disk: what the benchmarks of the views read.

Thirty days of calls of 200 callers (the nth calls 1/n as often as the first) with 8 targets each over 3 protocols, and
a registry of 2,000 entities four levels deep.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import psycopg

_BATCH: Final = 512
_PENDING_BATCHES: Final = 4

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
_LAST_MONTH: Final = _CALLS.format(age="interval '1 day' + random() * interval '29 days'")
_LAST_DAY: Final = _CALLS.format(age="interval '1 hour' + random() * interval '23 hours'")
_LAST_HOUR: Final = _CALLS.format(age="random() * interval '1 hour'")
_A_ROW_A_DAY: Final = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, status
)
select day, 'mcp', 'team-1', 'team', 'server-1', 'mcp', 'tool_call', 'success'
from generate_series(now() - interval '30 days', now(), interval '1 day') as day
"""
# 20 departments of 9 teams, each with a server or two and workflows below them.
_REGISTRY: Final = """
insert into unified_registry (
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status, last_activity,
    last_health_check
)
select
    made.name, made.type, made.name, made.parent, 'department-' || number %% 20,
    (array['active', 'active', 'active', 'inactive', 'error'])[1 + number %% 5],
    (array['healthy', 'healthy', 'degraded', 'unhealthy'])[1 + number %% 4],
    now() - random() * interval '20 minutes', now() - random() * interval '1 hour'
from generate_series(1, %s) as number
cross join lateral (
    select
        case
            when number <= 20 then 'head-' || number
            when number <= 220 then 'team-' || number - 20
            when number <= 420 then 'server-' || number - 221
            else 'workflow-' || number
        end,
        case when number <= 220 then 'team' when number <= 420 then 'mcp_server' else 'n8n_workflow' end,
        case
            when number <= 20 then null
            when number <= 220 then 'head-' || 1 + number %% 20
            when number <= 420 then 'team-' || number - 220
            else 'server-' || number %% 200
        end
) as made (name, type, parent)
"""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many calls there are in all, of them in the last day, of them in the last hour."""

    rows: int
    last_day: int
    last_hour: int


def load_history(connection: psycopg.Connection[Any], traffic: Traffic) -> None:
    """Put all but the last hour past the triggers, roll it up by day, and register the fleet."""
    started = time.perf_counter()
    connection.execute(_A_ROW_A_DAY.encode())
    connection.execute("select ensure_telemetry_partitions()")
    connection.execute("set session_replication_role = replica")
    for calls, count in (
        (_LAST_MONTH, traffic.rows - traffic.last_day),
        (_LAST_DAY, traffic.last_day - traffic.last_hour),
    ):
        for chunk in _chunks(count, 250_000):
            connection.execute(calls.encode(), [chunk])
    connection.execute("reset session_replication_role")
    connection.execute(_REGISTRY.encode(), [2_000])
    loaded = time.perf_counter()
    # Day by day with its upkeep, as it came about: hours of pairs are kept for three days only.
    for (day,) in connection.execute(
        "select generate_series(current_date - 31, current_date + 1, interval '1 day')::date"
    ).fetchall():
        connection.execute("select rebuild_telemetry_rollups(%s)", [day])
        connection.execute("select maintain_telemetry_rollups()")
        connection.execute(
            "vacuum telemetry_rollup_pending, telemetry_pair_hours, telemetry_pair_minutes, telemetry_ends"
        )
    print(
        f"{traffic.rows:,} rows: loaded in {loaded - started:.0f} s, rolled up in {time.perf_counter() - loaded:.0f} s",
        flush=True,
    )


def load_last_hour(connection: psycopg.Connection[Any], traffic: Traffic) -> None:
    """Write the last hour as writers do, the last batches of it not folded yet."""
    for chunk in _chunks(traffic.last_hour - _PENDING_BATCHES * _BATCH, _BATCH):
        connection.execute(_LAST_HOUR.encode(), [chunk])
    connection.execute("select fold_telemetry_rollups()")
    # What a running system has pending, and some more. A snapshot that stands still does not fold.
    connection.execute("set default_transaction_isolation = 'repeatable read'")
    for _ in range(_PENDING_BATCHES):
        connection.execute(_LAST_HOUR.encode(), [_BATCH])
    connection.execute("reset default_transaction_isolation")
    connection.execute("vacuum analyze")


def sizes(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Return the bytes on disk of all calls and of each rollup, indexes included."""
    return dict(
        connection.execute(
            "select 'communication_telemetry', sum(pg_total_relation_size(relid))::bigint "
            "from pg_partition_tree('communication_telemetry') "
            "union all select relname, pg_total_relation_size(oid) from pg_class "
            "where relkind = 'r' and relname ~ '^telemetry_(minute|pair|ends|rollup)'"
        ).fetchall()
    )


def _chunks(rows: int, size: int) -> Iterator[int]:
    for start in range(0, rows, size):
        yield min(size, rows - start)
