"""agents → Kafka → gateways → sinks → Postgres: every call once, whatever is killed, nothing acknowledged early.

The broker is Apache Kafka (`make kafka`), the Collectors are those of `make collector` with the files of
collector-config/kafka, the sinks are `elf-telemetry sink`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random

import httpx
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan

from collector_process import Collector, free_address
from kafka_broker import Broker, broker
from kafka_tiers import kafka_agent, kafka_gateway
from otlp import request_of
from sink_process import Sink, sink
from spans import eventually, tool_call


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("kafka") / "broker") as running:
        yield running


@dataclass(slots=True)
class Tiers:
    """One test's topic and what runs around it; the topic's name is the consumer group's too."""

    kafka: Broker
    topic: str
    folder: Path
    stack: ExitStack
    agent_url: str = ""
    sent: int = 0

    def agent(self, **environment: str) -> Collector:
        tier = self.stack.enter_context(kafka_agent(self.folder, self.kafka.address, self.topic, **environment))
        self.agent_url = f"{tier.http}/v1/traces"
        return tier.collector

    def gateway(self, sink_url: str, name: str = "gateway", **environment: str) -> Collector:
        log = self.folder / f"{name}.log"
        return self.stack.enter_context(kafka_gateway(log, self.kafka.address, self.topic, sink_url, **environment))

    def send(self, spans: int) -> None:
        """Give the agent the next `spans` calls, in one request."""
        self.post(_body([tool_call(self.sent + number) for number in range(spans)]))
        self.sent += spans

    def post(self, body: bytes) -> None:
        answer = httpx.post(
            self.agent_url, content=body, headers={"content-type": "application/x-protobuf"}, timeout=30
        )
        answer.raise_for_status()

    def send_a_record(self, spans: int) -> None:
        """Send, and wait until Kafka has it: the agent would put what comes at once into one record."""
        before = self.records
        self.send(spans)
        eventually(lambda: self.records > before, within=60)

    @property
    def records(self) -> int:
        return sum(self.kafka.ends(self.topic).values())

    @property
    def behind(self) -> int:
        return self.kafka.behind(self.topic, self.topic)


_numbers = count(1)


@pytest.fixture
def tiers(kafka: Broker, tmp_path: Path) -> Iterator[Tiers]:
    topic = f"spans-{next(_numbers)}"
    kafka.create_topic(topic, partitions=4)
    with ExitStack() as stack:
        yield Tiers(kafka, topic, tmp_path, stack)


def test_every_call_is_once_in_the_table_while_sinks_and_a_gateway_are_killed(tiers: Tiers, database_url: str) -> None:
    ports = [free_address(), free_address()]
    sinks = [tiers.stack.enter_context(_sink_at(database_url, at)) for at in ports]
    tiers.agent()
    first, second = (tiers.gateway(one.url, f"gateway-{at}") for at, one in enumerate(sinks))
    eventually(lambda: tiers.kafka.members(tiers.topic) == [2, 2], within=60)
    for _ in range(8):
        tiers.send_a_record(250)

    sinks[0].stop(9)
    for _ in range(8):
        tiers.send_a_record(250)
    assert tiers.behind, "the gateway without a sink has partitions of its own, and must hold their records"
    first.kill()
    # The other one takes the partitions over, and with them what the killed one had read and not stored.
    eventually(lambda: _rows(database_url) == (tiers.sent, tiers.sent), within=90)

    tiers.stack.enter_context(_sink_at(database_url, ports[0]))
    first.start()
    eventually(lambda: tiers.kafka.members(tiers.topic) == [2, 2], within=60)
    sinks[1].stop(9)
    for _ in range(8):
        tiers.send_a_record(250)
    tiers.stack.enter_context(_sink_at(database_url, ports[1]))

    eventually(lambda: _rows(database_url) == (tiers.sent, tiers.sent), within=90)
    eventually(lambda: tiers.behind == 0)
    second.stop()
    assert (tiers.sent, _rows(database_url)) == (6000, (6000, 6000))


def test_nothing_is_acknowledged_that_no_sink_has_stored(tiers: Tiers, database_url: str) -> None:
    tiers.agent()
    gateway = tiers.gateway(f"http://{free_address()}", "without-a-sink")
    tiers.send_a_record(200)
    eventually(lambda: "Will retry" in gateway.said(), within=60)
    # Ending in good order acknowledges what it may, and it may nothing.
    gateway.stop()
    assert tiers.kafka.acknowledged(tiers.topic, tiers.topic) == {}
    gateway.start()
    eventually(lambda: gateway.said().count("Will retry") > 1, within=60)
    gateway.kill()
    assert tiers.kafka.acknowledged(tiers.topic, tiers.topic) == {}

    tiers.gateway(tiers.stack.enter_context(_sink_at(database_url, free_address())).url)
    eventually(lambda: _rows(database_url) == (200, 200), within=60)
    eventually(lambda: tiers.behind == 0)


