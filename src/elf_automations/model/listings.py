"""Listings of tools that no application asked for: a client checks a result, a server looks up a schema.

What lies inside a call's own span is told by its place (`claims`); what lies beside one only by its circumstances.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, TypeAlias

from elf_automations.conventions import otel
from elf_automations.model.call import Call
from elf_automations.model.claims import CALLING, LISTING, Batch, SpanKey, ancestors, process_of

_Found: TypeAlias = list[tuple[SpanKey, Call]]
# The SDK sends its listing as soon as it has the result; a busy machine needs some milliseconds for that.
_AT_ONCE_NS: Final = 20_000_000
_ANY_CONNECTION: Final = -1


def unasked_listings(batch: Batch) -> set[SpanKey]:
    """Return the listings within `batch` that a library made beside a call, on the client or on the server.

    Asks little of a batch without listings. What is split over two batches is not found, and counts.
    """
    listings = [(key, call) for key, call in batch.calls.items() if call.operation == LISTING]
    return _of_one_request(batch, listings) | _after_a_call(batch, listings) if listings else set()


def _of_one_request(batch: Batch, listings: _Found) -> set[SpanKey]:
    """Return the listings a server made while it took in a call: one HTTP request carries one MCP request."""
    busy = {
        parent
        for key, call in batch.calls.items()
        if call.side == "server"
        and call.operation == CALLING
        and (parent := _parent(batch, key)) is not None
        and parent in batch.servers
    }
    return {key for key, call in listings if call.side == "server" and _parent(batch, key) in busy}


def _after_a_call(batch: Batch, listings: _Found) -> set[SpanKey]:
    """Return the listings the SDK's client made to check the result of a call.

    It does so once a connection, after the first call that succeeded, unless the tools were listed before; then
    its listing is the next thing it sends. Request ids, where the spans have them, tell connections apart.
    """
    asked = [(key, call) for key, call in listings if call.side == "client"]
    # A listing that has a layer above it was asked for by that layer.
    beside = [
        (key, call)
        for key, call in asked
        if call.unasked and not any(batch.calls.get(above) for above in ancestors(batch, key))
    ]
    if not beside:
        return set()
    known = _Known(call for _, call in asked)
    calls: dict[tuple[object, object], list[tuple[int, int | None]]] = {}
    for key, call in batch.calls.items():
        if call.operation == CALLING and call.side == "client" and call.outcome.status == "success":
            place = process_of(call.span), _parent(batch, key)
            calls.setdefault(place, []).append((call.span.end_ns or 0, request_id(call)))
    for ended in calls.values():
        ended.sort(key=lambda one: one[0])
    found: set[SpanKey] = set()
    for key, listing in beside:
        process, sent = process_of(listing.span), request_id(listing)
        began = listing.span.start_ns
        candidates = calls.get((process, _parent(batch, key)), [])
        first = bisect_left(candidates, began - _AT_ONCE_NS, key=lambda one: one[0])
        last = bisect_right(candidates, began, key=lambda one: one[0])
        for ended_ns, called in candidates[first:last]:
            if (sent is None or called is None or sent > called) and not known.before(process, ended_ns, called):
                found.add(key)
                break
    return found


class _Known:
    """When each process had first listed the tools, on which connection."""

    def __init__(self, listings: Iterable[Call]) -> None:
        ends: dict[object, list[tuple[int, int]]] = {}
        for call in listings:
            sent = request_id(call)
            end = call.span.end_ns or call.span.start_ns
            ends.setdefault(process_of(call.span), []).append((end, _ANY_CONNECTION if sent is None else sent))
        self._ends = {process: sorted(all_of_it) for process, all_of_it in ends.items()}
        self._lowest = {
            process: list(accumulate((sent for _, sent in ends), min)) for process, ends in self._ends.items()
        }

    def before(self, process: object, ended_ns: int, called: int | None) -> bool:
        """Return whether `process` had listed the tools before the call with request id `called` ended."""
        count = bisect_right(self._ends.get(process, []), ended_ns, key=lambda one: one[0])
        return count > 0 and (called is None or self._lowest[process][count - 1] < called)


def request_id(call: Call) -> int | None:
    """Return the JSON-RPC id of a call's request, None when the span does not say it or it is no number."""
    said = call.span.text(otel.JSONRPC_REQUEST_ID)
    return int(said) if said and said.isascii() and said.isdigit() else None


def _parent(batch: Batch, key: SpanKey) -> SpanKey | None:
    parent = batch.parents.get(key)
    return (key[0], parent) if parent else None
