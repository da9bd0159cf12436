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
# Each is of one kind: mounted servers, proxies, a gateway, a client whose server alone knows its name, HTTP between.
NAMES = (
    *("fastmcp4_mounted", "fastmcp3_mounted", "fastmcp4_proxy", "fastmcp3_proxy"),
    *("fastmcp4_resources", "fastmcp3_resources"),
    *("agentgateway", "fastmcp4_http", "fastmcp4_http_traced", "native_mcp2", "cancelled_mcp2"),
)


CAPTURED = {name: recorded(FIXTURES / f"{name}.json") for name in NAMES}
_PASSES = ["select settle_communications('-infinity')", "select settle_communications_if_due(p_wait => true)"]
_DECIDED = """
select trace_id, span_id, counted, coalesce(tool_name, operation), status, target_id, metadata ? 'target_guessed'
from communication_telemetry where counted and right(operation, 5) <> '_list' order by trace_id, span_id
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
    drawn = data.draw(st.lists(st.integers(0, 2), min_size=len(spans), max_size=len(spans)), label="batch of each span")
    cuts = [drawn[place] for place in _with_its_request(spans)]
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


def _with_its_request(spans: list[SpanRecord]) -> list[int]:
    """Return for each span the place of the one it comes with: that of an HTTP request comes with the call around it.

    Which is the one that made the request, or what the request carried.
    """
    places = {one.span_id: place for place, one in enumerate(spans)}
    carried = {one.span_id for one in spans if one.scope_name.endswith(".asgi")}
    return [
        places[one.parent_span_id or b""]
        if one.parent_span_id in carried or (one.scope_name.endswith(".httpx") and one.parent_span_id in places)
        else place
        for place, one in enumerate(spans)
    ]


def _at_once(spans: list[SpanRecord]) -> list[tuple[object, ...]]:
    return sorted(
        (
            row.trace_id, row.span_id, True, row.tool_name or row.operation, row.status, row.target_id,
            "target_guessed" in row.metadata,
        )
        for row in settle(spans).rows
        if row.counted and not row.operation.endswith("_list")
    )  # fmt: skip
