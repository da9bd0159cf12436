"""How much of a raw COPY's speed a sink keeps, from OTLP bytes to committed rows.

python tests/benchmarks/sink.py [--requests 120] [--rounds 5]

Starts a PostgreSQL and the sinks of its own and removes them. A request holds 512 spans of MCP calls, as a Collector
sends them: protobuf over HTTP, on as many connections as a Collector's exporter has (10), each taking the next request
when its last is answered. The variants take turns, each alone on the machine as far as this script goes and on an
emptied table: raw COPY of the rows those spans become, pre-encoded, a transaction for each 512, over one connection; a
sink of one process; a sink of two. A sink is started and warmed up before its turn and ended after it, so that its
settling disturbs nobody else's. A variant's time ends when its last request is answered, which is after its commit.
Bodies are made beforehand and sent as they are: a client costs its socket and little more, for it shares the cores.
Only ratios count, each of a sink to the raw COPY of the same round.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from typing import Final
from urllib.parse import urlsplit

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

_BARS: Final = {1: 0.25, 2: 0.35}
"""By the number of the sink's processes."""
_CONNECTIONS: Final = 10
_TABLE: Final = "communication_telemetry"
_PROTOBUF: Final = {"content-type": "application/x-protobuf"}


def main() -> int:
    """Print each variant's speed and its ratio to raw COPY; return 1 when a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=120, help="requests of a variant in a round")
    arguments.add_argument("--rounds", type=int, default=5)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="elf-bench-") as folder:
        server = EmbeddedPostgres(Path(folder) / "db", settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        try:
            return _Benchmark(server.start(), options.requests).run(options.rounds)
        finally:
            server.stop()


class _Benchmark:
    def __init__(self, url: str, count: int) -> None:
        self._url, self._count = url, count
        self._dice = random.Random(7)

    def run(self, rounds: int) -> int:
        """Run the variants `rounds` times and return whether a bar was missed, as 0 or 1."""
        raw: list[float] = []
        sinks: dict[int, list[float]] = {workers: [] for workers in _BARS}
        with ExitStack() as stack:
            self._admin = stack.enter_context(connect(self._url))
            self._admin.execute("CREATE DATABASE encoder")
            migrate(self._url)
            migrate(self._url.replace("/postgres?", "/encoder?"))
            self._encoder = stack.enter_context(connect(self._url.replace("/postgres?", "/encoder?")))
            for _ in range(rounds):
                raw.append(self._raw())
                for workers, seconds in sinks.items():
                    seconds.append(self._sink(workers))
        return _print(raw, sinks, self._count)

    def _raw(self) -> float:
        copies = [_rows_of(self._encoder, body) for body in self._bodies(self._count)]
        return self._timed(lambda: _copy(self._admin, copies))

    def _sink(self, workers: int) -> float:
        bodies = self._bodies(self._count)
        with sink(self._url, "--grpc", "off", "--workers", str(workers)) as running:
            _send(running.traces, self._bodies(2 * _CONNECTIONS))
            return self._timed(lambda: _send(running.traces, bodies))

    def _bodies(self, count: int) -> list[bytes]:
        return [_request(self._dice) for _ in range(count)]

    def _timed(self, variant: Callable[[], None]) -> float:
        self._admin.execute(f"TRUNCATE {_TABLE}".encode())
        self._admin.execute("CHECKPOINT")
        began = time.perf_counter()
        variant()
        took = time.perf_counter() - began
        (stored,) = self._admin.execute(f"SELECT count(*) FROM {_TABLE}".encode()).fetchone() or (0,)
        assert stored == self._count * BATCH, stored
        return took


def _print(raw: Sequence[float], sinks: dict[int, list[float]], count: int) -> int:
    load = os.getloadavg()[0]
    print(f"{BATCH} spans a request, {count} requests, median of {len(raw)} rounds, load {load:.1f} at the end")
    print(f"  {'raw COPY':<20} {count * BATCH / median(raw):>10,.0f} rows/s   ratio  1.00")
    missed = 0
    for workers, seconds in sinks.items():
        ratio = median(alone / took for alone, took in zip(raw, seconds, strict=True))
        missed |= ratio < _BARS[workers]
        name = f"sink, {workers} process{'es' if workers > 1 else ''}"
        rate = count * BATCH / median(seconds)
        print(f"  {name:<20} {rate:>10,.0f} rows/s   ratio {ratio:5.2f}   bar {_BARS[workers]:.2f}")
    return int(missed)


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


def _send(url: str, bodies: Sequence[bytes]) -> None:
    waiting: SimpleQueue[bytes] = SimpleQueue()
    for body in bodies:
        waiting.put(body)
    where = urlsplit(url)

    def send(_number: int) -> None:
        connection = HTTPConnection(where.netloc, timeout=120)
        while True:
            try:
                body = waiting.get_nowait()
            except Empty:
                break
            connection.request("POST", where.path, body, _PROTOBUF)
            with connection.getresponse() as answer:
                assert answer.status == 200, answer.status
                answer.read()
        connection.close()

    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        list(pool.map(send, range(_CONNECTIONS)))


if __name__ == "__main__":
    sys.exit(main())
