"""The convention's four histograms on every stack, over HTTP where operations and sessions have most to say."""

from __future__ import annotations

import pytest

from elf_automations.demo.serving import served
from matrix.client import connected
from matrix.server import http_application, weather_tools
from matrix.stacks import STACKS
from mcp_metrics import measured, points

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("stack", STACKS)]


@pytest.fixture
def reader():
    with measured() as found:
        yield found


async def test_operations_and_sessions_are_timed_on_both_sides(stack, reader):
    server = weather_tools(stack)
    async with (
        served(lambda _: http_application(server, stack)) as url,
        connected(stack, f"{url}/mcp") as caller,
    ):
        await caller.tool("get_weather", {"city": "Oslo"})
        with pytest.raises(Exception, match="never"):
            await caller.resource("weather://never")
    found = points(reader)
    modern = stack.endswith("modern")
    connection = {
        "mcp.protocol.version": "2026-07-28" if modern else "2025-11-25",
        "network.transport": "tcp",
        "network.protocol.name": "http",
    }
    tool = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "get_weather"}
    place = {"server.address": "127.0.0.1", "server.port": int(url.rpartition(":")[2])}
    for side, more in (("client", place), ("server", {})):
        timed = {point.attributes["mcp.method.name"]: point for point in found[f"mcp.{side}.operation.duration"]}
        assert dict(timed["tools/call"].attributes) == {**connection, **tool, **more}
        assert timed["tools/call"].count == 1
        assert 0 < timed["tools/call"].sum < 5
        failed = dict(timed["resources/read"].attributes)
        assert failed.pop("error.type") == failed.pop("rpc.response.status_code")
        assert failed == {**connection, **more, "mcp.method.name": "resources/read"}
    (as_client,) = found["mcp.client.session.duration"]
    assert as_client.count == 1
    assert as_client.attributes["mcp.protocol.version"] == connection["mcp.protocol.version"]
    assert as_client.attributes["network.transport"] == "tcp"
    # A modern request over HTTP has no session.
    assert [point.count for point in found.get("mcp.server.session.duration", ())] == ([] if modern else [1])
