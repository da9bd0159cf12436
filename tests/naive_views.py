"""The views and rollups once more, straight over the rows: slow, and plain to see that it is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import isclose
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from elf_automations.storage.queries import fetch

_FAILED: Final = "status in ('error', 'timeout')"
_RATE: Final = f"(100.0 * count(*) filter (where {_FAILED}) / count(*))::double precision"
_PAIR: Final = "source_id, source_type, target_id, target_type, protocol"
_P95: Final = "percentile_disc(0.95) within group (order by duration_ms)"

HEALTH: Final = f"""
select protocol, count(distinct source_id) as active_sources, count(distinct target_id) as active_targets,
    count(*) as total_requests_5min, avg(duration_ms) as avg_duration_ms,
    count(*) filter (where {_FAILED}) as errors_5min, {_RATE} as error_rate,
    percentile_disc(0.5) within group (order by duration_ms) as p50, {_P95} as p95,
    percentile_disc(0.99) within group (order by duration_ms) as p99
from communication_telemetry
where counted and timestamp >= date_trunc('minute', now() - interval '5 minutes', 'UTC')
group by protocol
"""

PATTERNS: Final = f"""
select {_PAIR}, count(*) as total_calls, avg(duration_ms) as avg_duration_ms, min(duration_ms) as min_duration_ms,
    max(duration_ms) as max_duration_ms, count(*) filter (where {_FAILED}) as error_count,
    count(distinct date_trunc('day', timestamp, 'UTC')) as active_days, max(timestamp) as last_communication
from communication_telemetry
where counted and timestamp >= date_trunc('day', now() - interval '7 days', 'UTC')
group by {_PAIR}
"""

TOP_PAIRS: Final = """
select source_id as source, target_id as target, protocol, count(*) as call_count, avg(duration_ms) as avg_duration_ms,
    coalesce(sum(tokens_used), 0)::bigint as total_tokens, coalesce(sum(estimated_cost), 0) as total_cost
from communication_telemetry
where counted and timestamp >= date_trunc('hour', now() - interval '24 hours', 'UTC')
group by source_id, target_id, protocol
order by call_count desc, source, target, protocol
limit 20
"""

REALTIME: Final = f"""
select date_trunc('minute', timestamp, 'UTC') as minute, protocol, source_id, source_type, target_id, target_type,
    count(*) as request_count,
    avg(duration_ms) as avg_duration_ms, {_P95} as p95_duration_ms,
    count(*) filter (where {_FAILED}) as error_count, {_RATE} as error_rate
from communication_telemetry
where counted and timestamp >= date_trunc('minute', now() - interval '1 hour', 'UTC')
group by minute, {_PAIR}
"""

VIEWS: Final = {
    "system_health_overview": HEALTH,
    "communication_patterns": PATTERNS,
    "top_communication_pairs": TOP_PAIRS,
    "communication_metrics_realtime": REALTIME,
}

_SINCE: Final = "%(since)s::interval"


def _window(unit: str) -> str:
    return f"counted and timestamp >= date_trunc('{unit}', now() - {_SINCE}, 'UTC')"


def _matrix(unit: str) -> str:
    return f"""
select source_id, target_id, protocol, count(*) as calls, avg(duration_ms) as avg_ms,
    count(*) filter (where {_FAILED}) as errors
from communication_telemetry
where {_window(unit)}
group by source_id, target_id, protocol
"""


def _top_pairs(unit: str) -> str:
    return f"""
select source_id, target_id, protocol, count(*) as calls, count(*) filter (where {_FAILED}) as errors,
    avg(duration_ms) as avg_ms, coalesce(sum(tokens_used), 0)::bigint as tokens,
    coalesce(sum(estimated_cost), 0) as cost
