"""An application that knows nothing of telemetry: it uses tools over HTTP and another agent.

    opentelemetry-instrument python tests/pipeline/application.py ROUNDS

It prints one JSON object, what it called and how often it saw which end: `{"get_weather": {"success": 2}, …}`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from mcp import Client, MCPError

from a2a_agents import agent, events_of
from elf_automations.demo.serving import served
from mcp_server import weather_tools

SECRET = "sk-fake0000000000000000"  # what a careless tool says when it fails
PATIENCE = 0.2
ORDERS = {"complete": "success", "fail": "error", "reject": "error"}


async def main(rounds: int) -> dict[str, dict[str, int]]:
    """Return what was seen of the calls of `rounds` rounds."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    async with served(lambda _: weather_tools().streamable_http_app()) as url, agent("sales-team") as sales:
        async with Client(f"{url}/mcp") as tools:
            for _ in range(rounds):
                seen["get_weather"][await _tool(tools.call_tool("get_weather", {"city": "Oslo"}))] += 1
                seen["broken"][await _tool(tools.call_tool("broken", {"city": SECRET}))] += 1
                seen["slow"][await _impatient(tools)] += 1
                seen["slow"][await _changing_its_mind(tools)] += 1
        client = await sales.client()
        for _ in range(rounds):
            for order, expected in ORDERS.items():
                await events_of(client, order)
                seen["send_task"][expected] += 1
        await client.close()
    return seen


async def _tool(call: Awaitable[Any]) -> str:
    return "error" if (await call).is_error else "success"


async def _impatient(tools: Client) -> str:
    try:
        await tools.session.call_tool("slow", {"seconds": 1}, read_timeout_seconds=PATIENCE)
    except MCPError:
        return "timeout"
    return "success"


async def _changing_its_mind(tools: Client) -> str:
    call = asyncio.ensure_future(tools.call_tool("slow", {"seconds": 1}))
    await asyncio.sleep(PATIENCE)
    call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        return "cancelled"
    return "success"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
