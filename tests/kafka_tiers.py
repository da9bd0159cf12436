"""The two Collectors of collector-config/kafka, each on ports of its own: beside an application, and behind Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from collector_process import Collector, collector, free_address
from collector_tiers import Tier


@contextmanager
def kafka_agent(folder: Path, brokers: str, topic: str, **environment: str) -> Iterator[Tier]:
    """Run kafka/agent.yaml, whose queue and log are in `folder`."""
    http, grpc, health, own = (free_address() for _ in range(4))
    places = {
        "ELF_KAFKA_BROKERS": brokers,
        "ELF_KAFKA_TOPIC": topic,
        "ELF_KAFKA_LINGER": "200ms",
        "ELF_AGENT_HTTP": http,
        "ELF_AGENT_GRPC": grpc,
        "ELF_AGENT_HEALTH": health,
        "ELF_AGENT_METRICS_PORT": own.rpartition(":")[2],
        "ELF_AGENT_FOLDER": str(folder / "agent"),
    }
    with collector("kafka/agent.yaml", health=health, log=folder / "agent.log", **places | environment) as running:
        yield Tier(running, f"http://{http}", grpc, f"http://{own}/metrics", "")


@contextmanager
def kafka_gateway(log: Path, brokers: str, topic: str, sink: str, **environment: str) -> Iterator[Collector]:
    """Run kafka/gateway.yaml before the OTLP/HTTP of a sink; the consumer group is called as the topic is."""
    health, own = free_address(), free_address()
    places = {
        "ELF_KAFKA_BROKERS": brokers,
        "ELF_KAFKA_TOPIC": topic,
        "ELF_KAFKA_GROUP": topic,
        "ELF_SINK_URL": sink,
        "ELF_GATEWAY_HEALTH": health,
        "ELF_GATEWAY_OWN_PORT": own.rpartition(":")[2],
    }
    with collector("kafka/gateway.yaml", health=health, log=log, **places | environment) as running:
        yield running
