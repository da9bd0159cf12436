"""A server of the matrix in its own process, and a client in this one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from elf_automations import acting_as
from elf_automations.instrumentation.mcp import MCPInstrumentor
from elf_automations.model import SpanRecord
from elf_automations.model.from_sdk import SdkSpans
from matrix.behaviours import EXPECTED, everything
from matrix.client import Caller, Command, connected
from matrix.span_file import records_in
from tracing import Spans, instrumented

SERVER = str(Path(__file__).parent / "server.py")
DEADLINE = 30.0


@dataclass(frozen=True)
class Run:
    """The client's spans, the server's spans and what the application saw."""

    client: list[SpanRecord]
    server: list[SpanRecord]
    seen: list[object]


async def run_traced(stack: str, transport: str, folder: Path) -> Run:
    """Call in every way, both sides instrumented: the server with the global provider, this process with its own."""
    spans, here = folder / "spans", Spans()
    with instrumented(MCPInstrumentor(), here), acting_as("marketing-team"):
        async with caller(stack, transport, folder, spans) as opened:
            seen = await everything(opened)
    await until(lambda: _all_in(spans))
    reader = SdkSpans()
    client = [record for span in here.finished if (record := reader.record(span))]
    return Run(client, records_in(spans), seen)


async def run_untraced(stack: str, transport: str, folder: Path) -> list[object]:
    """Call in every way, nothing instrumented."""
    async with caller(stack, transport, folder, None) as opened:
        return await everything(opened)


@asynccontextmanager
async def caller(stack: str, transport: str, folder: Path, spans: Path | None) -> AsyncIterator[Caller]:
    environment = {"PYTHONWARNINGS": "ignore", **({"MATRIX_SPANS": str(spans)} if spans else {})}
    if transport == "stdio":
        command = Command(sys.executable, [SERVER, stack, "stdio"], environment)
        async with connected(stack, command) as opened:
            yield opened
        return
    address = folder / f"address-{time.monotonic_ns()}"
    with _http_server(stack, address, environment):
        await until(address.exists)
        async with connected(stack, address.read_text()) as opened:
            yield opened
            if spans:
                await until(lambda: _all_in(spans))


@contextmanager
def _http_server(stack: str, address: Path, environment: dict[str, str]) -> Iterator[None]:
    server = subprocess.Popen(
        [sys.executable, SERVER, stack, "http", str(address)],
        env={**os.environ, **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        server.terminate()
        server.wait(DEADLINE)


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.05)


def _all_in(spans: Path) -> bool:
    """Whether the server has ended its half of every call, those that were given up included."""
    ended = [span for span in records_in(spans) if span.attributes.get("elf.outcome")]
    return len([span for span in ended if not span.attributes.get("elf.implicit")]) >= len(EXPECTED)
