"""The convention's four histograms, in seconds, with its attributes and buckets."""

from __future__ import annotations

import pytest
from mcp import Client

from elf_automations.demo.serving import served
from mcp_metrics import measured, points
from mcp_server import weather_tools

pytestmark = pytest.mark.anyio

BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


@pytest.fixture
def reader():
    with measured() as found:
        yield found


async def test_operations_are_timed_on_both_sides(reader):
    async with (
        served(lambda _: weather_tools().streamable_http_app()) as url,
        Client(f"{url}/mcp", mode="legacy") as client,
    ):
        await client.call_tool("get_weather", {"city": "Oslo"})
        await client.call_tool("broken", {"city": "Oslo"})
        await client.get_prompt("greet", {"name": "Ada"})
    found = points(reader)
    shared = {"mcp.protocol.version": "2025-11-25", "network.transport": "tcp", "network.protocol.name": "http"}
    tool = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool"}
    expected = [
        {**shared, **tool, "gen_ai.tool.name": "broken", "error.type": "tool_error"},
        {**shared, **tool, "gen_ai.tool.name": "get_weather"},
        {**shared, "mcp.method.name": "prompts/get", "gen_ai.prompt.name": "greet"},
    ]
    port = int(url.rpartition(":")[2])
    for name, place in (
        ("mcp.client.operation.duration", {"server.address": "127.0.0.1", "server.port": port}),
        ("mcp.server.operation.duration", {}),
    ):
        mine = [dict(point.attributes) for point in found[name] if point.attributes["mcp.method.name"] != "tools/list"]
        assert sorted(mine, key=repr) == sorted(({**attributes, **place} for attributes in expected), key=repr)
        assert {point.explicit_bounds for point in found[name]} == {BUCKETS}
        assert all(0 < point.sum < 5 for point in found[name])


@pytest.mark.parametrize("transport", ["http-legacy", "in-process-legacy"])
async def test_sessions_are_timed_on_both_sides(reader, transport):
    if transport == "http-legacy":
        async with (
            served(lambda _: weather_tools().streamable_http_app()) as url,
            Client(f"{url}/mcp", mode="legacy") as client,
        ):
            await client.list_tools()
    else:
        async with Client(weather_tools(), mode="legacy") as client:
            await client.list_tools()
    found = points(reader)
    (as_client,), (as_server,) = found["mcp.client.session.duration"], found["mcp.server.session.duration"]
    assert as_client.attributes["mcp.protocol.version"] == "2025-11-25"
    assert as_client.attributes.get("network.transport") == ("tcp" if transport == "http-legacy" else None)
    assert as_server.count == as_client.count == 1
    assert as_client.sum > 0
