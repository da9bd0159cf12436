"""What tracing costs a call of a tool: CPU time of client and server.

Run by hand: `python tests/benchmarks/mcp_overhead.py [--over memory,stdio,http] [--rounds 12] [--chunks 8]`, with mcp
2.x or, in the environment `mcp-1` of `make test-matrix`, with mcp 1.x; there Traceloop's instrumentation and logfire
take part. All variants take turns in one process, so that only ratios count; over stdio each has its server in a
process of its own, whose CPU time is added. Other work on the machine only ever adds to a chunk of calls, so the lower
quartile of the chunks is compared. Every variant that makes spans ends them in a batch processor whose exporter throws
them away.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import random
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mcp_variants import MAJOR, Pipeline, Variant, variants

BARS = {"native": 1.15, "traceloop": 1.0, "logfire": 1.0}
# Patching a class makes the interpreter forget what it specialised: a long-running process pays that once.
WARM_UP = 200
CHUNK = 40


@dataclass(frozen=True)
class Bench:
    """A connection: what calls the tool, and the CPU seconds and spans of a server in another process."""

    call: Callable[[], Awaitable[Any]]
    server: Callable[[], Awaitable[tuple[float, int]]]


@asynccontextmanager
async def connected(name: str, over: str) -> AsyncIterator[Bench]:
    """Connect a client to a server with one trivial tool."""
    async with AsyncExitStack() as opened:
        session = await (_first(opened, name, over) if MAJOR < 2 else _second(opened, name, over))

        async def same_process() -> tuple[float, int]:
            return 0.0, 0

        async def other_process() -> tuple[float, int]:
            seconds, spans = (await session.call_tool("spent", {})).content[0].text.split()
            return float(seconds), int(spans)

        yield Bench(
            lambda: session.call_tool("greet", {"name": "Ada"}), other_process if over == "stdio" else same_process
        )


async def _http(opened: AsyncExitStack) -> str:
    from elf_automations.demo.serving import served

    return f"{await opened.enter_async_context(served(lambda _: server(None).streamable_http_app()))}/mcp"


async def _second(opened: AsyncExitStack, name: str, over: str) -> Any:
    from mcp import Client, StdioServerParameters

    where: Any = server(None)
    if over == "http":
        where = await _http(opened)
    elif over == "stdio":
        where = StdioServerParameters(**_command(name))
    return await opened.enter_async_context(Client(where, mode="legacy"))


async def _first(opened: AsyncExitStack, name: str, over: str) -> Any:
    from mcp import ClientSession, StdioServerParameters
    from mcp.client import stdio, streamable_http
    from mcp.shared.memory import create_connected_server_and_client_session

    # By the names that Traceloop's instrumentation wraps.
    if over == "memory":
        return await opened.enter_async_context(create_connected_server_and_client_session(server(None)))
    if over == "http":
        url = await _http(opened)
        streams: Any = await opened.enter_async_context(streamable_http.streamablehttp_client(url))
    else:
        streams = await opened.enter_async_context(stdio.stdio_client(StdioServerParameters(**_command(name))))
    session = await opened.enter_async_context(ClientSession(streams[0], streams[1]))
    await session.initialize()
    return session


def _command(name: str) -> dict[str, Any]:
    return {"command": sys.executable, "args": [__file__, "--serve", name], "env": dict(os.environ)}


def server(pipeline: Pipeline | None) -> Any:
    """Return a server with a trivial tool and, for a process of its own, one that says what it has spent and made."""
    if MAJOR < 2:
        from mcp.server.fastmcp import FastMCP as Server
    else:
        from mcp.server.mcpserver import MCPServer as Server
    made: Any = Server("bench", log_level="CRITICAL")

    @made.tool()
    def greet(name: str) -> str:
        """Greet somebody."""
        return f"Hello {name}"

    if pipeline is None:
        return made

    @made.tool()
    def spent() -> str:
        """Return CPU seconds and spans so far, and collect no garbage from here on."""
        pipeline.processor.force_flush()
        gc.collect()
        gc.disable()
        return f"{time.process_time()} {pipeline.exporter.spans}"

    return made


def serve(name: str) -> None:
    """Be the server of a variant on stdin and stdout."""
    pipeline = Pipeline()
    with variants()[name](pipeline):
        server(pipeline).run("stdio")


async def measure(name: str, variant: Variant, chunks: int, over: str) -> tuple[list[float], float]:
    """Return CPU microseconds a call of each chunk of calls, and spans a call."""
    pipeline = Pipeline()
    taken: list[float] = []
    with variant(pipeline):
        async with connected(name, over) as bench:
            for _ in range(WARM_UP):
                await bench.call()
            pipeline.processor.force_flush()
            made = -pipeline.exporter.spans
            gc.collect()
            gc.disable()
            there, made_there = await bench.server()
            first = made_there
            for _ in range(chunks):
                began = time.process_time()
                for _ in range(CHUNK):
                    await bench.call()
                here = time.process_time() - began
                before = there
                there, made_there = await bench.server()
                taken.append((here + there - before) / CHUNK * 1e6)
            pipeline.processor.force_flush()
            gc.enable()
    # A call that asks the server is one of its own on both sides.
    calls = chunks * (CHUNK + (over == "stdio")) + (over == "stdio")
    made += pipeline.exporter.spans + made_there - first
    pipeline.close()
    return taken, made / calls


def compare(over: str, rounds: int, chunks: int) -> bool:
    """Print the table of a transport and its bars; return whether they hold."""
    compared = variants()
    taken: dict[str, list[float]] = {name: [] for name in compared}
    spans: dict[str, float] = {}
    order = list(compared.items())
    for _ in range(rounds):
        random.shuffle(order)
        for name, variant in order:
            costs, spans[name] = asyncio.run(measure(name, variant, chunks, over))
            taken[name] += costs
    low = {name: quantiles(costs, n=4)[0] for name, costs in taken.items()}
    print(f"mcp {version('mcp')}: CPU us per call_tool over {over}, {rounds * chunks} chunks of {CHUNK} calls each")
    print(f"{'variant':<12}{'lowest':>9}{'quarter':>9}{'median':>9}{'of bare':>9}{'spans':>7}")
    for name, costs in taken.items():
        row = f"{min(costs):9.0f}{low[name]:9.0f}{median(costs):9.0f}{low[name] / low['bare']:9.2f}"
        print(f"{name:<12}{row}{spans[name]:7.1f}")
    held = True
    for rival in [name for name in BARS if name in low]:
        held &= low["ours"] / low[rival] <= BARS[rival]
        print(
            f"ours / {rival}: {low['ours'] / low[rival]:.3f} by the lower quartile (bar {BARS[rival]:.2f})", flush=True
        )
    return held


def main() -> int:
    """Print the tables; exit 1 when a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=12)
    arguments.add_argument("--chunks", type=int, default=8)
    arguments.add_argument("--over", default="memory,stdio,http")
    arguments.add_argument("--serve", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    if chosen.serve:
        serve(chosen.serve)
        return 0
    held = [compare(over, chosen.rounds, chosen.chunks) for over in chosen.over.split(",")]
    return int(not all(held))


if __name__ == "__main__":
    raise SystemExit(main())
