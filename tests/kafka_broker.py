"""An Apache Kafka broker for tests: one real node (KRaft, broker and controller in one) on loopback, of `make kafka`.

with broker(tmp_path / "kafka") as kafka:
    kafka.create_topic("otlp_spans", partitions=4)
    kafka.behind("gateways", "otlp_spans")   # records nobody of the group has acknowledged
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from collector_process import built, free_address
from spans import eventually

_ROOT: Final = Path(__file__).parents[1]
_CLUSTER: Final = "elf-automations-test00"
_SECONDS: Final = 10
_QUIET: Final = {"log_level": 0}
"""librdkafka says on stderr that a broker is not there yet; the tests say it better."""


@cache
def _classpath() -> str:
    """Return the jars of ELF_TEST_KAFKA (a folder), else those of `make kafka`, fetched when they are not there."""
    marker = _ROOT / "build/kafka/.ready"
    chosen = os.environ.get("ELF_TEST_KAFKA")
    return f"{chosen or built('ELF_TEST_KAFKA', marker, 'kafka').with_name('libs')}/*"


@dataclass(slots=True)
class Broker:
    """A broker that can be killed and started again over the same log."""

    folder: Path
    address: str = field(default_factory=free_address)
    """host:port clients start from."""
    controller: str = field(default_factory=free_address)
    process: subprocess.Popen[bytes] | None = None
    _admin: AdminClient = field(init=False)

    def __post_init__(self) -> None:
        self._admin = AdminClient({"bootstrap.servers": self.address, **_QUIET})

    @property
    def log(self) -> Path:
        return self.folder / "broker.log"

    def format(self) -> None:
        """Make the empty log a KRaft node starts from."""
        self.folder.mkdir(parents=True)
        (self.folder / "server.properties").write_text(self._properties())
        made = subprocess.run(
            [
                *self._java("-Xmx128m"),
                "kafka.tools.StorageTool",
                "format",
                "--cluster-id",
                _CLUSTER,
                "--config",
                self._config,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert made.returncode == 0, made.stdout + made.stderr

    def start(self, *, within: float = 60) -> None:
        """Start it and wait until it answers."""
        assert self.process is None or self.process.poll() is not None, "it is running"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._java("-Xmx512m"), "kafka.Kafka", self._config], stdout=log, stderr=log, cwd=self.folder
            )
        eventually(self._answers, within=within)

    def kill(self) -> None:
        """Let it end without a word (kill -9)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        """Let it end in good order."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def create_topic(self, name: str, *, partitions: int) -> None:
        """Make a topic as kafka/agent.yaml asks for it and wait until every partition of it is led by somebody."""
        topic = NewTopic(name, partitions, 1, config={"max.message.bytes": "10485760"})
        self._admin.create_topics([topic])[name].result(_SECONDS)
        eventually(lambda: self._led(name))

    def produce(self, topic: str, value: bytes, *, partition: int) -> None:
        """Append a record and wait until the broker has it."""
        producer = Producer({"bootstrap.servers": self.address, "acks": "all", **_QUIET})
        producer.produce(topic, value, partition=partition)
        assert producer.flush(_SECONDS) == 0, "the broker did not take the record"

    def ends(self, topic: str) -> dict[int, int]:
        """Return the number of records each partition has ever got."""
        partitions = self._admin.list_topics(topic, timeout=_SECONDS).topics[topic].partitions
        asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in partitions}
        found = self._admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED)
        return {at.partition: future.result(_SECONDS).offset for at, future in found.items()}

    def records(self, topic: str) -> list[tuple[int, bytes]]:
        """Return every record of a topic as (partition, value)."""
        ends = {number: end for number, end in self.ends(topic).items() if end}
        reader = Consumer(
            {"bootstrap.servers": self.address, "group.id": "reader", "enable.auto.commit": False, **_QUIET}
        )
        try:
            reader.assign([TopicPartition(topic, number, 0) for number in ends])
            found: list[tuple[int, bytes]] = []
            while len(found) < sum(ends.values()):
                messages = reader.consume(sum(ends.values()) - len(found), timeout=_SECONDS)
                assert messages, f"only {len(found)} of {sum(ends.values())} records came"
                found += [(message.partition() or 0, message.value() or b"") for message in messages]
            return found
        finally:
            reader.close()

    def rewind(self, group: str, topic: str) -> None:
        """Put a group without members back to the beginning, as kafka-consumer-groups.sh --reset-offsets does."""
        start = [TopicPartition(topic, number, 0) for number in self.ends(topic)]
        asked = [ConsumerGroupTopicPartitions(group, start)]
        for future in self._admin.alter_consumer_group_offsets(asked).values():
            future.result(_SECONDS)

    def acknowledged(self, group: str, topic: str) -> dict[int, int]:
        """Return how many records of each partition the group has done with; partitions without any are left out."""
        (found,) = self._admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        try:
            held = found.result(_SECONDS).topic_partitions or []
        except KafkaException:  # the group is not there yet
            held = []
        return {at.partition: at.offset for at in held if at.topic == topic and at.offset >= 0}

    def behind(self, group: str, topic: str) -> int:
        """Return how many records the group has not acknowledged."""
        return sum(self.ends(topic).values()) - sum(self.acknowledged(group, topic).values())

    def members(self, group: str) -> list[int]:
        """Return how many partitions each member of a settled group has; empty while it is being rearranged."""
        (found,) = self._admin.describe_consumer_groups([group]).values()
        try:
            described = found.result(_SECONDS)
        except KafkaException:
            return []
        if described.state != ConsumerGroupState.STABLE:
            return []
        return sorted(len(member.assignment.topic_partitions) for member in described.members)

    @property
    def _config(self) -> str:
        return str(self.folder / "server.properties")

    def _led(self, topic: str) -> bool:
        try:
            return bool(self.ends(topic))
        except KafkaException:
            return False

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the broker ended:\n{self.log.read_text()[-3000:]}"
        try:
            return bool(self._admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False

    def _java(self, memory: str) -> list[str]:
        return [
            "java",
            memory,
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # it lives for a minute: starting counts
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            _classpath(),
        ]

    def _properties(self) -> str:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self.controller}",
            "listeners": f"CLIENTS://{self.address},CONTROLLER://{self.controller}",
            "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENTS",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "log"),
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }
        return "".join(f"{name}={value}\n" for name, value in settings.items())


@contextmanager
def broker(folder: Path) -> Iterator[Broker]:
    """Run a broker over a new log in `folder` for the body."""
    running = Broker(folder)
    running.format()
    running.start()
    try:
        yield running
    finally:
        if running.process is not None and running.process.poll() is None:
            running.stop()
