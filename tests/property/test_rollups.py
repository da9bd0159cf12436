"""Whatever is written, repeated, settled, corrected, moved and deleted: the views say what the rows say."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from elf_automations.model import Communication
from elf_automations.storage.writer import PostgresWriter
from naive_views import assert_rollups_are_right, assert_views_are_right
from spans import row

# Seconds ago; two of them are late by days, one is in the future.
AGES = st.one_of(st.integers(0, 600), st.sampled_from([-90, 3500, 3700, 86_000, 90_000, 5 * 86_400, 9 * 86_400]))
DURATIONS = st.one_of(
    st.none(),
    st.just(0.0),
    st.sampled_from([1.0, 1.5, 20.0]),
    st.floats(0.000001, 1e7, allow_nan=False).map(lambda ms: round(ms, 6)),
)
STATUSES = st.sampled_from(["success", "success", "error", "timeout", "cancelled"])
NAMES = st.sampled_from(["alpha", "beta", "gamma"])

CALLS = st.builds(
    lambda age, duration, status, source, target, protocol, counted, tokens: {
        "age": age,
        "duration_ms": duration,
        "status": status,
        "source_id": source,
        "target_id": target,
        "protocol": protocol,
        "counted": counted,
        "tokens_used": tokens,
        "estimated_cost": None if tokens is None else Decimal(tokens) / 1000,
    },
    AGES,
    DURATIONS,
    STATUSES,
    NAMES,
    NAMES,
    st.sampled_from(["mcp", "a2a"]),
    st.sampled_from([True, True, True, False]),
    st.one_of(st.none(), st.integers(0, 5000)),
)

STATEMENTS = [
    "update communication_telemetry set counted = not counted where span_id < '8'",
    "update communication_telemetry set status = 'error', error_code = 'E' where status = 'success' and span_id > '4'",
    "update communication_telemetry set duration_ms = duration_ms / 2 where duration_ms > 5",
    "update communication_telemetry set duration_ms = null where span_id > 'a'",
    "update communication_telemetry set timestamp = timestamp - interval '1 day' where span_id < '3'",
    "update communication_telemetry set source_id = 'delta', metadata = '{}' where source_id = 'alpha'",
    "update communication_telemetry set metadata = '{\"seen\": true}'",
    "delete from communication_telemetry where span_id > 'c'",
    "delete from communication_telemetry where duration_ms in (select max(duration_ms) from communication_telemetry)",
    "delete from communication_telemetry where timestamp in (select max(timestamp) from communication_telemetry)",
    "delete from communication_telemetry where protocol = 'a2a'",
    (
        "insert into communication_telemetry "
        "(protocol, source_id, source_type, target_id, target_type, operation, status) "
        "values ('mcp', 'alpha', 'team', 'beta', 'mcp', 'tool_call', 'success')"
    ),
    "select record_mcp_telemetry('alpha', 'beta', 'find', 'timeout', 12.5, 42)",
    "select settle_communications('-infinity')",
    "select fold_telemetry_rollups()",
    "select refresh_telemetry_metrics()",
    "select rebuild_telemetry_rollups((now() at time zone 'UTC')::date)",
    "truncate communication_telemetry",
]

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(CALLS, min_size=1, max_size=6), st.sampled_from([1, 1, 15])),
        st.tuples(st.just("again"), st.integers(0, 3), st.booleans()),
        st.tuples(st.just("sql"), st.sampled_from(STATEMENTS), st.booleans()),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def writer(module_database_url):
    made = PostgresWriter(module_database_url)
    yield made, module_database_url
    made.close()


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(STEPS, st.randoms(use_true_random=False))
def test_views_equal_their_naive_twins(writer, steps, random):
    writing, url = writer
    delivered: list[list[Communication]] = [[]]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate communication_telemetry, unified_registry")
        for kind, what, how in steps:
            if kind == "write":
                batch: list[Communication] = []
                for call in what * how:
                    batch.append(_call(call, random, [*delivered[-1], *batch]))
                delivered.append(batch)
                writing.write(batch, [], retry=random.random() < 0.3)
            elif kind == "again":
                writing.write(delivered[what % len(delivered)], [], retry=how)
            elif how:
                connection.execute(what.encode())
            else:
                # Done and taken back: the rollups must not remember it.
                with connection.transaction(force_rollback=True):
                    connection.execute(what.encode())
                    assert_views_are_right(connection)
            assert_views_are_right(connection)
        assert_rollups_are_right(connection)
        assert_views_are_right(connection)


def _call(values: dict, random, earlier: list[Communication]) -> Communication:
    fields = {**values}
    at = datetime.now(UTC) - timedelta(seconds=fields.pop("age"))
    made = row(0, id=uuid.UUID(int=random.getrandbits(128)), timestamp=at, **fields)
    made = replace(made, trace_id=f"{random.getrandbits(128):032x}", span_id=f"{random.getrandbits(64):016x}")
    if earlier and random.random() < 0.4:
        # The server's view of an earlier call, for settling.
        caller = random.choice(earlier)
        return replace(
            made,
            **{name: getattr(caller, name) for name in ("trace_id", "protocol", "source_id", "target_id", "timestamp")},
            parent_span_id=caller.span_id,
            observed_by="server",
        )
    return made
