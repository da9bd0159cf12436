"""The spans of n8n executions joined: whose a step is, who started an execution, whom a step called.

n8n's `node.execute` names neither workflow nor execution: its parent does. What arrives in another batch is joined
later by `settle_n8n` in SQL, to the same rows. Source: OpenTelemetry export of n8n 2.41.1.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace
from typing import Final

from elf_automations.conventions import elf
from elf_automations.model.call import Call, Details
from elf_automations.model.claims import HTTP_CALLER, SpanKey
from elf_automations.model.entity import EntityRef
from elf_automations.model.n8n_nodes import NodeScope, node_kind
from elf_automations.model.protocols.n8n import CUT_OFF, EXECUTION, STEP, UNKNOWN_TARGET
from elf_automations.model.records import AttributeValue

_MAX_RESUMES: Final = 64
# What an MCP client calls itself is no entity of ours.
_SAID_NOTHING: Final = frozenset({None, "mcp_client"})
# What a step tells of the execution it belongs to.
_SHARED: Final = ("execution_id", "execution_mode", "retry_of", "project_id")


def linked(calls: Mapping[SpanKey, Call], nodes: NodeScope) -> Mapping[SpanKey, Call]:
    """Return the calls of a batch with n8n's joined to each other and to what they called; `nodes` says which stay.

    A step gets workflow and execution of its parent; an execution started by another one has that workflow as its
    source; a server that a step called was called by the step's workflow, and is the step's target. Without spans of
    n8n the batch is returned as it is.
    """
    ours = {key: call for key, call in calls.items() if call.protocol == "n8n" and call.side == "internal"}
    if not ours:
        return calls
    unwanted = {key for key, call in ours.items() if nodes == "external" and _stays_inside(call)}
    kept = {key: call for key, call in calls.items() if key not in unwanted}
    return _Executions(kept, {key: call for key, call in ours.items() if key not in unwanted}).joined()


def with_http_callers(
    calls: Mapping[SpanKey, Call], parents: Mapping[SpanKey, bytes | None], servers: Container[SpanKey]
) -> Mapping[SpanKey, Call]:
    """Return the calls of a batch, those whose caller said nothing with the span their HTTP request came from.

    An HTTP server's span, one of `servers`, is between a server's row and the node that called it, and is no row.
    """
    found = dict(calls)
    for key, call in calls.items():
        around = (key[0], parents.get(key) or b"")
        if call.side == "server" and around in servers and call.span.text(elf.ELF_SOURCE_TYPE) in _SAID_NOTHING:
            caller = parents.get(around)
            if caller is not None:
                metadata = {**call.details.metadata, HTTP_CALLER: caller.hex()}
                found[key] = replace(call, details=replace(call.details, metadata=metadata))
    return found


def _stays_inside(call: Call) -> bool:
    node_type = call.details.metadata.get("node_type")
    return call.operation == STEP and isinstance(node_type, str) and node_kind(node_type) in {"inside", "trigger"}


class _Executions:
    """The calls of a batch, `ours` those that n8n made."""

    def __init__(self, calls: Mapping[SpanKey, Call], ours: Mapping[SpanKey, Call]) -> None:
        self._calls = calls
        self._runs = {key: call for key, call in ours.items() if call.operation == EXECUTION}
        self._steps = {key: self._step(call) for key, call in ours.items() if call.operation == STEP}

    def joined(self) -> dict[SpanKey, Call]:
        """Return all calls, joined."""
        found = {**self._calls, **self._steps}
        for key, call in self._runs.items():
            found[key] = self._run(key, call)
        for key, call in self._called():
            found[key] = replace(call, source=self._workflow_of(self._steps[_above(call)]) or call.source)
        for step, target in self._targets().items():
            found[step] = replace(found[step], target=target)
        return found

    def _step(self, call: Call) -> Call:
        """Return a step with what its execution knows; one that was cut off ended as its execution did."""
        run = self._runs.get(_above(call))
        if run is None:
            return call
        details, theirs = call.details, run.details
        shared = {name: theirs.metadata[name] for name in _SHARED if name in theirs.metadata}
        made = replace(
            call,
            details=replace(
                details,
                workflow_id=details.workflow_id or theirs.workflow_id,
                workflow_name=details.workflow_name or theirs.workflow_name,
                metadata={**shared, **details.metadata},
            ),
        )
        if details.metadata.get("termination_reason") == CUT_OFF and run.outcome.status != "success":
            made = replace(made, outcome=replace(call.outcome, status=run.outcome.status))
        return replace(made, source=self._workflow_of(made) or call.source)

    def _run(self, key: SpanKey, call: Call) -> Call:
        """Return an execution with the workflow that started it, or whoever did; resumed ones were started once."""
        first = call
        for _ in range(_MAX_RESUMES):
            above = self._runs.get(_above(first))
            if above is None or _above(first) == key or not _same_execution(above.details, call.details):
                break
            first = above
        parent = self._steps.get(_above(first)) or self._runs.get(_above(first))
        if parent is None:
            return call if first is call else replace(call, source=first.source)
        said: dict[str, AttributeValue] = {}
        if (execution := parent.details.metadata.get("execution_id")) is not None:
            said["parent_execution_id"] = execution
        return replace(
            call,
            source=self._workflow_of(parent) or first.source,
            details=replace(call.details, metadata={**call.details.metadata, **said}),
        )

    def _targets(self) -> dict[SpanKey, EntityRef]:
        """Return whom each step called, as the first who was called says it."""
        called = [*self._called(), *((key, call) for key, call in self._runs.items() if _above(call) in self._steps)]
        called.sort(key=lambda one: (one[1].span.start_ns // 1000, one[0]))
        found: dict[SpanKey, EntityRef] = {}
        for _, call in called:
            if call.target.id != UNKNOWN_TARGET:
                found.setdefault(_above(call), call.target)
        return found

    def _called(self) -> list[tuple[SpanKey, Call]]:
        """Return what MCP and A2A servers say of calls that steps made."""
        return [
            (key, call) for key, call in self._calls.items() if call.side == "server" and _above(call) in self._steps
        ]

    @staticmethod
    def _workflow_of(call: Call) -> EntityRef | None:
        return EntityRef(call.details.workflow_id, "workflow") if call.details.workflow_id else None


def _above(call: Call) -> SpanKey:
    span = call.span
    said = call.details.metadata.get(HTTP_CALLER) if call.side == "server" else None
    return (span.trace_id, bytes.fromhex(said) if isinstance(said, str) else span.caller_span_id or b"")


def _same_execution(one: Details, other: Details) -> bool:
    execution = one.metadata.get("execution_id")
    return (
        execution is not None
        and execution == other.metadata.get("execution_id")
        and one.workflow_id == other.workflow_id
    )
