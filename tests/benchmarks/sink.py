"""How much of a raw COPY's speed a sink keeps, from OTLP bytes to committed rows.

python tests/benchmarks/sink.py [--requests 60] [--rounds 5]

Starts a PostgreSQL and the sinks of its own and removes them. A request holds 512 spans of MCP calls, as a Collector
sends them: protobuf over HTTP. The variants take turns in one run, each on an emptied table: raw COPY of the rows those
spans become, pre-encoded, over one connection; a sink of one process, sent to by two clients; a sink of two, sent to by
four. A variant's time ends when its last request is answered, which is after its commit. Only ratios count.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

import httpx
import psycopg
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ingest_rows import BATCH, COLUMNS, encoded, push
from elf_automations.model import map_batch
from elf_automations.model.from_otlp_bytes import from_protobuf
from elf_automations.storage.connection import connect
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from sink_process import sink

_BARS: Final = {"sink, 1 process": 0.25, "sink, 2 processes": 0.35}
_TABLE: Final = "communication_telemetry"
_PROTOBUF: Final = {"content-type": "application/x-protobuf"}


def main() -> int:
    """Print each variant's speed and its ratio to raw COPY; return 1 when a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=60, help="requests of a variant in a round")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="elf-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "db", settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        try:
            return measure(server.start(), options.requests, options.rounds)
        finally:
            server.stop()


def measure(url: str, count: int, rounds: int) -> int:
    """Run the variants and return how many bars were missed, as 0 or 1."""
    dice = random.Random(7)
    seconds: dict[str, list[float]] = {"raw COPY": [], **{name: [] for name in _BARS}}
    with ExitStack() as stack:
        admin = stack.enter_context(connect(url))
        admin.execute("CREATE DATABASE encoder")
        migrate(url)
        migrate(url.replace("/postgres?", "/encoder?"))
        encoder = stack.enter_context(connect(url.replace("/postgres?", "/encoder?")))
        sinks = {name: stack.enter_context(sink(url, "--grpc", "off", "--workers", name.split()[1])) for name in _BARS}
        for number in range(rounds + 1):
            for name, times in seconds.items():
                bodies = [_request(dice) for _ in range(count)]
                copies = [_rows_of(encoder, body) for body in bodies] if name == "raw COPY" else []
                admin.execute(f"TRUNCATE {_TABLE}".encode())
                admin.execute("CHECKPOINT")
                began = time.perf_counter()
                if name == "raw COPY":
                    _copy(admin, copies)
                else:
                    _send(sinks[name].traces, bodies, 2 * int(name.split()[1]))
                took = time.perf_counter() - began
                (stored,) = admin.execute(f"SELECT count(*) FROM {_TABLE}".encode()).fetchone() or (0,)
                assert stored == count * BATCH, (name, stored)
                if number:
                    times.append(took)
    return _print(seconds, count, rounds)


def _print(seconds: dict[str, list[float]], count: int, rounds: int) -> int:
    rates = {name: count * BATCH / median(times) for name, times in seconds.items()}
    print(f"{BATCH} spans a request, {count} requests, median of {rounds} rounds")
    for name, rate in rates.items():
        bar = f"   bar {_BARS[name]:.2f}" if name in _BARS else ""
        print(f"  {name:<20} {rate:>10,.0f} rows/s   ratio {rate / rates['raw COPY']:5.2f}{bar}")
    return int(any(rates[name] / rates["raw COPY"] < bar for name, bar in _BARS.items()))


def _request(dice: random.Random) -> bytes:
    """Return a request of one team's finished calls, each with a trace of its own."""
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    team = f"team-{int(dice.paretovariate(1.2)) % 200}"
    for name, value in (("service.name", team), ("service.instance.id", f"{team}-1"), ("elf.entity.id", team)):
        group.resource.attributes.add(key=name).value.string_value = value
    group.resource.attributes.add(key="elf.entity.type").value.string_value = "team"
    scope = group.scope_spans.add()
    scope.scope.name = "elf-automations.mcp"
    now = time.time_ns()
    for _ in range(BATCH):
        span = scope.spans.add()
        span.trace_id, span.span_id = dice.randbytes(16), dice.randbytes(8)
        tool, target = f"tool_{dice.randrange(30)}", f"{team}-target-{dice.randrange(8)}"
        span.name, span.kind = f"tools/call {tool}", 3
        span.start_time_unix_nano = now - dice.randrange(10**9)
        span.end_time_unix_nano = span.start_time_unix_nano + int(dice.expovariate(1 / 80) * 1e6)
        failed = dice.random() < 1 / 12
        said = {
            "mcp.method.name": "tools/call",
            "gen_ai.tool.name": tool,
            "gen_ai.operation.name": "execute_tool",
            "mcp.protocol.version": "2026-07-28",
            "network.transport": "tcp",
            "server.address": "127.0.0.1",
            "jsonrpc.request.id": str(dice.randrange(9999)),
            "elf.source.id": team,
            "elf.source.type": "team",
            "elf.target.id": target,
            "elf.target.type": "mcp",
            "elf.target.endpoint": f"http://{target}:8080/mcp",
            "elf.outcome": "error" if failed else "success",
        }
        if failed:
            said |= {"error.type": "503", "elf.error.message": "the upstream answered 503", "elf.error.code": "503"}
        for name, value in said.items():
            span.attributes.add(key=name).value.string_value = value
        for name, number in (("server.port", 8080), ("elf.payload.size", dice.randrange(4000))):
            span.attributes.add(key=name).value.int_value = number
    return request.SerializeToString()


def _rows_of(encoder: psycopg.Connection, body: bytes) -> bytes:
    ours, _ = encoded(encoder, map_batch(from_protobuf(body).records).rows)
    return ours


def _copy(connection: psycopg.Connection, copies: Sequence[bytes]) -> None:
    for copy in copies:
        push(connection, _TABLE, COLUMNS, copy)


def _send(url: str, bodies: Sequence[bytes], clients: int) -> None:
    def send(mine: Sequence[bytes]) -> None:
        with httpx.Client(timeout=120) as client:
            for body in mine:
                client.post(url, content=body, headers=_PROTOBUF).raise_for_status()

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(send, [bodies[at::clients] for at in range(clients)]))


if __name__ == "__main__":
    sys.exit(main())
