"""The queue and its books: exact under threads, never waiting, balanced whatever happens in whatever order."""

from __future__ import annotations

import threading
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from elf_exporters.outbox import Outbox
from spans import eventually, tool_call

SPAN = tool_call(0)


def test_drops_of_eight_threads_into_a_full_queue_are_counted_exactly() -> None:
    outbox = Outbox(64, 32, 2048)
    overflow = [0] * 8

    def offer(thread: int) -> None:
        overflow[thread] = sum(outbox.offer([SPAN]) for _ in range(4000))

    threads = [threading.Thread(target=offer, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    books = outbox.books()
    assert (books.started, books.queued, books.dropped) == (32_000, 64, {"queue_full": 31_936})
    assert sum(overflow) == 31_936
    assert books.balanced


def test_a_flush_waits_for_what_came_before_it_and_not_for_what_comes_after() -> None:
    outbox = Outbox(1000, 10, 10)
    outbox.offer([SPAN] * 15)
    answers: list[bool] = []
    flush = threading.Thread(target=lambda: answers.append(outbox.flush(10)))
    flush.start()
    eventually(lambda: outbox._flush_marks)
    outbox.offer([SPAN] * 7)
    due: list[tuple[int, int]] = []
    for _ in range(2):
        taken = len(outbox.take(0.0, None))
        outbox.account(stored=taken)
        due.append((taken, outbox.flushes_due()))
    outbox.flushed(1)
    flush.join()
    assert due == [(10, 0), (10, 1)]
    assert answers == [True]
    assert outbox.books().queued == 2


def test_a_flush_of_a_stuck_worker_ends_in_its_time() -> None:
    outbox = Outbox(10, 10, 10)
    outbox.offer([SPAN])
    began = time.monotonic()
    assert outbox.flush(0.05) is False
    assert time.monotonic() - began < 1.0


def test_a_span_that_ends_while_this_thread_is_inside_the_queue_is_taken() -> None:
    outbox = Outbox(10, 10, 10)
    with outbox._lock:
        outbox.offer([SPAN])
    assert outbox.books().queued == 1


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 20)),
        st.tuples(st.just("take"), st.lists(st.sampled_from(["stored", "duplicate", "rejected", "ignored", "lost"]))),
        st.tuples(st.just("close"), st.none()),
        st.tuples(st.just("stop"), st.none()),
    ),
    max_size=30,
)


@given(EVENTS)
@settings(max_examples=150, deadline=None)
def test_the_books_balance_after_every_step(events: list[tuple[str, object]]) -> None:
    outbox = Outbox(25, 5, 12)
    for event, argument in events:
        if event == "offer" and isinstance(argument, int):
            outbox.offer([SPAN] * argument)
        elif event == "take" and isinstance(argument, list):
            taken = len(outbox.take(0.0, 0.0))
            for fate in argument[:taken]:
                if fate == "lost":
                    outbox.account(dropped=("refused", 1))
                else:
                    outbox.account(**{fate: 1})
                assert outbox.books().balanced
            outbox.finish_batch("internal")
        elif event == "close":
            outbox.close()
        else:
            outbox.stop()
        assert outbox.books().balanced
