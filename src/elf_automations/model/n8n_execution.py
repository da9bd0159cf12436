"""One ended n8n execution as plain values, read from the event `workflow.executed`.

The fields read here are all that is ever used of an execution: no item data, no headers but the trace's, no resume
token, no stack trace. What the public API answers is brought into the same form first (`n8n_excerpt`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from elf_automations.model.call import Outcome
from elf_automations.model.n8n_fields import (
    Json,
    TraceParent,
    instant,
    items,
    mapping,
    mappings,
    milliseconds,
    text,
    traceparent,
)
from elf_automations.model.n8n_outcome import ending, exception
from elf_automations.model.records import ExceptionRecord


@dataclass(frozen=True, slots=True)
class ExecutionRef:
    """An execution and its workflow, by n8n's ids; the workflow is empty when nobody says it."""

    execution_id: str
    workflow_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRun:
    """One run of one node: times in ns since 1970, `end_ns` None when its duration is unknown.

    `service` is the host or service it calls, `called` are the executions it started.
    """

    name: str
    run: int
    type: str | None
    type_version: float | None
    node_id: str | None
    service: str | None
    start_ns: int | None
    end_ns: int | None
    outcome: Outcome
    exception: ExceptionRecord | None
    called: tuple[ExecutionRef, ...]
    soft_error: bool
    items_in: int | None
    items_out: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """An ended execution: times in ns since 1970, None when they are not known.

    `incoming` is the caller that its webhook was told, `parent` the execution that started it, `retry_of` the one it
    repeats. One that paused and was `resumed` is told from when it went on for the last time, as n8n's export does.
    `left_out` is how many node runs of a large one are not among `nodes`.
    """

    ref: ExecutionRef
    workflow_name: str | None
    version_id: str | None
    project_id: str | None
    node_count: int | None
    mode: str | None
    status: str | None
    start_ns: int | None
    end_ns: int | None
    outcome: Outcome
    exception: ExceptionRecord | None
    retry_of: str | None
    resumed: bool
    parent: ExecutionRef | None
    incoming: TraceParent | None
    nodes: tuple[NodeRun, ...]
    left_out: int | None


def read_execution(workflow: Json, execution: Json) -> Execution | None:
    """Return the execution that an event tells of; None when it has not ended (waiting, running).

    Args:
        workflow: `id`, `name`, `versionId`, `projectId`, `settings.executionTimeout` (s) and `nodes` (each `id`,
            `name`, `type`, `typeVersion`, `service`).
        execution: `id`, `status`, `mode`, `startedAt`, `stoppedAt` (ISO 8601 or ms since 1970), `retryOf`, `error`
            (`name`, `message`, `messages`, `httpCode`, `reason`), `parentExecution` (`executionId`, `workflowId`),
            `traceparent`, `tracestate`, `nodesLeftOut`, and `nodes`, which ran: each `name`, `run`, `startTime` (ms
            since 1970), `executionTime` (ms), `executionIndex`, `status`, `error`, `subExecutions`, `softError`,
            `items`.
    """
    outcome = ending(execution, workflow)
    if outcome is None:
        return None
    declared, ran = mappings(workflow.get("nodes")), mappings(execution.get("nodes"))
    start, end = instant(execution.get("startedAt")), instant(execution.get("stoppedAt"))
    retry_of = text(execution.get("retryOf"))
    begun = _begun(ran) if retry_of is None else []
    # Hooks say when it went on, the API when it was first started.
    if start is not None and len(begun) > 1 and start <= begun[0]:
        start = begun[-1]
    workflow_id = text(workflow.get("id")) or ""
    return Execution(
        ref=ExecutionRef(text(execution.get("id")) or "", workflow_id),
        workflow_name=text(workflow.get("name")),
        version_id=text(workflow.get("versionId")),
        project_id=text(workflow.get("projectId")),
        node_count=len(declared) or None,
        mode=text(execution.get("mode")),
        status=text(execution.get("status")),
        start_ns=start,
        end_ns=end if start is not None and end is not None and end >= start else None,
        outcome=outcome,
        exception=exception(execution.get("error")),
        retry_of=retry_of,
        resumed=len(begun) > 1,
        parent=_ref(execution.get("parentExecution")),
        incoming=traceparent(execution.get("traceparent"), execution.get("tracestate")),
        nodes=tuple(_runs(ran, declared, start if retry_of else None)),
        left_out=_count(execution.get("nodesLeftOut")) or None,
    )


def _begun(ran: Sequence[Json]) -> list[int]:
    """Return when an execution began and when it went on after each pause: n8n counts its node runs anew each time."""
    first = (each for each in ran if each.get("executionIndex") == 0)
    return sorted(start for each in first if (start := instant(each.get("startTime"))) is not None)


def _runs(told: Sequence[Json], declared: Sequence[Json], since: int | None) -> Iterator[NodeRun]:
    """Yield the runs of nodes that ended; of a retry only those since it began, the others are the first attempt's."""
    known = {text(node.get("name")): node for node in declared}
    seen: dict[str, int] = {}
    for node in told:
        name, outcome = text(node.get("name")), ending(node)
        if name is None or outcome is None:
            continue
        run = node.get("run")
        number = run if isinstance(run, int) and not isinstance(run, bool) else seen.get(name, 0)
        seen[name] = number + 1
        start = instant(node.get("startTime"))
        if since is not None and start is not None and start < since:
            continue
        yield _run({**known.get(name, {}), **node}, name, number, outcome, start)


def _run(node: Json, name: str, number: int, outcome: Outcome, start: int | None) -> NodeRun:
    took = milliseconds(node.get("executionTime"))
    counted = mapping(node.get("items"))
    return NodeRun(
        name=name,
        run=number,
        type=text(node.get("type")),
        type_version=milliseconds(node.get("typeVersion")),
        node_id=text(node.get("id")),
        service=text(node.get("service")),
        start_ns=start,
        end_ns=start + round(took * 1_000_000) if start is not None and took is not None else None,
        outcome=outcome,
        exception=exception(node.get("error")),
        called=tuple(ref for each in items(node.get("subExecutions")) if (ref := _ref(each))),
        soft_error=bool(node.get("softError")),
        items_in=_count(counted.get("input")),
        items_out=_count(counted.get("output")),
    )


def _ref(value: object) -> ExecutionRef | None:
    said: Mapping[str, object] = mapping(value)
    execution_id = text(said.get("executionId")) or text(value)
    return ExecutionRef(execution_id, text(said.get("workflowId")) or "") if execution_id else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
