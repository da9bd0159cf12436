"""One logical call, counted once, with its true outcome: deciding over the spans of one batch.

The outermost CLIENT span of a call is its counted row; deeper layers and the server's half stay as rows
with `counted = false`; chatter is no row at all (design, section 4, Counting rule). What arrives in another
batch is settled later in SQL by `settle_communications`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from elf_automations.conventions import otel
from elf_automations.model.call import Call, Outcome
from elf_automations.model.communication import Communication, communication, instant
from elf_automations.model.entity import Entity, EntityRef, entity
from elf_automations.model.noise import Noise
from elf_automations.model.protocols import recognise
from elf_automations.model.records import SpanRecord

_SpanKey: TypeAlias = tuple[bytes, bytes]
_MAX_ANCESTORS: Final = 64
# A record by hand measures with another clock than the span: a millisecond covers the difference.
_CLOCKS_NS: Final = 1_000_000
_FAILED: Final = frozenset({"error", "timeout"})


@dataclass(frozen=True, slots=True)
class Settled:
    """What one batch stores: its rows in span order, its entities sorted by (type, id)."""

    rows: tuple[Communication, ...]
    entities: tuple[Entity, ...]


@dataclass(frozen=True, slots=True)
class _Batch:
    parents: dict[_SpanKey, bytes | None]
    calls: dict[_SpanKey, Call]
    chatter: dict[_SpanKey, Noise]


def settle(spans: Iterable[SpanRecord]) -> Settled:
    """Return the rows and registry entries of a batch of finished spans.

    Pure and deterministic: the same spans in any order give the same rows. A span delivered twice in the
    batch is one row. Rejects nothing and raises nothing for odd spans; unknown ones are left out.
    """
    batch = _classify(spans)
    outer: dict[_SpanKey, _SpanKey] = {}
    dropped: set[_SpanKey] = set()
    for key, call in batch.calls.items():
        claim = _claim(batch, key, call)
        if isinstance(claim, Noise):
            dropped.add(key)
        elif claim is not None:
            outer[key] = claim
    outer |= _recorded_by_hand(batch, outer, dropped)
    outcomes = {key: call.outcome for key, call in batch.calls.items()}
    for key, claimant in outer.items():
        outcomes[claimant] = _worse(outcomes[claimant], batch.calls[key].outcome)
    kept = [(key, call) for key, call in batch.calls.items() if key not in dropped]
    rows = tuple(communication(call, counted=key not in outer, outcome=outcomes[key]) for key, call in kept)
    return Settled(rows, _entities([call for _, call in kept], rows))


def _classify(spans: Iterable[SpanRecord]) -> _Batch:
    parents: dict[_SpanKey, bytes | None] = {}
    calls: dict[_SpanKey, Call] = {}
    chatter: dict[_SpanKey, Noise] = {}
    for span in spans:
        key = (span.trace_id, span.span_id)
        parents[key] = span.caller_span_id
        answer = recognise(span)
        if isinstance(answer, Noise):
            chatter[key] = answer
        elif answer is not None:
            calls[key] = answer
    return _Batch(parents, calls, chatter)


def _ancestors(batch: _Batch, key: _SpanKey) -> Iterator[_SpanKey]:
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


def _claim(batch: _Batch, key: _SpanKey, call: Call) -> _SpanKey | Noise | None:
    """Return the outermost client span of the same call, `Noise` for the server's half of chatter, else None."""
    if call.side not in {"client", "server"}:
        return None
    claimant: _SpanKey | None = None
    for ancestor in _ancestors(batch, key):
        noise = batch.chatter.get(ancestor)
        if noise and noise.protocol == call.protocol and call.side == "server" and claimant is None:
            return noise
        above = batch.calls.get(ancestor)
        if above is None or above.protocol != call.protocol:
            continue
        if above.side == "server":
            break
        if above.side == "client" and _same_call(above, call):
            claimant = ancestor
    return claimant


def _recorded_by_hand(
    batch: _Batch, outer: Mapping[_SpanKey, _SpanKey], dropped: Container[_SpanKey]
) -> dict[_SpanKey, _SpanKey]:
    """Return the instrumented calls that the application recorded by hand as well, each with its record.

    `record_mcp()` around a traced call makes a sibling, no ancestor: they are one call when they have the same
    protocol, operation and key in one process and the record's time holds the call's. One record claims one call.
    """
    waiting: dict[tuple[object, ...], list[_SpanKey]] = {}
    for key, call in batch.calls.items():
        if call.side in {"client", "server"} and key not in outer and key not in dropped:
            waiting.setdefault(_likeness(call), []).append(key)
    claims: dict[_SpanKey, _SpanKey] = {}
    for key, record in batch.calls.items():
        if record.side == "manual" and record.duration_ms is not None:
            rivals = waiting.get(_likeness(record), [])
            inside = [rival for rival in rivals if _within(batch.calls[rival].span, record.span)]
            if inside:
                first = min(inside, key=lambda rival: batch.calls[rival].span.start_ns)
                rivals.remove(first)
                claims[first] = key
    return claims


def _likeness(call: Call) -> tuple[object, ...]:
    resource = call.span.resource.attributes
    process = resource.get(otel.SERVICE_NAME), resource.get(otel.SERVICE_INSTANCE_ID)
    # A message id, the key of an A2A call, is unknown to who records by hand; its team is not.
    key = call.target.id if call.protocol == "a2a" else call.key
    return call.protocol, call.operation, key, process


def _within(inner: SpanRecord, outer: SpanRecord) -> bool:
    if inner.end_ns is None or outer.end_ns is None:
        return False
    return outer.start_ns - _CLOCKS_NS <= inner.start_ns and inner.end_ns <= outer.end_ns + _CLOCKS_NS


def _same_call(outer: Call, inner: Call) -> bool:
    return outer.operation == inner.operation and (outer.key == inner.key or not outer.key or not inner.key)


def _worse(seen: Outcome, witness: Outcome) -> Outcome:
    """Let a layer that saw an error correct a client that saw nothing wrong, never the other way round."""
    return witness if seen.status == "success" and witness.status == "error" else seen


def _entities(calls: list[Call], rows: tuple[Communication, ...]) -> tuple[Entity, ...]:
    found: dict[tuple[str, str], Entity] = {}
    for call in calls:
        declared = entity(call.span.resource)
        for seen in (*call.entities, *([declared] if declared else [])):
            _add(found, seen)
    for call, row in zip(calls, rows, strict=True):
        if row.counted:
            ended = instant(call.span.end_ns or call.span.start_ns)
            failed = 1 if row.status in _FAILED else 0
            ends = {EntityRef(row.source_id, row.source_type), EntityRef(row.target_id, row.target_type)}
            for ref in ends:
                if ref.registry_type:
                    _add(
                        found,
                        Entity(
                            entity_id=ref.id,
                            entity_type=ref.registry_type,
                            observed=False,
                            calls=1,
                            errors=failed,
                            last_activity=ended,
                        ),
                    )
    return tuple(found[key] for key in sorted(found))


def _add(found: dict[tuple[str, str], Entity], seen: Entity) -> None:
    key = (seen.entity_type, seen.entity_id)
    known = found.get(key)
    if known is None:
        found[key] = seen
        return
    latest = max((at for at in (known.last_activity, seen.last_activity) if at), default=None)
    best = seen if seen.observed and not known.observed else known
    found[key] = replace(
        best,
        endpoint_url=known.endpoint_url or seen.endpoint_url,
        capabilities=known.capabilities or seen.capabilities,
        calls=known.calls + seen.calls,
        errors=known.errors + seen.errors,
        last_activity=latest,
    )
