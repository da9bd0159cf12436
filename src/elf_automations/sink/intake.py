"""Requests into rows: what waits together is stored together, and each request learns when its spans are committed.

Many small requests at once become one transaction, so that a thousand agents with one span each cost what one agent
with a thousand spans does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Final

from elf_automations.errors import ElfTelemetryError
from elf_automations.model import MappedBatch, SpanRecord, map_batch
from elf_automations.model.from_otlp import OtlpSpans
from elf_automations.model.from_otlp_bytes import MalformedRequestError
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.sink.accounts import Accounts
from elf_automations.sink.failures import BusyError, ClosedError
from elf_automations.storage.contract import Writer, WriteResult
from elf_automations.storage.settling import Settling

logger = logging.getLogger(__name__)

SPANS_TOGETHER: Final = 2048
_IDLE_SECONDS: Final = 1.0
_SpanKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a request: `spans` it held, and one line for each that will never be stored."""

    spans: int
    refused: tuple[str, ...] = ()


@dataclass(slots=True)
class _Request:
    body: bytes
    decode: Callable[[bytes], OtlpSpans]
    done: Future[Receipt]


@dataclass(slots=True)
class _Decoded:
    done: Future[Receipt]
    records: Sequence[SpanRecord]
    refused: tuple[str, ...]

    @property
    def spans(self) -> int:
        return len(self.records) + len(self.refused)


@dataclass(slots=True)
class _Batch:
    decoded: Sequence[_Decoded]
    mapped: MappedBatch
    began: float


