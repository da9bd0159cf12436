"""The ten ways a call can go, and the row each must become."""

from __future__ import annotations

import asyncio
from typing import Any

from matrix.client import Caller

SLOW = 1.5
PATIENCE = 0.3

# Behaviour, operation, tool, status.
EXPECTED = [
    ("ok", "tool_call", "get_weather", "success"),
    ("raises", "tool_call", "broken", "error"),
    ("isError", "tool_call", "flags", "error"),
    ("client timeout", "tool_call", "slow", "timeout"),
    ("caller cancel", "tool_call", "slow", "cancelled"),
    ("unknown tool", "tool_call", "nothing", "error"),
    ("bad arguments", "tool_call", "get_weather", "error"),
    ("prompt", "prompt_get", None, "success"),
    ("resource", "resource_read", None, "success"),
    ("bad resource", "resource_read", None, "error"),
]


async def everything(caller: Caller) -> list[object]:
    """Call in every way; return what the application sees of each."""

    async def impatient() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await caller.tool("slow", {"seconds": SLOW})

    return [
        await _seen(caller.tool("get_weather", {"city": "Oslo"})),
        await _seen(caller.tool("broken", {"city": "Oslo"})),
        await _seen(caller.tool("flags", {"city": "Oslo"})),
        await _seen(caller.tool("slow", {"seconds": SLOW}, patience=PATIENCE)),
        await _seen(impatient()),
        await _seen(caller.tool("nothing", {})),
        await _seen(caller.tool("get_weather", {"town": "Oslo"})),
        await _seen(caller.prompt("greet", {"name": "Ada"})),
        await _seen(caller.resource("weather://today")),
        await _seen(caller.resource("weather://never")),
    ]


async def _seen(call: Any) -> object:
    try:
        result = await call
    except Exception as error:
        causes = (type(error.__cause__), type(error.__context__))
        return type(error), str(error), causes
    return type(result), repr(result)
