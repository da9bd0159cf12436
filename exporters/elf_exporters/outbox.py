"""The bounded queue between the application and the worker, and the accounts kept under the same lock.

One lock for both is what makes the books exact: a check and its count are one step.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from elf_exporters.books import QUEUE_FULL, SHUTDOWN, Books

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan


class Outbox:
    """Spans on their way out: at most `capacity` waiting, handed over in batches of at most `largest_batch`.

    Any thread offers; one worker takes; `flush` and `stop` hurry the worker. The lock is reentrant, for a
    span may end in a finalizer that runs while this thread is inside.
    """

    def __init__(self, capacity: int, batch_size: int, largest_batch: int) -> None:
        self._capacity = capacity
        self._batch_size = batch_size
        self._largest_batch = largest_batch
        self._spans: deque[ReadableSpan] = deque()
        lock = threading.RLock()
        self._lock = lock
        self._work = threading.Condition(lock)
        self._progress = threading.Condition(lock)
        self._started = self._stored = self._duplicate = self._rejected = self._ignored = 0
        self._dropped: Counter[str] = Counter()
        self._in_flight = 0
        self._accepted = self._ended = 0
        self._flush_marks: deque[int] = deque()
        self._flushes_asked = self._flushes_done = 0
        self._hurry = self._closed = self._stopped = False

    def offer(self, spans: Iterable[ReadableSpan]) -> int:
        """Queue `spans` without waiting; return how many found no room. Spans after `close` count as dropped."""
        overflow = 0
        with self._lock:
            for span in spans:
                self._started += 1
                if self._closed:
                    self._dropped[SHUTDOWN] += 1
                elif len(self._spans) >= self._capacity:
                    self._dropped[QUEUE_FULL] += 1
                    overflow += 1
                else:
                    self._spans.append(span)
                    self._accepted += 1
                    if len(self._spans) in {1, self._batch_size}:
                        self._work.notify()
        return overflow

    def take(self, linger_seconds: float, idle_seconds: float | None) -> list[ReadableSpan]:
        """Return the next batch, as soon as it is full, has lingered, or somebody hurries.

        Returns an empty list when nothing came for `idle_seconds` (None: wait on), a flush waits, or all is over.
        """
        with self._lock:
            if not self._work.wait_for(lambda: self._spans or self._urgent, idle_seconds):
                return []
            self._work.wait_for(lambda: len(self._spans) >= self._batch_size or self._urgent, linger_seconds)
            size = min(len(self._spans), self._largest_batch)
            self._in_flight = size
            return [self._spans.popleft() for _ in range(size)]

    def account(
        self,
        *,
        stored: int = 0,
        duplicate: int = 0,
        rejected: int = 0,
        ignored: int = 0,
        dropped: tuple[str, int] = ("", 0),
    ) -> None:
        """Enter what became of spans of the batch in flight; without effect once `stop` has written them off."""
        reason, lost = dropped
        with self._lock:
            if self._stopped:
                return
            self._stored += stored
            self._duplicate += duplicate
            self._rejected += rejected
            self._ignored += ignored
            if lost:
                self._dropped[reason] += lost
            ended = stored + duplicate + rejected + ignored + lost
            self._in_flight -= ended
            self._ended += ended
            self._progress.notify_all()

    def pause(self, seconds: float) -> bool:
        """Wait before another attempt, less when somebody hurries; return False when all is over."""
        with self._lock:
            self._work.wait_for(lambda: self._hurry or self._stopped, seconds)
            self._hurry = False
            return not self._stopped

    def finish_batch(self, reason: str) -> int:
        """Write off what is left of the batch in flight as dropped for `reason`; return how many."""
        with self._lock:
            left = self._in_flight
            self.account(dropped=(reason, left))
            return left

    def flushes_due(self) -> int:
        """Return how many waiting flushes have nothing of theirs on the way any more."""
        with self._lock:
            return sum(mark <= self._ended for mark in self._flush_marks)

    def flushed(self, count: int) -> None:
        """Answer the first `count` waiting flushes."""
        with self._lock:
            for _ in range(count):
                self._flush_marks.popleft()
            self._flushes_done += count
            self._progress.notify_all()

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until every span offered so far has its end; return whether that came in time."""
        with self._lock:
            if self._stopped:
                return self._accepted == self._ended
            self._flush_marks.append(self._accepted)
            self._flushes_asked += 1
            ticket = self._flushes_asked
            self._hurry = True
            self._work.notify_all()
            self._progress.wait_for(lambda: self._flushes_done >= ticket or self._stopped, max(timeout_seconds, 0.0))
            return self._flushes_done >= ticket

    def close(self) -> None:
        """Take no more spans."""
        with self._lock:
            self._closed = True

    def stop(self) -> int:
        """End everything; return how many spans are left behind, now counted as dropped."""
        with self._lock:
            if self._stopped:
                return 0
            left = len(self._spans) + self._in_flight
            if left:
                self._dropped[SHUTDOWN] += left
            self._spans.clear()
            self._in_flight = 0
            self._closed = self._stopped = True
            self._work.notify_all()
            self._progress.notify_all()
            return left

    @property
    def _urgent(self) -> bool:
        return bool(self._flush_marks) or self._stopped

    @property
    def closed(self) -> bool:
        """Whether spans are no longer taken."""
        return self._closed

    @property
    def stopped(self) -> bool:
        """Whether all is over."""
        return self._stopped

    def books(self) -> Books:
        """Return the accounts of this moment."""
        with self._lock:
            return Books(
                started=self._started,
                stored=self._stored,
                duplicate=self._duplicate,
                rejected=self._rejected,
                dropped=dict(self._dropped),
                ignored=self._ignored,
                queued=len(self._spans) + self._in_flight,
            )