class Intake:
    """Decodes, maps and stores requests on threads of its own, one writer each.

    `open_writer` makes a thread's writer; `waiting_bytes` is how much may wait undecoded before requests are sent
    away. Of the `threads` one at a time decodes and maps, for a process cannot do more at once; meanwhile the others
    wait for the database. `n8n_nodes` says which steps of n8n are rows, `n8n_exports` whether its own export is.
    """

    def __init__(
        self,
        open_writer: Callable[[], Writer],
        accounts: Accounts,
        *,
        waiting_bytes: int,
        threads: int = 2,
        n8n_nodes: NodeScope = "external",
        n8n_exports: bool = True,
    ) -> None:
        self._open_writer = open_writer
        self._accounts = accounts
        self._map = partial(map_batch, n8n_nodes=n8n_nodes, n8n_exports=n8n_exports)
        self._waiting_limit = waiting_bytes
        self._requests: deque[_Request] = deque()
        self._waiting_bytes = 0
        self._work = threading.Condition()
        self._mapping = threading.Lock()
        self._closed = False
        self._settling = Settling()
        self._beside = threading.Lock()
        self._at_work = threads
        self.failing = False
        """Whether the database takes no data: not at the start, or not the last batch, nor was it ready since."""
        self._unseen = False
        self._threads = [
            threading.Thread(target=self._run, name=f"elf-sink-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, body: bytes, decode: Callable[[bytes], OtlpSpans]) -> Future[Receipt]:
        """Take a request; the future ends when its spans are committed.

        It fails with MalformedRequestError for a body that `decode` cannot read, and with the storage's error when the
        database does not take the data now. Raises BusyError when too much waits, ClosedError after `close`.
        """
        done: Future[Receipt] = Future()
        # A client that goes away, or whose deadline passes, cannot take back what it has sent.
        done.set_running_or_notify_cancel()
        with self._work:
            if self._closed:
                raise self._unread(ClosedError("the sink is stopping"))
            if self._waiting_bytes and self._waiting_bytes + len(body) > self._waiting_limit:
                raise self._unread(BusyError("too many requests wait for the database"))
            self._requests.append(_Request(body, decode, done))
            self._waiting_bytes += len(body)
            self._accounts.waiting(len(self._requests))
            self._work.notify()
        return done

    def look(self) -> None:
        """See soon, unless requests show it before, whether the database takes data; say so if it does not."""
        self._unseen = True

    def close(self, seconds: float) -> bool:
        """Take nothing more, store what waits, settle all of it, and let go of the database.

        Return whether what waited was stored in time. Settling that is cut short is made up for by whoever is next.
        """
        ends = time.monotonic() + seconds
        with self._work:
            self._closed = True
            self._work.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))
        with self._work:
            late = list(self._requests)
            self._requests.clear()
        for request in late:
            request.done.set_exception(self._unread(ClosedError("the sink stopped before the spans were stored")))
        return not late and not self._at_work

    def _run(self) -> None:
        """Work until closed; the last to end settles what all of them stored."""
        writer = self._open_writer()
        while self._requests or not self._closed:
            try:
                self._turn(writer)
            except Exception:
                logger.exception("a thread of the sink goes on after an error")
        with self._work:
            self._at_work -= 1
            last = not self._at_work
        if last and self._settling.pending:
            self._settle(writer, wait=True)
        writer.close()

    def _turn(self, writer: Writer) -> None:
        """Store what waits; when nothing does for a moment, see whether a database not seen yet, or away, is there.

        That, and settling when it is time, is done by one thread while the others are there for requests.
        """
        with self._mapping:
            batch = self._next()
        if batch is not None:
            self._serve(batch, writer)
        if self._beside.acquire(blocking=False):
            try:
                if not self.failing and self._settling.due:
                    self._settle(writer)
                elif (self.failing or self._unseen) and batch is None and not self._closed:
                    self._check(writer)
            finally:
                self._beside.release()

    def _take(self, seconds: float) -> _Request | None:
        """Return the request that waits longest, None when there is none for `seconds` or the intake is closed."""
        with self._work:
            if not self._requests and seconds:
                self._work.wait_for(lambda: self._requests or self._closed, seconds)
            if not self._requests:
                return None
            request = self._requests.popleft()
            self._waiting_bytes -= len(request.body)
            self._accounts.waiting(len(self._requests))
            return request

    def _next(self) -> _Batch | None:
        """Return what waits, up to a batch's worth, mapped; None when nothing does."""
        request = self._take(_IDLE_SECONDS)
        if request is None:
            return None
        decoded: list[_Decoded] = []
        spans = 0
        while request is not None:
            made = self._decoded(request)
            if made is not None:
                decoded.append(made)
                spans += len(made.records)
            request = self._take(0) if spans < SPANS_TOGETHER else None
        began = time.monotonic()
        try:
            mapped = self._map([record for one in decoded for record in one.records])
        except Exception as error:
            self._failed(decoded, error)
            return None
        return _Batch(decoded, mapped, began)

    def _decoded(self, request: _Request) -> _Decoded | None:
        """Return what a request holds; None when it is malformed, which is answered at once."""
        try:
            found = request.decode(request.body)
        except Exception as error:
            malformed = isinstance(error, ValueError) and not isinstance(error, MalformedRequestError)
            request.done.set_exception(self._unread(MalformedRequestError(str(error)) if malformed else error))
            return None
        return _Decoded(request.done, found.records, found.refused)

    def _unread(self, error: Exception) -> Exception:
        """Return `error`, which keeps the spans of a request from being read, with the request entered."""
        self._accounts.unread(error)
        return error

    def _serve(self, batch: _Batch, writer: Writer) -> None:
        try:
            lost = self._store(batch, writer)
        except Exception as error:
            self._failed(batch.decoded, error)
            return
        for one in batch.decoded:
            own = _own_losses(one.records, lost) if lost else ()
            self._accounts.refused(len(one.refused))
            one.done.set_result(Receipt(one.spans, (*one.refused, *own)))

    def _failed(self, decoded: Sequence[_Decoded], error: Exception) -> None:
        if not isinstance(error, ElfTelemetryError):
            logger.error("a batch could not be stored", exc_info=error)
        else:
            self._takes_no_data(error)
        self._accounts.failed(sum(one.spans for one in decoded), error)
        for one in decoded:
            one.done.set_exception(error)

    def _store(self, batch: _Batch, writer: Writer) -> dict[_SpanKey, str]:
        """Commit a batch; return one line for each span that will never be stored."""
        mapped = batch.mapped
        lost: dict[_SpanKey, str] = {
            (fault.span.trace_id.hex(), fault.span.span_id.hex()): f"span {fault.span.name!r} cannot be mapped: "
            f"{type(fault.error).__name__}"
            for fault in mapped.faults
        }
        result = WriteResult()
        if mapped.rows or mapped.entities:
            result = writer.write(mapped.rows, mapped.entities, retry=False)
            self._settling.note(mapped.rows)
            for bad in result.rejected:
                lost[bad.row.trace_id, bad.row.span_id] = f"{bad.row.operation} was refused: {bad.reason}"
            for line in result.rejected_entities:
                logger.error("a registry entry was refused: %s", line)
            self.failing = False
            self._accounts.committed(time.monotonic() - batch.began)
        self._accounts.stored(mapped, result)
        return lost

    def _check(self, writer: Writer) -> None:
        self._unseen = False
        try:
            writer.check()
        except ElfTelemetryError as error:
            self._takes_no_data(error)
        else:
            self.failing = False

    def _takes_no_data(self, error: ElfTelemetryError) -> None:
        if not self.failing:
            self.failing = True
            logger.warning("the database takes no data: %s", error)

    def _settle(self, writer: Writer, *, wait: bool = False) -> None:
        try:
            self._settling.run(writer, wait=wait)
        except ElfTelemetryError as error:
            logger.debug("rows were not settled now: %s", error)
        except Exception:
            logger.exception("rows were not settled")


def _own_losses(records: Sequence[SpanRecord], lost: dict[_SpanKey, str]) -> tuple[str, ...]:
    keys = ((record.trace_id.hex(), record.span_id.hex()) for record in records)
    return tuple(lost[key] for key in keys if key in lost)
