"""Which HTTP requests a client made: a server behind HTTP hangs below the span of one, which makes no row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from elf_automations.model.claims import HTTP_REQUESTS, Batch, SpanKey, ancestors

_MAX_REQUESTS: Final = 4


def with_http_requests(batch: Batch, requests: Iterable[SpanKey]) -> Batch:
    """Return `batch`, its clients with those of `requests`, spans of HTTP clients, that lie below them."""
    made: dict[SpanKey, list[str]] = {}
    for request in sorted(requests):
        caller = next((above for above in ancestors(batch, request) if above in batch.calls), None)
        if caller is not None and batch.calls[caller].side == "client":
            made.setdefault(caller, []).append(request[1].hex())
    if not made:
        return batch
    calls = dict(batch.calls)
    for key, spans in made.items():
        details = calls[key].details
        metadata = {**details.metadata, HTTP_REQUESTS: spans[:_MAX_REQUESTS]}
        calls[key] = replace(calls[key], details=replace(details, metadata=metadata))
    return replace(batch, calls=calls)
