"""What a span costs each tier of agents → Kafka → gateways → sinks → Postgres, in CPU time and in bytes.

python tests/benchmarks/kafka_pipeline.py [--requests 80] [--partitions 4] [--workers 1]

Starts a PostgreSQL, an Apache Kafka broker (`make kafka`), a sink and the Collectors (`make collector`) of its own and
removes them. The same requests of 512 finished tool calls go three ways: through an agent straight to the sink; through
an agent and Kafka, with a record for each batch; and, a fortieth of them, with a record for each trace, here for each
span. The CPU time of a tier is that of its processes from before the first span until all rows are committed, in µs a
span: 10^6 by that is what one core does in a second. MB is the most its first process ever had resident. The spans wait
in Kafka before the gateway starts, so that its seconds are those of gateway, sink and Postgres at work together.
"""

from __future__ import annotations

import argparse
import gzip
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ingest_rows import BATCH
from benchmarks.sink import _request
from collector_tiers import agent
from elf_automations.storage.connection import connect
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from kafka_broker import Broker, broker
from kafka_tiers import kafka_agent, kafka_gateway
from sink_process import Sink, sink
from spans import eventually

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PROTOBUF: Final = {"content-type": "application/x-protobuf"}
_MINUTES: Final = 300.0
_ROWS: Final = "SELECT count(*) FROM communication_telemetry"
_SIZE: Final = "SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('communication_telemetry')"
_WRITERS: Final = b"""
SELECT count(*), count(*) FILTER (WHERE wait_event_type = 'Lock') FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state <> 'idle' AND pid <> pg_backend_pid()
"""


@dataclass(slots=True)
class Measured:
    """What one way cost: µs of CPU a span by tier, and seconds until every row was committed."""

    spans: int
    seconds: float = 0.0
    locked: float = 0.0
    """Which part of their time writers waited for a lock."""
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    """The most each tier ever had resident, in MB; of Postgres its first process alone."""

    @contextmanager
    def busy(self, **tiers: int) -> Iterator[None]:
        """Count what the processes `tiers` names, by process id, use in the body."""
        before = {name: _cpu_seconds(pid) for name, pid in tiers.items()}
        began = time.perf_counter()
        yield
        self.seconds = time.perf_counter() - began
        for name, pid in tiers.items():
            self.cpu[name] = (_cpu_seconds(pid) - before[name]) / self.spans * 1e6
            self.memory[name] = _most_resident(pid)


@dataclass(frozen=True, slots=True)
class World:
    """What all three ways share."""

    folder: Path
    database: psycopg.Connection
    postgres: int
    """Process id of the server."""
    sink: Sink
    kafka: Broker

    def empty(self) -> None:
        self.database.execute("TRUNCATE communication_telemetry")
        self.database.execute("CHECKPOINT")

    def wait_for(self, spans: int) -> float:
        """Wait until so many rows are committed; return how much of their time writers waited for locks."""
        busy = locked = 0
        deadline = time.monotonic() + _MINUTES
        while self._one(_ROWS) < spans:
            assert time.monotonic() < deadline, "not all rows came"
            # Counting costs the server, and what it costs is measured: many cheap looks for each count.
            for _ in range(10):
                time.sleep(0.03)
                found = self.database.execute(_WRITERS).fetchone()
                busy, locked = busy + found[0], locked + found[1]  # type: ignore[index]
        return locked / max(1, busy)

    def row_bytes(self, spans: int) -> float:
        """Return the bytes a row takes in the table and its indexes."""
        return self._one(_SIZE) / spans

    def wal(self) -> int:
        return self._one("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')")

    def _one(self, query: str) -> int:
        found = self.database.execute(query.encode()).fetchone()
        assert found
        return int(found[0])


