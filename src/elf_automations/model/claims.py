"""Which spans are layers of one call: the outermost client claims what lies below it (design, Counting rule)."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from elf_automations.conventions import otel
from elf_automations.model.call import Call
from elf_automations.model.noise import Noise
from elf_automations.model.records import AttributeValue, SpanRecord

SpanKey: TypeAlias = tuple[bytes, bytes]
_MAX_ANCESTORS: Final = 64
# A record by hand measures with another clock than the span: a millisecond covers the difference.
_CLOCKS_NS: Final = 1_000_000
# Of a server: the span that its HTTP request came from. Of a client: the spans of the HTTP requests that it made.
HTTP_CALLER: Final = "http_caller_span_id"
HTTP_REQUESTS: Final = "http_span_ids"
LISTING: Final = "tool_list"
LISTINGS: Final = frozenset({LISTING, "prompt_list", "resource_list", "resource_template_list"})
CALLING: Final = "tool_call"


@dataclass(frozen=True, slots=True)
class Batch:
    """The spans of a batch by (trace id, span id): each one's parent, the calls, the noise, other SERVER spans."""

    parents: Mapping[SpanKey, bytes | None]
    calls: Mapping[SpanKey, Call]
    noise: Mapping[SpanKey, Noise]
    servers: Container[SpanKey]


@dataclass(frozen=True, slots=True)
class Claims:
    """Who claims whom: `outer` leads from a layer to the row its call is counted by; `dropped` are no rows at all."""

    outer: Mapping[SpanKey, SpanKey]
    dropped: Container[SpanKey]


def claims_of(batch: Batch, unasked: Container[SpanKey]) -> Claims:
    """Return the claims within `batch`; `unasked` are listings already known to be nobody's."""
    direct: dict[SpanKey, SpanKey] = {}
    dropped: set[SpanKey] = set()
    for key, call in batch.calls.items():
        claim = Noise(call.protocol) if key in unasked else _claim(batch, key, call)
        if isinstance(claim, Noise):
            dropped.add(key)
        elif claim is not None:
            direct[key] = claim
    direct |= _called_over_http(batch, direct, dropped)
    direct |= _recorded_by_hand(batch, direct, dropped)
    outer = {key: _root(direct, key) for key in direct}
    dropped |= {key for key, root in outer.items() if root in dropped}
    return Claims({key: root for key, root in outer.items() if key not in dropped}, dropped)


def ancestors(batch: Batch, key: SpanKey) -> Iterator[SpanKey]:
    """Yield the ancestors of a span within the batch, nearest first; ends on cycles."""
    trace_id = key[0]
    seen = {key}
    for _ in range(_MAX_ANCESTORS):
        parent = batch.parents.get(key)
        if parent is None:
            return
        key = (trace_id, parent)
        if key in seen:
            return
        seen.add(key)
        yield key


def process_of(span: SpanRecord) -> tuple[object, object]:
    """Return what tells the processes that emit apart."""
    resource = span.resource.attributes
    return _name(resource.get(otel.SERVICE_NAME)), _name(resource.get(otel.SERVICE_INSTANCE_ID))


def _name(value: AttributeValue) -> object:
    # What no convention allows, a list or a mapping, must not cost the spans of its process.
    return value if value is None or isinstance(value, str) else repr(value)


def _claim(batch: Batch, key: SpanKey, call: Call) -> SpanKey | Noise | None:
    """Return the outermost layer of the same call, `Noise` for what nobody called, None for a call of its own."""
    parent = batch.parents.get(key)
    # Most spans came without the ones above them.
    if parent is None or call.side not in {"client", "server"} or (key[0], parent) not in batch.parents:
        return None
    claimant: SpanKey | None = None
    asked = call  # the call under the name that is used for it here
    inner: Call | None = call  # the layer just below, None once a client of another call lies between
    for ancestor in ancestors(batch, key):
        noise = batch.noise.get(ancestor)
        if noise and noise.protocol == call.protocol and claimant is None and _follows(call, noise):
            return noise
        above = batch.calls.get(ancestor)
        if above is None or above.protocol != call.protocol:
            continue
        if above.side == "server":
            if inner is None or not _passed_on(above, inner):
                if inner is not None and _looked_up(above, inner):
                    return Noise(call.protocol)
                break
            asked = above
        if above.side in {"client", "server"}:
            if call.operation == LISTING and above.operation == CALLING:
                return Noise(call.protocol)
            same = same_call(above, asked)
            claimant, inner = (ancestor, above) if same else (claimant, None)
    return claimant


def same_call(outer: Call, inner: Call) -> bool:
    """Return whether `inner`, somewhere below `outer`, is a layer of it; a gateway puts `{server}_` before the name."""
    if outer.operation != inner.operation:
        return False
    return not outer.key or not inner.key or outer.key == inner.key or outer.key.endswith(f"_{inner.key}")


