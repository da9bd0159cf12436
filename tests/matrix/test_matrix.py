"""Every way a call can go, on every stack and transport: one counted row with the right status, and nothing changed.

`make test-matrix` runs this in one environment for each line of the SDK and of FastMCP.
"""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest

from elf_automations.model import settle
from elf_automations.storage.writer import PostgresWriter
from matrix.behaviours import EXPECTED
from matrix.running import Run, run_traced, run_untraced
from matrix.stacks import STACKS, TRANSPORTS

pytestmark = pytest.mark.anyio

WAYS = [(stack, transport) for stack in STACKS for transport in TRANSPORTS]
ROWS = [(operation, tool, status) for _, operation, tool, status in EXPECTED]


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
async def run(way, tmp_path_factory, anyio_backend) -> Run:
    return await run_traced(*way, tmp_path_factory.mktemp("traced"))


def test_each_call_is_one_counted_row(run):
    rows = settle([*run.client, *run.server]).rows
    counted = sorted((row for row in rows if row.counted), key=lambda row: row.timestamp)
    assert [(row.operation, row.tool_name, row.status) for row in counted] == ROWS
    ends = {(row.source_id, row.source_type, row.target_id, row.target_type) for row in counted}
    assert ends == {("marketing-team", "team", "weather-tools", "mcp")}
    assert {row.observed_by for row in counted} == {"client"}


def test_a_call_has_one_span_on_each_side_whoever_else_would_make_one(run):
    rows = settle([*run.client, *run.server]).rows
    sides = [row.observed_by for row in rows]
    assert (sides.count("client"), sides.count("server")) == (len(EXPECTED), len(EXPECTED))
    assert len({row.trace_id for row in rows}) == len(EXPECTED)


def test_both_sides_say_how_they_are_connected(run, way):
    (client,) = [span for span in run.client if span.name == "prompts/get greet"]
    (server,) = [span for span in run.server if span.name == "prompts/get greet"]
    over_http = way[1] == "http"
    has_session = over_http and not way[0].endswith("modern")
    for side in (client, server):
        assert side.attributes["network.transport"] == ("tcp" if over_http else "pipe")
        assert side.attributes.get("network.protocol.name") == ("http" if over_http else None)
        assert side.attributes["mcp.protocol.version"] == ("2026-07-28" if way[0].endswith("modern") else "2025-11-25")
        assert ("mcp.session.id" in side.attributes) is has_session
    assert client.attributes["jsonrpc.request.id"] == server.attributes["jsonrpc.request.id"]
    assert client.attributes.get("mcp.session.id") == server.attributes.get("mcp.session.id")
    assert ("server.port" in client.attributes, "client.port" in server.attributes) == (over_http, over_http)


def test_a_json_rpc_error_says_its_code_on_both_sides(run):
    def codes(spans, error_type):
        ended = [span for span in spans if span.attributes.get("error.type") == error_type]
        return [span.attributes.get("rpc.response.status_code") for span in ended]

    (server,) = [span for span in run.server if "never" in span.attributes.get("mcp.resource.uri", "")]
    (client,) = [span for span in run.client if "never" in span.attributes.get("mcp.resource.uri", "")]
    code = server.attributes["rpc.response.status_code"]
    assert code.removeprefix("-").isdecimal()
    # The type on the client's span may be FastMCP's, whose span it then is.
    assert (client.attributes["rpc.response.status_code"], server.attributes["error.type"]) == (code, code)
    for spans in (run.client, run.server):
        assert set(codes(spans, "tool_error")) == {None}


def test_the_halves_of_a_call_meet_in_the_database_when_they_come_apart(run, database_url):
    """The server's batch alone and first: it counts until its caller's half is there."""
    writer = PostgresWriter(database_url)
    try:
        first = settle(run.server)
        writer.write(first.rows, first.entities, retry=False)
        assert len([row for row in first.rows if row.counted]) == len(EXPECTED)
        second = settle(run.client)
        writer.write(second.rows, second.entities, retry=False)
        writer.settle(datetime.fromtimestamp(0, UTC))
    finally:
        writer.close()
    with psycopg.connect(database_url) as connection:
        stored = connection.execute(
            "select operation, tool_name, status, source_id, target_id, observed_by from communication_telemetry"
            " where counted order by timestamp"
        ).fetchall()
    assert stored == [(*row, "marketing-team", "weather-tools", "client") for row in ROWS]


async def test_the_application_sees_the_same_without_telemetry(run, way, tmp_path):
    assert run.seen == await run_untraced(*way, tmp_path)
