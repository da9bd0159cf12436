"""One logical call, counted once, with its true outcome: deciding over the spans of one batch.

The outermost CLIENT span of a call is its counted row; deeper layers and the server's half stay as rows
with `counted = false`; chatter is no row at all (design, section 4, Counting rule). What arrives in another
batch is settled later in SQL by `settle_communications`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Final

from elf_automations.conventions import elf
from elf_automations.model.call import Call, Details, Outcome
from elf_automations.model.claims import Batch, SpanKey, claims_of, process_of
from elf_automations.model.communication import Communication, communication, instant
from elf_automations.model.entity import DESCRIPTION, Entity, EntityRef, entity
from elf_automations.model.http_requests import with_http_requests
from elf_automations.model.immutable import changed
from elf_automations.model.listings import unasked_listings
from elf_automations.model.n8n_links import linked, with_http_callers
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.model.noise import Noise
from elf_automations.model.protocols import recognise
from elf_automations.model.records import SpanKind, SpanRecord

UNKNOWN: Final = "unknown"
_FAILED: Final = frozenset({"error", "timeout"})
# What the A2A SDK's server answers over HTTP+JSON, whatever an executor raised.
_STOCK_PHRASE: Final = "unknown exception"
_SAYS_NOTHING: Final = frozenset({None, "", _STOCK_PHRASE})


@dataclass(frozen=True, slots=True)
class Settled:
    """What one batch stores: its rows in span order, its entities sorted by (type, id)."""

    rows: tuple[Communication, ...]
    entities: tuple[Entity, ...]


def settle(spans: Iterable[SpanRecord], n8n_nodes: NodeScope = "external") -> Settled:
    """Return the rows and registry entries of a batch of finished spans; `n8n_nodes` says which steps of n8n are rows.

    Pure and deterministic: the same spans in any order give the same rows. A span delivered twice in the
    batch is one row. Rejects nothing and raises nothing for odd spans; unknown ones are left out.
    """
    batch = _classify(spans, n8n_nodes)
    claims = claims_of(batch, unasked_listings(batch))
    layers: dict[SpanKey, list[SpanKey]] = {}
    for key, claimant in claims.outer.items():
        layers.setdefault(claimant, []).append(key)
    kept = {key: call for key, call in batch.calls.items() if key not in claims.dropped}
    for claimant, below in layers.items():
        below.sort(key=lambda key: (batch.calls[key].span.start_ns, key))
        kept[claimant] = _merged(batch.calls[claimant], [batch.calls[key] for key in below])
    rows = tuple(
        communication(call, counted=call.counts and key not in claims.outer, outcome=call.outcome)
        for key, call in kept.items()
    )
    return Settled(rows, _entities(list(kept.values()), rows))


def _classify(spans: Iterable[SpanRecord], n8n_nodes: NodeScope) -> Batch:
    parents: dict[SpanKey, bytes | None] = {}
    calls: dict[SpanKey, Call] = {}
    noise: dict[SpanKey, Noise] = {}
    servers: set[SpanKey] = set()
    requests: set[SpanKey] = set()
    for span in spans:
        key = (span.trace_id, span.span_id)
        parents[key] = span.caller_span_id
        answer = recognise(span)
        if isinstance(answer, Noise):
            noise[key] = answer
        elif answer is not None:
            calls[key] = answer
        elif span.kind is SpanKind.SERVER:
            servers.add(key)
        elif span.kind is SpanKind.CLIENT:
            requests.add(key)
    noted = with_http_callers(calls, parents, servers) if servers else calls
    batch = Batch(parents, linked(noted, n8n_nodes), noise, servers)
    return with_http_requests(batch, requests) if requests and calls else batch


def _merged(call: Call, layers: list[Call]) -> Call:
    """Return `call` with what it does not know taken from its layers, the outermost first; nothing is added up."""
    outcome, source, target, named = call.outcome, call.source, call.target, call.target_named
    details = call.details
    derived = call.outcome_derived and not any(map(_saw_its_end, layers))
    for layer in layers:
        outcome = _worse(outcome, layer.outcome)
        details = _completed(details, layer.details)
        if not named and layer.target.id != UNKNOWN and (layer.target_named or target.id == UNKNOWN):
            target, named = layer.target, layer.target_named
    outcome = _explained(call, outcome, layers)
    if derived and outcome.status == "success":
        ends = (layer.outcome for layer in layers if layer.side == "server")
        outcome = next((end for end in ends if end.status == "cancelled"), outcome)
    if call.span.text(elf.ELF_SOURCE_ID) is None:
        # A layer in the same process may know on whose behalf it acts; what a server heard of its caller is no better.
        acting = (layer for layer in layers if layer.side == "client" and layer.span.text(elf.ELF_SOURCE_ID))
        source = next((it.source for it in acting if process_of(it.span) == process_of(call.span)), source)
    ended = changed(call, outcome=outcome, outcome_derived=derived)
    return changed(ended, source=source, target=target, target_named=named, details=details)


def _saw_its_end(layer: Call) -> bool:
    """Return whether `layer` is a client that says itself that the call succeeded."""
    return layer.side == "client" and layer.outcome.status == "success" and not layer.outcome_derived


def _completed(known: Details, layer: Details) -> Details:
    """Return `known` with its empty columns taken from `layer`; tokens and their cost come from one layer together."""
    missing = {
        field.name: getattr(layer, field.name)
        for field in fields(known)
        if getattr(known, field.name) is None and getattr(layer, field.name) is not None
    }
    if known.tokens_used is not None:
        missing.pop("estimated_cost", None)
    return changed(known, **missing) if missing else known


def _worse(seen: Outcome, witness: Outcome) -> Outcome:
    """Let a layer that saw an error correct a client that saw nothing wrong, never the other way round.

    Of two that saw the same end, the protocol's own number is a better code than the name of a class.
    """
    if seen.status == "success" and witness.status == "error":
        return witness
    if seen.status == witness.status and _is_number(witness.error_code) and not _is_number(seen.error_code):
        return changed(seen, error_code=witness.error_code)
    return seen


def _explained(call: Call, seen: Outcome, layers: list[Call]) -> Outcome:
    """Let its server tell a client why the call failed that was only told that it did.

    Who wrote the call down took the client's error, and learns what that learns.
    """
    if seen.status != "error":
        return seen
    if call.side == "client":
        mute = seen.error_message in _SAYS_NOTHING
    else:
        wrote_down = call.side == "manual" and any(layer.side == "client" for layer in layers)
        mute = wrote_down and seen.error_message == _STOCK_PHRASE
    if not mute:
        return seen
    texts = (it.outcome.error_message for it in layers if it.side == "server" and it.outcome.status == "error")
    cause = next((text for text in texts if text not in _SAYS_NOTHING), None)
    return changed(seen, error_message=cause) if cause else seen


def _is_number(code: str | None) -> bool:
    return code is not None and code.removeprefix("-").isdecimal()


def _entities(calls: list[Call], rows: tuple[Communication, ...]) -> tuple[Entity, ...]:
    found: dict[tuple[str, str], Entity] = {}
    # The spans of a process share its resource, so it is asked once.
    resources = {id(call.span.resource): call.span.resource for call in calls}
    for declared in map(entity, resources.values()):
        if declared:
            _add(found, declared)
    for call in calls:
        for seen in call.entities:
            _add(found, seen)
    for active in _activity(calls, rows):
        _add(found, active)
    return tuple(found[key] for key in sorted(found))


def _activity(calls: list[Call], rows: tuple[Communication, ...]) -> Iterator[Entity]:
    """Yield what the counted rows add to each end: calls, errors, when last."""
    # By id and type: [calls, errors, when last in ns].
    ends: dict[tuple[str, str], list[int]] = {}
    for call, row in zip(calls, rows, strict=True):
        if not row.counted:
            continue
        ended = call.span.end_ns or call.span.start_ns
        failed = int(row.status in _FAILED)
        source, target = (row.source_id, row.source_type), (row.target_id, row.target_type)
        for end in (source, target) if source != target else (source,):
            known = ends.get(end)
            if known is None:
                ends[end] = [1, failed, ended]
                continue
            known[0] += 1
            known[1] += failed
            known[2] = max(known[2], ended)
    for (name, kind), (number, errors, latest) in ends.items():
        registry_type = EntityRef(name, kind).registry_type
        if registry_type:
            yield Entity(
                entity_id=name,
                entity_type=registry_type,
                observed=False,
                calls=number,
                errors=errors,
                last_activity=instant(latest),
            )


def _add(found: dict[tuple[str, str], Entity], seen: Entity) -> None:
    key = (seen.entity_type, seen.entity_id)
    known = found.get(key)
    if known is None:
        found[key] = seen
        return
    if _tells_nothing(seen, known):
        return
    latest = max((at for at in (known.last_activity, seen.last_activity) if at), default=None)
    best, other = (seen, known) if seen.observed and not known.observed else (known, seen)
    declared = tuple(name for name in other.declared if name not in best.declared)
    told = (name for name in DESCRIPTION if name in declared or not getattr(best, name))
    found[key] = changed(
        best,
        **{name: getattr(other, name) for name in told},
        metadata={**other.metadata, **best.metadata},
        declared=best.declared + declared,
        calls=known.calls + seen.calls,
        errors=known.errors + seen.errors,
        last_activity=latest,
    )


def _tells_nothing(seen: Entity, known: Entity) -> bool:
    """Return whether `known` already says all that another sighting says: most calls go where others went."""
    return (
        known.observed
        and not seen.calls
        and not seen.errors
        and seen.last_activity is None
        and (known.endpoint_url is not None or seen.endpoint_url is None)
        and (known.version is not None or seen.version is None)
        and (bool(known.capabilities) or not seen.capabilities)
        and (not seen.metadata or seen.metadata.keys() <= known.metadata.keys())
        and (not seen.declared or set(seen.declared) <= set(known.declared))
    )
