"""However n8n's spans are cut into batches and in whatever order they come: the same rows, registry and rollups."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg.rows import dict_row

from elf_automations.model import SpanRecord, settle
from elf_automations.storage.writer import PostgresWriter
from n8n_scenarios import SCENARIOS, STATE
from n8n_spans import run
from naive_views import assert_rollups_are_right

_PASSES = ["SELECT settle_communications('-infinity')", "SELECT settle_communications_if_due(p_wait => true)"]
_REGISTERED = """
insert into unified_registry (entity_id, entity_type, entity_name, registered_by, metadata) values
('billing', 'n8n_workflow', 'Billing', 'n8n', '{"node_targets": {"Charge": "api.bank.example"}}'),
('slow', 'n8n_workflow', 'Slow', 'n8n', '{"execution_timeout": 0.004}'),
('slower', 'n8n_workflow', 'Slower', 'n8n', '{"execution_timeout": 0.004}'),
('h3Timeout0000001', 'n8n_workflow', 'Slow', 'n8n', '{"execution_timeout": 3600}'),
('h3Failure0000001', 'n8n_workflow', 'Billing', 'n8n', '{"node_targets": {"Charge card": "api.cards.example"}}'),
('crm', 'mcp_server', 'CRM', 'test', '{}'), ('n8n', 'service', 'n8n', 'test', '{}'),
('n8n-h3', 'service', 'n8n', 'test', '{}'), ('unknown', 'service', '?', 'test', '{}'),
('sales-team', 'team', 'Sales', 'test', '{}'), ('planner', 'service', 'Planner', 'test', '{}')
"""


@pytest.fixture(scope="module")
def writer(module_database_url):
    made = PostgresWriter(module_database_url)
    yield made, module_database_url
    made.close()


def _stored(connection: psycopg.Connection[Any], writing: PostgresWriter, batches: list[list[SpanRecord]], passes):
    connection.execute("TRUNCATE communication_telemetry, unified_registry, telemetry_unsettled")
    connection.execute(_REGISTERED)
    for batch, settling in zip(batches, passes, strict=True):
        settled = settle(batch)
        writing.write(settled.rows, settled.entities, retry=False)
        if settling:
            connection.execute(settling.encode())
    for settling in _PASSES:
        changed = connection.execute(settling.encode()).fetchone()
    assert changed == (True,)
    assert connection.execute("SELECT settle_communications('-infinity')").fetchone() == (0,)
    assert connection.execute("SELECT count(*) FROM telemetry_unsettled").fetchone() == (0,)
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute("SELECT * FROM communication_telemetry ORDER BY timestamp, id").fetchall()
        registry = cursor.execute(
            "SELECT entity_id, entity_type, entity_name, activity_count, error_count, last_activity "
            "FROM unified_registry ORDER BY 1, 2"
        ).fetchall()
    assert_rollups_are_right(connection)
    for row in rows:
        del row["created_at"]
    return rows, registry


@settings(
    max_examples=70,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.sampled_from(sorted(SCENARIOS)), st.data())
def test_any_batches_give_what_one_gives(writer, scenario, data):
    """Also when everything is delivered again, and whichever pass comes in between."""
    writing, url = writer
    made = SCENARIOS[scenario]
    order = data.draw(st.permutations(made), label="order")
    cuts = data.draw(st.lists(st.integers(0, 3), min_size=len(made), max_size=len(made)), label="batch of each span")
    passes = data.draw(st.lists(st.sampled_from(["", *_PASSES]), min_size=5, max_size=5), label="after each batch")
    batches = [[one for one, cut in zip(order, cuts, strict=True) if cut == number] for number in range(4)]
    again = data.draw(st.lists(st.sampled_from(made)), label="delivered again")
    with psycopg.connect(url, autocommit=True) as connection:
        rows, registry = _stored(connection, writing, [*batches, again], passes)
        at_once, known = _stored(connection, writing, [made], [""])
    assert rows == at_once
    for found, expected in zip(registry, known, strict=True):
        at, then = found.pop("last_activity"), expected.pop("last_activity")
        assert found == expected
        # Who was taken for the caller until the workflow came was active all the same; a duration in ms is off by a µs.
        exact = found["entity_id"] not in {"n8n", "n8n-h3", "unknown", "planner", "sales-team"}
        assert (at is None and then is None) or not exact or abs((at - then).total_seconds()) < 0.00001


@pytest.mark.parametrize("scenario", sorted(SCENARIOS))
def test_a_batch_leaves_nothing_to_settle(writer, scenario):
    """The joins in the package and in SQL are the same: only what the registry knows comes on top."""
    writing, url = writer
    settled = settle(SCENARIOS[scenario])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("TRUNCATE communication_telemetry, unified_registry, telemetry_unsettled")
        writing.write(settled.rows, settled.entities, retry=False)
        assert connection.execute("SELECT settle_communications('-infinity')").fetchone() == (0,)


def test_order_within_a_batch_does_not_matter():
    for made in SCENARIOS.values():
        expected = sorted(settle(made).rows, key=lambda row: row.span_id)
        assert sorted(settle(made[::-1]).rows, key=lambda row: row.span_id) == expected


def test_a_trace_of_many_resumes_is_joined_to_its_start():
    made = [run(1, "approval", "waiting", parent=99, trace_state=STATE)]
    made += [run(number, "approval", "waiting", parent=number - 1, link=number - 1) for number in range(2, 40)]
    made.append(run(40, "approval", parent=39, link=39))
    assert {row.source_id for row in settle(made).rows} == {"sales-team"}
    assert [row.counted for row in settle(made).rows].count(True) == 1
