"""The sink's own metrics in Prometheus' form, by the names OpenTelemetry has for them, else with `elf_sink_` before.

Source of the names: OpenTelemetry semantic conventions, SDK metrics and HTTP metrics.
"""

from __future__ import annotations

import os
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import (
    MultiProcessCollector,
    mark_process_dead,  # pyright: ignore[reportUnknownVariableType]
)

from elf_automations.model import MappedBatch
from elf_automations.storage.contract import WriteResult

MULTIPROCESS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def forget_worker(process: int) -> None:
    """Take what one of several processes held when it died out of their common metrics; `process` is its number."""
    mark_process_dead(process)


class Accounts:
    """Counts what the sink takes, stores and refuses; the books of a sink balance.

    received = stored + duplicate + ignored + refused + failed (sent back to the client to come again), over the spans
    of all requests that could be read. The others are counted as requests: how many spans they held is not known.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "http_server_request_duration_seconds",
            "Requests by transport, and their answers.",
            ["transport", "status"],
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._exported = Counter(
            "otel_sdk_exporter_span_exported",
            "Spans by what became of them; error_type is empty for those in the database.",
            ["outcome", "error_type"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "otel_sdk_exporter_operation_duration_seconds",
            "Mapping and committing one batch.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._unread = Counter(
            "elf_sink_unread_requests",
            "Requests whose spans were not read, by why: malformed, too large, no room, too slow, stopping.",
            ["error_type"],
            registry=self._registry,
        )
        self._waiting = Gauge(
            "elf_sink_waiting_requests",
            "Requests that wait for the database.",
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def request(self, transport: str, status: str, seconds: float) -> None:
        """Enter an answered request."""
        self._requests.labels(transport, status).observe(seconds)

    def waiting(self, requests: int) -> None:
        """Enter how many requests wait now."""
        self._waiting.set(requests)

    def unread(self, error: Exception) -> None:
        """Enter a request whose spans were not read."""
        self._unread.labels(type(error).__name__).inc()

    def committed(self, seconds: float) -> None:
        """Enter the time a batch took."""
        self._duration.observe(seconds)

    def stored(self, mapped: MappedBatch, result: WriteResult) -> None:
        """Enter what became of the spans of a batch; `result` is empty when it had no row."""
        self._count("stored", "", result.stored)
        self._count("duplicate", "", result.duplicate + mapped.repeated)
        self._count("ignored", "", mapped.ignored)
        self._count("refused", "rejected", len(result.rejected) + len(mapped.faults))

    def refused(self, spans: int) -> None:
        """Enter spans that were not valid."""
        self._count("refused", "malformed", spans)

    def failed(self, spans: int, error: Exception) -> None:
        """Enter spans the client is asked to send again, those that will be refused then among them."""
        self._count("failed", type(error).__name__, spans)

    def exposition(self) -> bytes:
        """Return the metrics of this sink, of all its processes, in Prometheus' text format."""
        if MULTIPROCESS_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)

    def _count(self, outcome: str, error_type: str, spans: int) -> None:
        if spans:
            self._exported.labels(outcome, error_type).inc(spans)