def test_a_record_that_is_no_otlp_does_not_stop_its_partition(tiers: Tiers, database_url: str) -> None:
    good = _body([tool_call(number) for number in range(10)])
    for value in (b"\xff\xffnot OTLP", good, b"", b"{}"):
        tiers.kafka.produce(tiers.topic, value, partition=0)
    gateway = tiers.gateway(tiers.stack.enter_context(_sink_at(database_url, free_address())).url)
    eventually(lambda: tiers.behind == 0, within=60)
    assert _rows(database_url) == (10, 10)
    assert "failed to unmarshal message" in gateway.said()


def test_what_a_wrong_token_passed_over_is_read_again_and_stays_single(tiers: Tiers, database_url: str) -> None:
    url = tiers.stack.enter_context(_sink_at(database_url, free_address(), ELF_SINK_TOKEN="right-token")).url
    tiers.agent()
    tiers.send_a_record(100)
    wrong = tiers.gateway(url, "wrong", ELF_SINK_TOKEN="wrong-token")
    eventually(lambda: tiers.behind == 0, within=60)
    wrong.stop()
    assert _rows(database_url) == (0, 0)
    assert "skipping" in wrong.said()
    assert "401" in wrong.said()

    for time in ("first", "second"):
        tiers.kafka.rewind(tiers.topic, tiers.topic)
        right = tiers.gateway(url, time, ELF_SINK_TOKEN="right-token")
        eventually(lambda: tiers.behind == 0, within=60)
        right.stop()
        assert _rows(database_url) == (100, 100)


def test_every_call_is_once_in_the_table_after_kafka_and_then_the_agent_were_killed(
    tiers: Tiers, database_url: str
) -> None:
    agent = tiers.agent()
    tiers.gateway(tiers.stack.enter_context(_sink_at(database_url, free_address())).url)
    tiers.send_a_record(100)
    eventually(lambda: _rows(database_url) == (100, 100), within=60)
    tiers.kafka.kill()
    try:
        for _ in range(5):
            tiers.send(100)
        agent.kill()
    finally:
        tiers.kafka.start()
    agent.start()
    eventually(lambda: _rows(database_url) == (600, 600), within=90)
    eventually(lambda: tiers.behind == 0, within=60)


def test_an_agent_keeps_its_spans_until_somebody_makes_the_topic(tiers: Tiers) -> None:
    tiers.topic += "-later"
    agent = tiers.agent()
    tiers.send(100)
    eventually(lambda: "Will retry" in agent.said(), within=60)
    tiers.kafka.create_topic(tiers.topic, partitions=4)
    eventually(lambda: {_number(span) for _, span in _spans(tiers)} == set(range(100)), within=60)


def test_a_span_of_any_size_that_the_agent_takes_is_stored_with_those_around_it(
    tiers: Tiers, database_url: str
) -> None:
    agent = tiers.agent()
    noise = Random(7).randbytes(3_500_000).hex()
    spans = [tool_call(number, note="é" * 200) for number in range(1_000)]
    tiers.post(_body([*spans[:500], tool_call(1_000, note=noise), *spans[500:]]))
    with pytest.raises(httpx.HTTPStatusError, match="400 Bad Request"):
        tiers.post(_body([tool_call(2_000, note=noise), tool_call(2_001, note=noise)]))
    tiers.gateway(tiers.stack.enter_context(_sink_at(database_url, free_address())).url)
    eventually(lambda: _rows(database_url) == (1_001, 1_001), within=60)
    assert "dropping" not in agent.said()


def test_a_trace_is_in_one_partition_when_asked_for(tiers: Tiers) -> None:
    tiers.agent(ELF_KAFKA_BY_TRACE="true")
    for start in range(0, 200, 20):
        spans = request_of([tool_call(number) for number in range(start, start + 20)])
        for group in spans.resource_spans:
            for span in (span for scope in group.scope_spans for span in scope.spans):
                span.trace_id = (_number(span) % 40 + 1).to_bytes(16, "big")
        tiers.post(spans.SerializeToString())
    eventually(lambda: len(_spans(tiers)) == 200, within=60)
    partitions = defaultdict(set)
    for partition, span in _spans(tiers):
        partitions[span.trace_id].add(partition)
    assert (len(partitions), {len(found) for found in partitions.values()}) == (40, {1})
    assert len({min(found) for found in partitions.values()}) == 4


def _sink_at(database_url: str, at: str, **environment: str) -> AbstractContextManager[Sink]:
    return sink(database_url, "--http", at, "--grpc", "off", environment=environment)


def _body(spans: Sequence[ReadableSpan]) -> bytes:
    return request_of(spans).SerializeToString()


def _rows(database_url: str) -> tuple[int, int]:
    """Return how many rows there are, and how many different calls count among them."""
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "select count(*), count(distinct (trace_id, span_id)) filter (where counted) from communication_telemetry"
        ).fetchone()
    assert found
    return found


def _spans(tiers: Tiers) -> list[tuple[int, Span]]:
    """Return every span in Kafka with its partition."""
    return [
        (partition, span)
        for partition, value in tiers.kafka.records(tiers.topic)
        for group in ExportTraceServiceRequest.FromString(value).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _number(span: Span) -> int:
    """Return the number `tool_call` made the span from."""
    return int.from_bytes(span.span_id, "big") - 1
