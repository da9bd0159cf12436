"""The two Collectors of collector-config, each on ports of its own: beside an application, and before the sink."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from collector_process import Collector, collector, free_address


@dataclass(frozen=True, slots=True)
class Tier:
    """A running Collector and where it listens."""

    collector: Collector
    http: str
    """URL of OTLP/HTTP, up to the path."""
    grpc: str
    """host:port of OTLP/gRPC."""
    own: str
    """URL of the Collector's own metrics."""
    calls: str
    """URL of what the gateway counts of the calls; empty for an agent."""

    @property
    def waiting(self) -> float:
        """How many requests wait in its queues or are on their way."""
        names = ("otelcol_exporter_queue_size", "otelcol_exporter_in_flight_requests")
        return sum(figure(self.own, name) for name in names)


@contextmanager
def agent(folder: Path, next_hop: str, *, config: str | Path = "agent.yaml", **environment: str) -> Iterator[Tier]:
    """Run agent.yaml, or a variant of it, whose queue and log are in `folder`, before the OTLP/HTTP of `next_hop`."""
    http, grpc, health, own = (free_address() for _ in range(4))
    places = {
        "ELF_NEXT_HOP": next_hop,
        "ELF_AGENT_HTTP": http,
        "ELF_AGENT_GRPC": grpc,
        "ELF_AGENT_HEALTH": health,
        "ELF_AGENT_METRICS_PORT": own.rpartition(":")[2],
        "ELF_AGENT_FOLDER": str(folder / "agent"),
    }
    with collector(config, health=health, log=folder / "agent.log", **places | environment) as running:
        yield Tier(running, f"http://{http}", grpc, f"http://{own}/metrics", "")


@contextmanager
def gateway(folder: Path, sink: str, backend: str, **environment: str) -> Iterator[Tier]:
    """Run gateway.yaml before the OTLP/HTTP of a sink and the OTLP/gRPC of a backend."""
    http, grpc, health, own, calls = (free_address() for _ in range(5))
    places = {
        "ELF_SINK_URL": sink,
        "ELF_BACKEND_GRPC": backend,
        "ELF_GATEWAY_HTTP": http,
        "ELF_GATEWAY_GRPC": grpc,
        "ELF_GATEWAY_HEALTH": health,
        "ELF_GATEWAY_METRICS": calls,
        "ELF_GATEWAY_OWN_PORT": own.rpartition(":")[2],
        "ELF_GATEWAY_FOLDER": str(folder / "gateway"),
    }
    with collector("gateway.yaml", health=health, log=folder / "gateway.log", **places | environment) as running:
        yield Tier(running, f"http://{http}", grpc, f"http://{own}/metrics", f"http://{calls}/metrics")


def figure(url: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels as a Prometheus page has them now."""
    page = httpx.get(url).raise_for_status().text
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    names = {name, f"{name}_total"}  # the parser calls every counter so
    return sum(each.value for each in samples if each.name in names and labels.items() <= each.labels.items())
