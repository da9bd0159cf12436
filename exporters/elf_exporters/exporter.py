"""`CommunicationTelemetryExporter`: spans become rows in the background, and the books say what became of each."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from elf_automations.errors import ConfigurationError
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.resource import entity_attributes
from elf_automations.settings import Settings, load_settings
from elf_automations.storage.opening import open_writer
from elf_automations.storage.target import Target, choose_target
from elf_exporters.backoff import Backoff
from elf_exporters.books import INTERNAL, QUEUE_FULL, REFUSED, Books
from elf_exporters.mapping import SpanMapping
from elf_exporters.notices import Notices, say_once
from elf_exporters.outbox import Outbox
from elf_exporters.settings import LARGEST_BATCH, ExporterSettings
from elf_exporters.worker import Worker

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_live: weakref.WeakSet[CommunicationTelemetryExporter] = weakref.WeakSet()
_announced = threading.Event()


def live_exporters() -> tuple[CommunicationTelemetryExporter, ...]:
    """Return the exporters of this process that take spans: enabled and not shut down."""
    return tuple(exporter for exporter in list(_live) if exporter.enabled)


class CommunicationTelemetryExporter(SpanExporter):
    """Exports the MCP, A2A and n8n calls among finished spans to Postgres or Supabase.

    Without arguments everything comes from the environment, and a bad environment disables the exporter with one
    ERROR line instead of raising. Keywords win over the environment and are checked strictly.

    Parameters: `batch_size`, spans (up to 2048) that make a batch; `linger_seconds`, after which a smaller batch
    goes; `shutdown_seconds`, what `shutdown` may take; `retry_initial_seconds` and `retry_max_seconds`, the shortest
    and longest wait between attempts; and the settings of `configure()` (`database_url`, `entity_id`, …), of which
    `queue_size` is how many spans are kept while the database is away: the newest beyond it are dropped and counted.
    Raises ConfigurationError for a keyword that cannot work.
    """

    def __init__(
        self,
        *,
        batch_size: int = 512,
        linger_seconds: float = 1.0,
        shutdown_seconds: float = 5.0,
        retry_initial_seconds: float = 0.25,
        retry_max_seconds: float = 30.0,
        **settings: Any,
    ) -> None:
        self._settings = ExporterSettings(
            batch_size=batch_size,
            linger_seconds=linger_seconds,
            shutdown_seconds=shutdown_seconds,
            retry_initial_seconds=retry_initial_seconds,
            retry_max_seconds=retry_max_seconds,
        )
        self._target, chosen = _chosen(settings)
        self._capacity = chosen.queue_size
        self._resource_attributes = entity_attributes(chosen)
        self._n8n_nodes: NodeScope = chosen.n8n_nodes
        self._n8n_exports = chosen.n8n_exports
        self._stopping = threading.RLock()
        self._start_over()
        if self._target is not None:
            _live.add(self)

    @property
    def enabled(self) -> bool:
        """Whether spans are taken: a database is configured and the exporter is not shut down."""
        return self._target is not None and not self._outbox.closed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Queue `spans` and return at once; FAILURE only after shutdown. Never raises, never waits."""
        if self._target is None:
            return SpanExportResult.SUCCESS
        closed = self._outbox.closed
        overflow = self._outbox.offer(spans)
        if overflow:
            self._notices.say(
                QUEUE_FULL,
                logging.WARNING,
                "the telemetry queue is full (%d spans), new spans are dropped and counted; is the database reachable?"
                " ELF_QUEUE_SIZE makes the queue larger",
                self._capacity,
            )
        if closed:
            return SpanExportResult.FAILURE
        self._worker.ensure_running()
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until every span given so far is stored, or accounted for otherwise, and its rows are settled.

        Returns False when that takes longer than `timeout_millis`, or when spans were refused or lost meanwhile.
        """
        if self._target is None:
            return True
        if self._worker.is_current_thread or not self._worker.ensure_running():
            return False
        before = self._outbox.books().dropped
        in_time = self._outbox.flush(timeout_millis / 1000)
        after = self._outbox.books().dropped
        return in_time and all(after.get(reason, 0) == before.get(reason, 0) for reason in (REFUSED, INTERNAL))

    # Keyword-only: the stock BatchSpanProcessor hands its 30 s to a positional `timeout_millis`, and a process
    # would then need that long to end while its database is away.
    def shutdown(self, *, timeout_millis: int | None = None) -> None:
        """Flush, then end for good, within `timeout_millis` (default: the setting `shutdown_seconds`).

        What is not stored by then is counted as dropped for `shutdown`. Any thread may call it, any number of times.
        """
        if self._target is None:
            return
        allowed = self._settings.shutdown_seconds if timeout_millis is None else timeout_millis / 1000
        deadline = time.monotonic() + allowed
        if not self._stopping.acquire(timeout=max(allowed, 0.0)):
            return
        try:
            if self._outbox.stopped:
                return
            self._outbox.close()
            if self._outbox.books().queued or self._worker.unsettled:
                self.force_flush(int(max(0.0, deadline - time.monotonic()) * 1000))
            left = self._outbox.stop()
            if left:
                message = "%d telemetry spans were not stored within %.1f s at shutdown and are lost: %s"
                say_once(logging.WARNING, message, left, allowed, "is the database reachable?")
            self._worker.join(deadline - time.monotonic())
        finally:
            self._stopping.release()

    def books(self) -> Books:
        """Return the accounts of this moment; see `Books`."""
        return self._outbox.books()

    def _start_over(self) -> None:
        """Begin with empty books: at construction, and in a forked child, whose queue is its parent's to send."""
        settings = self._settings
        self._notices = Notices()
        self._outbox = Outbox(self._capacity, min(settings.batch_size, self._capacity), LARGEST_BATCH)
        if self._target is None:
            return
        backoff = Backoff(initial_seconds=settings.retry_initial_seconds, longest_seconds=settings.retry_max_seconds)
        mapping = SpanMapping(self._resource_attributes, self._n8n_nodes, n8n_exports=self._n8n_exports)
        writer = open_writer(self._target)
        self._worker = Worker(self._outbox, mapping, writer, backoff, self._notices, settings.linger_seconds)

    def _after_fork(self) -> None:
        ended = self._outbox.closed
        self._stopping = threading.RLock()
        # The parent's writer must not be finalised here: its connection is the parent's.
        _inherited.append(self._worker)
        self._start_over()
        if ended:
            self._outbox.stop()


_inherited: list[Worker] = []


def _after_fork_in_child() -> None:
    for exporter in list(_live):
        exporter._after_fork()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


os.register_at_fork(after_in_child=_after_fork_in_child)


def _chosen(settings: Mapping[str, object]) -> tuple[Target | None, Settings]:
    """Return where rows go and the settings of the process; no target disables, and one line says so."""
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        chosen = load_settings(**given)
        if not chosen.telemetry_enabled:
            _announce_disabled("telemetry is switched off (%s)", "ELF_TELEMETRY_ENABLED or OTEL_SDK_DISABLED")
            return None, chosen
        stated = given.get("database_url")
        target = choose_target(str(stated) if stated else None, argument="database_url")
    except ConfigurationError as error:
        if given:
            raise
        say_once(logging.ERROR, "telemetry is disabled: %s", error)
        return None, Settings.model_construct()
    if target is None:
        _announce_disabled("telemetry is disabled: no database is configured (%s)", "set ELF_DATABASE_URL")
    return target, chosen


def _announce_disabled(message: str, detail: str) -> None:
    if not _announced.is_set():
        _announced.set()
        say_once(logging.INFO, message, detail)
