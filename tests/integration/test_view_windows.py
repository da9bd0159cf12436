"""The windows of the views at any hour of the day: what is right at noon must be right at midnight."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from naive_views import PATTERNS, TOP_PAIRS, assert_same, rows

# Skewed, so that some pairs cannot be among the twenty; some are busy one day and not the next.
_CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms, tokens_used,
    estimated_cost
)
select
    now() - number * interval '150 seconds', (array['mcp', 'a2a'])[1 + number %% 2],
    'team-' || floor(exp(mod(number * 7919, 1000) * 0.0035)) + case when number %% 1500 < 700 then 0 else 20 end,
    (array['team', 'team', 'service'])[1 + number %% 3], 'server-' || number %% 3, 'mcp', 'tool_call',
    case when number %% 20 = 0 then 'error' else 'success' end, number %% 300, number %% 1000,
    (number %% 7)::numeric / 1000
from generate_series(%s::integer, %s::integer) as number
"""


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Three days of calls, some of them pending."""
    with psycopg.connect(module_database_url, autocommit=True) as opened:
        opened.execute(_CALLS.encode(), [100, 1800])
        opened.execute("select fold_telemetry_rollups()")
        # A snapshot that stands still does not fold.
        opened.execute("set default_transaction_isolation = 'repeatable read'")
        opened.execute(_CALLS.encode(), [0, 99])
        opened.execute("reset default_transaction_isolation")
        yield opened


def at(clock: datetime, query: str) -> str:
    return query.replace("now()", f"timestamptz '{clock.isoformat()}'")


@pytest.mark.parametrize(
    ("view", "naive"), [("top_communication_pairs", TOP_PAIRS), ("communication_patterns", PATTERNS)]
)
def test_a_view_is_right_at_any_hour(connection: psycopg.Connection[Any], view: str, naive: str) -> None:
    found = connection.execute(
        "select pg_get_viewdef(%s::regclass), date_trunc('hour', now()), count(*) from telemetry_rollup_pending", [view]
    ).fetchone()
    assert found
    definition, now, pending = found
    assert pending > 0
    for hours in range(26):
        for minutes in (0, 59):
            clock = now - timedelta(hours=hours, minutes=minutes)
            wanted = rows(connection, at(clock, naive))
            assert wanted
            assert_same(rows(connection, at(clock, definition)), wanted, f"{view} at {clock:%H:%M}")
