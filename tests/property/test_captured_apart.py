"""Spans captured from other people's libraries, cut into batches anywhere: once settled, the rows of one batch.

But for listings: that nobody asked for one is told by what lies beside it, of which another batch may know nothing.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elf_automations.model import SpanRecord, settle
from elf_automations.storage.writer import PostgresWriter
from records import recorded

FIXTURES = Path(__file__).parents[1] / "fixtures" / "mcp"
# Each is of one kind: mounted servers, proxies and what they look up, a gateway, a client whose server alone knows its name.
NAMES = (
    *("fastmcp4_mounted", "fastmcp3_mounted", "fastmcp4_proxy", "fastmcp3_proxy"),
    *("agentgateway", "fastmcp4_http", "native_mcp2"),
)


def _captured(name: str) -> list[SpanRecord]:
    """Return the spans of a capture but for traces with HTTP spans: these make no row, so no row leads past them."""
    spans = recorded(FIXTURES / f"{name}.json")
    broken = {one.trace_id for one in spans if "httpx" in one.scope_name}
    return [one for one in spans if one.trace_id not in broken]


CAPTURED = {name: _captured(name) for name in NAMES}
_PASSES = ["select settle_communications('-infinity')", "select settle_communications_if_due(p_wait => true)"]
_DECIDED = """
select trace_id, span_id, counted, coalesce(tool_name, operation), status, target_id, metadata ? 'target_guessed'
from communication_telemetry where counted and operation <> 'tool_list' order by trace_id, span_id
"""


@pytest.fixture(scope="module")
def writer(module_database_url):
    made = PostgresWriter(module_database_url)
    yield made, module_database_url
    made.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.sampled_from(sorted(CAPTURED)), st.data())
def test_what_was_captured_ends_alike_however_it_is_delivered(writer, name, data):
    writing, url = writer
    spans = CAPTURED[name]
    cuts = data.draw(st.lists(st.integers(0, 2), min_size=len(spans), max_size=len(spans)), label="batch of each span")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("truncate communication_telemetry, unified_registry, telemetry_unsettled")
        for batch in range(3):
            settled = settle([one for one, cut in zip(spans, cuts, strict=True) if cut == batch])
            writing.write(settled.rows, settled.entities, retry=False)
            if data.draw(st.booleans(), label="settle between"):
                connection.execute(_PASSES[1].encode())
        connection.execute(data.draw(st.sampled_from(_PASSES), label="the last pass").encode())
        decided = connection.execute(_DECIDED).fetchall()
        assert connection.execute(_PASSES[0].encode()).fetchone() == (0,)
    assert decided == _at_once(spans)


def _at_once(spans: list[SpanRecord]) -> list[tuple[object, ...]]:
    return sorted(
        (
            row.trace_id, row.span_id, True, row.tool_name or row.operation, row.status, row.target_id,
            "target_guessed" in row.metadata,
        )
        for row in settle(spans).rows
        if row.counted and row.operation != "tool_list"
    )  # fmt: skip