def _passed_on(server: Call, inner: Call) -> bool:
    """Return whether `inner` is how `server` answers the very call it got: a mounted server, a proxy, a joint list.

    A server that no handler of its own answers for may know what it passes on by another name: a resource's prefix
    stands within its URI.
    """
    if server.operation != inner.operation or process_of(server.span) != process_of(inner.span):
        return False
    if inner.relayed and server.unhandled:
        return True
    passes_on = inner.relayed or server.unhandled or inner.operation in LISTINGS
    return passes_on and same_call(server, inner)


def _looked_up(server: Call, inner: Call) -> bool:
    """Return whether `server` listed by itself, to find who answers the call it got: no handler of its own does."""
    return server.unhandled and inner.operation in LISTINGS and process_of(server.span) == process_of(inner.span)


def _follows(call: Call, noise: Noise) -> bool:
    """Return whether `call`, below `noise`, is its server's half, or a listing made to answer a listing."""
    return call.side == "server" or (noise.listing and call.operation in LISTINGS)


def _root(direct: Mapping[SpanKey, SpanKey], key: SpanKey) -> SpanKey:
    seen = {key}
    while (above := direct.get(key)) is not None and above not in seen:
        seen.add(above)
        key = above
    return key


def _called_over_http(
    batch: Batch, claimed: Mapping[SpanKey, SpanKey], dropped: Container[SpanKey]
) -> dict[SpanKey, SpanKey]:
    """Return the servers behind HTTP that nothing in `batch` leads from, each with the client around it in time.

    One that is known to have made other requests did not make theirs.
    """
    waiting = [
        key
        for key, call in batch.calls.items()
        if HTTP_CALLER in call.details.metadata
        and key not in claimed
        and key not in dropped
        and not any(above in batch.calls for above in ancestors(batch, key))
    ]
    of_trace: dict[bytes, list[SpanKey]] = {}
    for key in batch.calls if waiting else ():
        of_trace.setdefault(key[0], []).append(key)
    found: dict[SpanKey, SpanKey] = {}
    for key in waiting:
        around = [other for other in of_trace[key[0]] if _may_have_called(batch, other, key)]
        if around:
            # Of several the innermost; a server elsewhere that answers the same passed it on itself.
            innermost = min(around, key=lambda other: (-batch.calls[other].span.start_ns, other))
            if batch.calls[innermost].side == "client":
                found[key] = innermost
    return found


def _may_have_called(batch: Batch, outer_key: SpanKey, key: SpanKey) -> bool:
    outer, call = batch.calls[outer_key], batch.calls[key]
    if outer_key == key or outer.protocol != call.protocol or not same_call(outer, call):
        return False
    if outer.side == "client":
        return HTTP_REQUESTS not in outer.details.metadata and within(call.span, outer.span)
    return outer.side == "server" and process_of(outer.span) != process_of(call.span) and within(call.span, outer.span)


def _recorded_by_hand(
    batch: Batch, outer: Mapping[SpanKey, SpanKey], dropped: Container[SpanKey]
) -> dict[SpanKey, SpanKey]:
    """Return the instrumented calls that the application recorded by hand as well, each with its record.

    `record_mcp()` around a traced call makes a sibling, no ancestor: they are one call when they have the same
    protocol, operation and key in one process and the record's time holds the call's. One record claims one call.
    """
    records = [key for key, call in batch.calls.items() if call.side == "manual" and call.duration_ms is not None]
    if not records:
        return {}
    waiting: dict[tuple[object, ...], list[SpanKey]] = {}
    for key, call in batch.calls.items():
        if call.side in {"client", "server"} and key not in outer and key not in dropped:
            waiting.setdefault(_likeness(call), []).append(key)
    claims: dict[SpanKey, SpanKey] = {}
    # In the order of their ends, so that overlapping records choose alike in whatever order they were delivered.
    for key in sorted(records, key=lambda key: (batch.calls[key].span.end_ns or 0, key)):
        record = batch.calls[key]
        rivals = waiting.get(_likeness(record), [])
        inside = [rival for rival in rivals if within(batch.calls[rival].span, record.span)]
        if inside:
            first = min(inside, key=lambda rival: (batch.calls[rival].span.start_ns, rival))
            rivals.remove(first)
            claims[first] = key
    return claims


def _likeness(call: Call) -> tuple[object, ...]:
    # A message id, the key of an A2A call, is unknown to who records by hand; its team is not.
    key = call.target.id if call.protocol == "a2a" else call.key
    return call.protocol, call.operation, key, process_of(call.span)


def within(inner: SpanRecord, outer: SpanRecord) -> bool:
    """Return whether `outer`, measured by another clock, holds `inner`."""
    if inner.end_ns is None or outer.end_ns is None:
        return False
    return outer.start_ns - _CLOCKS_NS <= inner.start_ns and inner.end_ns <= outer.end_ns + _CLOCKS_NS