from communication_telemetry
where {_window(unit)}
group by source_id, target_id, protocol
order by calls desc, source_id, target_id, protocol
limit %(limit)s
"""


# Named queries with what they are asked, and the same over the rows.
QUERIES: Final[Sequence[tuple[str, Mapping[str, object], str]]] = (
    (
        "request_volume",
        {"since": "1 hour"},
        (
            "select date_trunc('minute', timestamp, 'UTC') as minute, protocol, count(*) as calls "
            f"from communication_telemetry where {_window('minute')} group by 1, 2"
        ),
    ),
    (
        "error_rates",
        {"since": "1 hour"},
        (
            f"select protocol, count(*) as calls, count(*) filter (where {_FAILED}) as errors, {_RATE} as error_rate "
            f"from communication_telemetry where {_window('minute')} group by protocol"
        ),
    ),
    (
        "latency",
        {"since": "1 hour"},
        (
            "select protocol, percentile_disc(0.5) within group (order by duration_ms) as p50_ms, "
            f"{_P95} as p95_ms, percentile_disc(0.99) within group (order by duration_ms) as p99_ms "
            f"from communication_telemetry where {_window('minute')} group by protocol"
        ),
    ),
    ("communication_matrix", {"since": "1 hour"}, _matrix("minute")),
    ("communication_matrix", {"since": "2 hours 1 second"}, _matrix("hour")),
    ("communication_matrix", {"since": "7 days"}, _matrix("day")),
    ("top_pairs", {"since": "24 hours", "limit": 3}, _top_pairs("hour")),
    ("top_pairs", {"since": "6 days", "limit": 3}, _top_pairs("day")),
)

_SUMS: Final = f"""count(*) as calls, count(*) filter (where {_FAILED}) as errors,
    count(*) filter (where status = 'cancelled') as cancelled, count(duration_ms) as timed,
    coalesce(sum(round(duration_ms * 1e6)::bigint), 0) as duration_ns,
    coalesce(sum(tokens_used), 0) as tokens, coalesce(sum(estimated_cost), 0) as cost"""
_EXTREMES: Final = "min(duration_ms) as shortest_ms, max(duration_ms) as longest_ms, max(timestamp) as last_at"
_KEPT: Final = "calls, errors, cancelled, timed, duration_ns, tokens, cost"

# Of all time: what the rollups hold once nothing is pending, and what the rows say.
_ROLLUPS: Final = {
    "telemetry_minutes": (
        f"select minute, protocol, {_KEPT} from telemetry_minutes where calls <> 0",
        (
            f"select date_trunc('minute', timestamp, 'UTC') as minute, protocol, {_SUMS} "
            "from communication_telemetry where counted group by 1, 2"
        ),
    ),
    "telemetry_minute_latency": (
        (
            "select minute, protocol, sum(calls)::bigint as calls from telemetry_minute_latency "
            "group by 1, 2 having sum(calls) <> 0"
        ),
        (
            "select date_trunc('minute', timestamp, 'UTC') as minute, protocol, count(duration_ms) as calls "
            "from communication_telemetry where counted group by 1, 2 having count(duration_ms) > 0"
        ),
    ),
    "telemetry_pair_hours": (
        (
            f"select hour, {_PAIR}, {_KEPT}, shortest_ms, longest_ms, last_at "
            "from telemetry_pair_hours inner join telemetry_pairs using (pair_id)"
        ),
        (
            f"select date_trunc('hour', timestamp, 'UTC') as hour, {_PAIR}, {_SUMS}, {_EXTREMES} "
            f"from communication_telemetry where counted group by 1, {_PAIR}"
        ),
    ),
    "telemetry_pair_days": (
        (
            f"select day, {_PAIR}, {_KEPT}, shortest_ms, longest_ms, last_at "
            "from telemetry_pair_days inner join telemetry_pairs using (pair_id)"
        ),
        (
            f"select (timestamp at time zone 'UTC')::date as day, {_PAIR}, {_SUMS}, {_EXTREMES} "
            f"from communication_telemetry where counted group by 1, {_PAIR}"
        ),
    ),
}

_PERCENTILES: Final = {"p50", "p95", "p99", "p95_duration_ms", "p50_ms", "p95_ms", "p99_ms"}
_RATIOS: Final = {"avg_duration_ms", "avg_ms", "error_rate"}


def assert_views_are_right(connection: psycopg.Connection[Any]) -> None:
    """Compare each view and named query with its twin at one moment: all equal, percentiles within 9 %."""
    with connection.transaction():
        for view, naive in VIEWS.items():
            assert_same(rows(connection, f"select * from {view}"), rows(connection, naive), view)
        for name, parameters, naive in QUERIES:
            assert_same(fetch(connection, name, **parameters), rows(connection, naive, parameters), name)


def assert_rollups_are_right(connection: psycopg.Connection[Any]) -> None:
    """Compare what the rollups hold of all time with the rows, nothing being pending."""
    with connection.transaction():
        connection.execute("select fold_telemetry_rollups()")
        for table, (held, naive) in _ROLLUPS.items():
            assert_same(rows(connection, held), rows(connection, naive), table)


def rows(
    connection: psycopg.Connection[Any], query: str, parameters: Mapping[str, object] | None = None
) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query.encode(), parameters).fetchall()


def assert_same(found: list[dict[str, Any]], wanted: list[dict[str, Any]], name: str) -> None:
    def key(row: dict[str, Any]) -> list[str]:
        plain = {name: value for name, value in row.items() if name not in _PERCENTILES | _RATIOS}
        return [f"{value:.9f}" if isinstance(value, Decimal | int) else str(value) for value in plain.values()]

    found, wanted = sorted(found, key=key), sorted(wanted, key=key)
    assert [list(row) for row in found[:1]] == [list(row) for row in wanted[:1]], name
    assert [key(row) for row in found] == [key(row) for row in wanted], name
    for have, want in zip(found, wanted, strict=True):
        for column in _RATIOS & have.keys():
            assert _close(have[column], want[column], 1e-9), (name, column, have, want)
        for column in _PERCENTILES & have.keys():
            assert _close(have[column], want[column], 0.09), (name, column, have, want)


def _close(have: float | None, want: float | None, share: float) -> bool:
    if have is None or want is None:
        return have is want
    # Rollups keep whole nanoseconds.
    return isclose(have, want, abs_tol=1e-6) or abs(have - want) <= share * abs(want)
