"""One span through the real exporter, as a row that counts nowhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from elf_automations.conventions import elf, otel
from elf_automations.doctor.process import overheard
from elf_automations.errors import ElfTelemetryError, StorageRefusedError
from elf_automations.model import Communication, Entity, row_id
from elf_automations.model.communication import instant
from elf_automations.storage.contract import Writer, WriteResult
from elf_automations.storage.opening import open_writer
from elf_automations.storage.target import PostgresTarget, Target
from elf_exporters import CommunicationSpanProcessor, CommunicationTelemetryExporter
from elf_exporters.backoff import Backoff
from elf_exporters.mapping import SpanMapping
from elf_exporters.worker import Worker

NAME: Final = "elf-telemetry-doctor"
_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the span: its row's key, how long it took in seconds, and why it was not stored."""

    id: UUID
    timestamp: datetime
    seconds: float
    problem: str | None


def send(target: Target) -> Sent:
    """Send one span to `target` the way an application's spans go, and wait for what becomes of it."""
    with overheard("elf_exporters"):
        exporter = _ProbeExporter(target)
        provider = TracerProvider(
            resource=Resource({otel.SERVICE_NAME: NAME}), sampler=ALWAYS_ON, shutdown_on_exit=False
        )
        provider.add_span_processor(CommunicationSpanProcessor(exporter))
        started_ns, started = time.time_ns(), time.monotonic()
        span = provider.get_tracer(NAME).start_span("doctor/probe", start_time=started_ns, attributes=_ATTRIBUTES)
        span.end()
        exporter.force_flush(int(_SECONDS * 1000))
        seconds = time.monotonic() - started
        books = exporter.books()
        exporter.shutdown(timeout_millis=100)
    problem = None if books.stored else exporter.problem or f"it was not stored within {_SECONDS:g} s"
    context = span.get_span_context()
    key = row_id(context.trace_id.to_bytes(16), context.span_id.to_bytes(8))
    return Sent(key, instant(started_ns), seconds, problem)


_ATTRIBUTES: Final = {
    otel.MCP_METHOD_NAME: "doctor/probe",
    elf.ELF_OBSERVED_BY: "manual",
    elf.ELF_OUTCOME: "success",
    elf.ELF_SOURCE_ID: NAME,
    elf.ELF_SOURCE_TYPE: "service",
    elf.ELF_TARGET_ID: NAME,
    elf.ELF_TARGET_TYPE: "external",
}


class _ProbeExporter(CommunicationTelemetryExporter):
    """The exporter with a writer that lets nothing count, registers nobody, and tries once."""

    def __init__(self, target: Target) -> None:
        self._uncounted = _Uncounted(open_writer(target))
        super().__init__(linger_seconds=0.0, database_url=target.url if isinstance(target, PostgresTarget) else None)

    @property
    def problem(self) -> str | None:
        """Why the row was not stored."""
        return self._uncounted.problem

    def _start_over(self) -> None:
        super()._start_over()
        backoff = Backoff(initial_seconds=1.0, longest_seconds=1.0)
        self._worker = Worker(self._outbox, SpanMapping({}), self._uncounted, backoff, self._notices, 0.0)


class _Uncounted:
    """A writer whose rows no view, rollup or alert reads."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self.problem: str | None = None

    def write(self, rows: Sequence[Communication], entities: Sequence[Entity], *, retry: bool) -> WriteResult:
        del entities
        try:
            result = self._writer.write([replace(row, counted=False) for row in rows], (), retry=retry)
        except ElfTelemetryError as error:
            self.problem = str(error)
            raise StorageRefusedError(self.problem) from error  # not worth a second try here
        if result.rejected:
            self.problem = result.rejected[0].reason
        return result

    def check(self) -> None:
        self._writer.check()

    def settle(self, since: datetime, *, wait: bool = True) -> bool:
        """Leave other rows alone."""
        del since, wait
        return True

    def close(self) -> None:
        self._writer.close()