def main() -> int:
    """Print what each tier costs."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--requests", type=int, default=80, help="requests of 512 spans each way")
    arguments.add_argument("--partitions", type=int, default=4)
    arguments.add_argument("--workers", type=int, default=1, help="processes of the sink")
    options = arguments.parse_args()
    dice = random.Random(7)
    bodies = [_request(dice) for _ in range(options.requests)]
    with _world(options.workers) as world:
        _print("agent → sink", _straight(world, bodies))
        _print(
            "agent → Kafka → gateway → sink, a record a batch",
            _through_kafka(world, bodies, options.partitions, "batches"),
        )
        few = bodies[: max(1, len(bodies) // 40)]
        _print("the same, a record a trace", _through_kafka(world, few, options.partitions, "traces", by_trace=True))
    spans = len(bodies) * BATCH
    print(f"OTLP protobuf {sum(map(len, bodies)) / spans:.0f} B a span")
    print(
        f"the same with gzip, a request at a time {sum(len(gzip.compress(body, 5)) for body in bodies) / spans:.0f} B"
    )
    return 0


@contextmanager
def _world(workers: int) -> Iterator[World]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="elf-bench-")))
        server = EmbeddedPostgres(folder / "db", settings={"shared_buffers": "1GB", "max_wal_size": "8GB"})
        url = server.start()
        stack.callback(server.stop)
        migrate(url)
        database = stack.enter_context(connect(url))
        pidfile = Path(str(database.execute("SHOW data_directory").fetchone()[0])) / "postmaster.pid"  # type: ignore[index]
        running = stack.enter_context(sink(url, "--grpc", "off", "--workers", str(workers)))
        kafka = stack.enter_context(broker(folder / "kafka"))
        yield World(folder, database, int(pidfile.read_text().split()[0]), running, kafka)


def _straight(world: World, bodies: list[bytes]) -> Measured:
    measured = Measured(len(bodies) * BATCH)
    world.empty()
    (world.folder / "straight").mkdir()
    with agent(world.folder / "straight", world.sink.url) as tier:
        assert tier.collector.process
        with measured.busy(agent=tier.collector.process.pid, sink=world.sink.process.pid, postgres=world.postgres):
            _send(f"{tier.http}/v1/traces", bodies)
            measured.locked = world.wait_for(measured.spans)
    return measured


def _through_kafka(
    world: World, bodies: list[bytes], partitions: int, topic: str, *, by_trace: bool = False
) -> Measured:
    measured = Measured(len(bodies) * BATCH)
    kafka, folder = world.kafka, world.folder / topic
    assert kafka.process
    folder.mkdir()
    kafka.create_topic(topic, partitions=partitions)
    world.empty()
    with kafka_agent(folder, kafka.address, topic, ELF_KAFKA_BY_TRACE=str(by_trace).lower()) as tier:
        assert tier.collector.process
        with measured.busy(agent=tier.collector.process.pid, kafka_in=kafka.process.pid):
            _send(f"{tier.http}/v1/traces", bodies)
            eventually(lambda: kafka.ends(topic) and not tier.waiting, within=_MINUTES)
    wal = world.wal()
    # The gateway is not there yet: the whole life of its process is counted.
    with kafka_gateway(folder / "gateway.log", kafka.address, topic, world.sink.url) as gateway:
        assert gateway.process
        with measured.busy(
            gateway=gateway.process.pid,
            kafka_out=kafka.process.pid,
            sink=world.sink.process.pid,
            postgres=world.postgres,
        ):
            measured.locked = world.wait_for(measured.spans)
        eventually(lambda: not kafka.behind(topic, topic))
    held = sum(segment.stat().st_size for segment in kafka.folder.glob(f"log/{topic}-*/*.log"))
    row, journal = world.row_bytes(measured.spans), (world.wal() - wal) / measured.spans
    print(f"  {sum(kafka.ends(topic).values())} records, {held / measured.spans:.0f} B a span in Kafka")
    print(f"  {row:.0f} B a row with indexes, {journal:.0f} B of WAL")
    return measured


def _send(url: str, bodies: list[bytes]) -> None:
    with httpx.Client(timeout=120) as client, ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda body: client.post(url, content=body, headers=_PROTOBUF), bodies):
            answer.raise_for_status()


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, of its children, and of those that have ended."""
    used = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return sum(map(int, used)) / _TICK + sum(map(_cpu_seconds, map(int, children)))


def _most_resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def _print(way: str, measured: Measured) -> None:
    rate = measured.spans / measured.seconds
    print(
        f"{way}: {measured.spans} spans, the last leg {rate:,.0f} spans/s, writers wait {measured.locked:.0%} for locks"
    )
    for tier, microseconds in measured.cpu.items():
        core = f"{1e6 / max(microseconds, 0.1):>12,.0f} spans/s a core"
        print(f"  {tier:<10}{microseconds:>8.1f} µs{core}{measured.memory[tier]:>8.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
