"""The one thread that maps, writes, retries and settles; the application only ever queues."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.utils import suppress_instrumentation

from elf_automations.errors import ElfTelemetryError, SchemaMissingError, StorageUnavailableError
from elf_automations.storage.contract import Writer, WriteResult
from elf_automations.storage.settling import Settling
from elf_exporters.backoff import Backoff
from elf_exporters.books import INTERNAL, MAPPING, REFUSED
from elf_exporters.mapping import MappedSpans, SpanMapping
from elf_exporters.notices import Notices, say_once
from elf_exporters.outbox import Outbox

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Worker:
    """Delivers an outbox to a writer until the outbox stops; started by the first span, a daemon."""

    def __init__(
        self,
        outbox: Outbox,
        mapping: SpanMapping,
        writer: Writer,
        backoff: Backoff,
        notices: Notices,
        linger_seconds: float,
    ) -> None:
        self._outbox = outbox
        self._writer = writer
        self._backoff = backoff
        self._notices = notices
        self._linger_seconds = linger_seconds
        self._mapping = mapping
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._settling = Settling()

    def ensure_running(self) -> bool:
        """Start the thread unless it runs; return False when the interpreter no longer starts threads."""
        if self._thread is not None:
            return True
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="elf-telemetry", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
        return True

    @property
    def unsettled(self) -> bool:
        """Whether rows were stored since the last settling."""
        return self._settling.pending

    @property
    def is_current_thread(self) -> bool:
        """Whether the caller is the worker itself, which must not wait for itself."""
        return self._thread is threading.current_thread()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end, at most `seconds`."""
        if self._thread is not None and not self.is_current_thread:
            self._thread.join(max(seconds, 0.0))

    def _run(self) -> None:
        with suppress_instrumentation():
            while not self._outbox.stopped:
                try:
                    self._step()
                except BaseException as fault:
                    self._lost(INTERNAL, self._outbox.finish_batch(INTERNAL), fault)
            try:
                self._writer.close()
            except Exception as fault:
                say_once(logging.DEBUG, "the connection did not close: %s", fault)

    def _step(self) -> None:
        spans = self._outbox.take(self._linger_seconds, self._settling.seconds_left)
        if spans:
            self._deliver(spans)
            self._lost(INTERNAL, self._outbox.finish_batch(INTERNAL), None)
        flushes = self._outbox.flushes_due()
        if flushes or self._settling.due:
            try:
                self._settle(wait=flushes > 0)
            finally:
                self._outbox.flushed(flushes)

    def _deliver(self, spans: list[ReadableSpan]) -> None:
        mapped = self._mapping.map(spans)
        self._outbox.account(ignored=mapped.ignored, duplicate=mapped.repeated, dropped=(MAPPING, mapped.broken))
        self._lost(MAPPING, mapped.broken, mapped.first_fault)
        if not mapped.rows:
            return
        attempt = 0
        while True:
            try:
                result = self._writer.write(mapped.rows, mapped.entities, retry=attempt > 0)
            except StorageUnavailableError as error:
                if self._outbox.stopped:
                    return
                self._waits(error)
                if not self._outbox.pause(self._backoff.seconds(attempt, error)):
                    return
                attempt += 1
            except ElfTelemetryError as error:
                self._outbox.account(dropped=(REFUSED, len(mapped.rows)))
                self._lost(REFUSED, len(mapped.rows), error)
                return
            else:
                self._written(mapped, result, attempt)
                return

    def _written(self, mapped: MappedSpans, result: WriteResult, attempts_failed: int) -> None:
        self._outbox.account(stored=result.stored, duplicate=result.duplicate, rejected=len(result.rejected))
        if attempts_failed:
            self._notices.forget("waits")
            say_once(logging.INFO, "telemetry is being stored again, after %d failed attempts", attempts_failed)
        if result.rejected:
            reason = result.rejected[0].reason
            self._notices.say(
                "rejected", logging.ERROR, "%d telemetry rows were refused: %s", len(result.rejected), reason
            )
        if result.rejected_entities:
            self._notices.say(
                "entities", logging.ERROR, "registry entries were refused: %s", result.rejected_entities[0]
            )
        self._settling.note(mapped.rows)

    def _settle(self, *, wait: bool) -> None:
        """Settle what came, for a flush all of it; failing costs nothing now, the next pass covers the same rows."""
        try:
            self._settling.run(self._writer, wait=wait)
        except ElfTelemetryError as error:
            say_once(logging.DEBUG, "rows were not settled now: %s", error)

    def _waits(self, error: StorageUnavailableError) -> None:
        queued = self._outbox.books().queued
        kind = "schema" if isinstance(error, SchemaMissingError) else "waits"
        self._notices.say(kind, logging.WARNING, "telemetry is not stored now, %d spans wait: %s", queued, error)

    def _lost(self, reason: str, spans: int, fault: BaseException | None) -> None:
        if spans or (fault is not None and reason == INTERNAL):
            cause = "their outcome is unknown" if fault is None else f"{type(fault).__name__}: {fault}"
            if isinstance(fault, ElfTelemetryError):
                cause = str(fault)
            self._notices.say(reason, logging.ERROR, "%d telemetry spans were dropped (%s): %s", spans, reason, cause)
