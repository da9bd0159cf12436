"""n8n spans: its native export (scope `n8n-workflow`), ours from its events, and `telemetry_client.record_n8n`.

`workflow.execute` is one `workflow_execution`, which counts once it has ended; each `node.execute` is a
`workflow_step`, of which `n8n_links` keeps those that are wanted, and knows whose they are. n8n's attributes are
read before the status code, which says OK for a cancelled execution. Source: OpenTelemetry export of n8n 2.41.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from elf_automations.conventions import elf, n8n
from elf_automations.model.call import Call, Details, Outcome, Side, Status, elapsed_ms, stated
from elf_automations.model.caller_state import caller_of
from elf_automations.model.entity import Entity, EntityRef, identify
from elf_automations.model.n8n_nodes import node_kind, short_type
from elf_automations.model.noise import Noise
from elf_automations.model.outcome import span_outcome
from elf_automations.model.records import AttributeValue, SpanKind, SpanRecord

NATIVE_SCOPE: Final = "n8n-workflow"
EXECUTION_SPAN: Final = "workflow.execute"
NODE_SPAN: Final = "node.execute"
EXECUTION: Final = "workflow_execution"
STEP: Final = "workflow_step"
UNKNOWN_TARGET: Final = "unknown"

# The end of an execution in the row's words; a status not named here is no end (waiting, running, new).
TERMINAL: Final[Mapping[str, Status]] = {
    "success": "success",
    "error": "error",
    "crashed": "error",
    "canceled": "cancelled",
    "cancelled": "cancelled",
}
_UNFINISHED: Final = frozenset({"waiting", "running", "new"})
CUT_OFF: Final = "workflow_cancelled"
# Started by another execution, whose trace state they inherit.
_WITHIN: Final = frozenset({"integrated", "error"})
_NOISE: Final = Noise("n8n")
_SIDES: Final[Mapping[SpanKind, Side]] = {SpanKind.CLIENT: "client", SpanKind.SERVER: "server"}
_KEPT: Final[Mapping[str, str]] = {
    n8n.N8N_EXECUTION_ID: "execution_id",
    n8n.N8N_EXECUTION_MODE: "execution_mode",
    n8n.N8N_EXECUTION_RETRY_OF: "retry_of",
    n8n.N8N_PROJECT_ID: "project_id",
    n8n.N8N_NODE_ID: "node_id",
    n8n.N8N_NODE_TYPE: "node_type",
    n8n.N8N_NODE_TERMINATION_REASON: "termination_reason",
    elf.ELF_N8N_SOFT_ERROR: "soft_error",
}


def recognise(span: SpanRecord) -> Call | Noise | None:
    """Return the n8n call of `span`: an execution or a step of one; `Noise` for what n8n does besides."""
    if span.text(elf.ELF_PROTOCOL) != "n8n" and span.scope_name != NATIVE_SCOPE:
        return None
    if span.name == NODE_SPAN:
        return _step(span)
    if span.name == EXECUTION_SPAN:
        return _execution(span)
    return _said_by_hand(span) if span.text(elf.ELF_PROTOCOL) == "n8n" else _NOISE


def _execution(span: SpanRecord) -> Call:
    workflow_id = span.text(elf.ELF_WORKFLOW_ID, n8n.N8N_WORKFLOW_ID)
    status = span.text(n8n.N8N_EXECUTION_STATUS)
    call = _call(
        span,
        operation=EXECUTION,
        source=_started_by(span),
        target=EntityRef(workflow_id or UNKNOWN_TARGET, "workflow"),
        outcome=_execution_outcome(span, status),
        more={"execution_status": status} if status in _UNFINISHED else {},
    )
    # A run that pauses is no end: it is kept for the nodes that ran in it, and counts when it has resumed and ended.
    call = replace(call, counts=status not in _UNFINISHED)
    if workflow_id is None or call.side == "manual":
        return call
    workflow = Entity(
        entity_id=workflow_id,
        entity_type="n8n_workflow",
        entity_name=call.details.workflow_name or workflow_id,
        deployment_type="n8n",
    )
    return replace(call, entities=(workflow,))


def _started_by(span: SpanRecord) -> EntityRef | None:
    """Return who asked for an execution, as the trace state says; None when it does not, or says it of another."""
    if span.text(n8n.N8N_EXECUTION_MODE) in _WITHIN:
        return None
    return caller_of(span.trace_state)


def _step(span: SpanRecord) -> Call:
    node_type = span.text(n8n.N8N_NODE_TYPE)
    workflow_id = span.text(elf.ELF_WORKFLOW_ID, n8n.N8N_WORKFLOW_ID)
    kind = node_kind(node_type) if node_type else "outside"
    if kind == "outside":
        target = EntityRef(short_type(node_type) if node_type else UNKNOWN_TARGET, "external")
    else:
        target = identify(span.resource.attributes)
    call = _call(
        span,
        operation=STEP,
        source=EntityRef(workflow_id, "workflow") if workflow_id else None,
        target=target,
        outcome=_step_outcome(span),
        node=span.text(n8n.N8N_NODE_NAME),
    )
    # A trigger receives what the execution is counted for; a sub-workflow's own execution is the call.
    return replace(call, counts=kind in {"outside", "inside"})


def _said_by_hand(span: SpanRecord) -> Call:
    """Return what an explicit statement says; without a target it is the workflow, or an unknown service of a step."""
    workflow_id = span.text(elf.ELF_WORKFLOW_ID, n8n.N8N_WORKFLOW_ID)
    node = span.text(elf.ELF_WORKFLOW_NODE, n8n.N8N_NODE_NAME)
    target = EntityRef(UNKNOWN_TARGET, "external") if node else EntityRef(workflow_id or UNKNOWN_TARGET, "workflow")
    return _call(
        span,
        operation=STEP if node else EXECUTION,
        source=EntityRef(workflow_id, "workflow") if node and workflow_id else None,
        target=target,
        outcome=span_outcome(span),
        node=node,
    )


def _call(
    span: SpanRecord,
    *,
    operation: str,
    target: EntityRef,
    outcome: Outcome,
    source: EntityRef | None = None,
    node: str | None = None,
    more: Mapping[str, AttributeValue] | None = None,
) -> Call:
    workflow_id = span.text(elf.ELF_WORKFLOW_ID, n8n.N8N_WORKFLOW_ID)
    call = Call(
        span=span,
        protocol="n8n",
        operation=operation,
        side=_SIDES.get(span.kind, "internal"),
        source=source or identify(span.resource.attributes),
        target=target,
        outcome=outcome,
        duration_ms=elapsed_ms(span),
        details=Details(
            workflow_id=workflow_id,
            workflow_name=span.text(n8n.N8N_WORKFLOW_NAME),
            workflow_node=node,
            metadata={**_metadata(span), **(more or {})},
        ),
        key=node or workflow_id or "",
    )
    return stated(call)


def _execution_outcome(span: SpanRecord, said: str | None) -> Outcome:
    status = TERMINAL.get(said or "")
    if status == "success" or said in _UNFINISHED:
        return Outcome("success")
    seen = span_outcome(span)
    if status is None or (status == "error" and seen.status == "timeout"):
        return seen
    code = span.text(n8n.N8N_EXECUTION_ERROR_TYPE) or seen.error_code
    return Outcome(status, seen.error_message, code if status == "error" else None)


def _step_outcome(span: SpanRecord) -> Outcome:
    if span.text(n8n.N8N_NODE_TERMINATION_REASON) == CUT_OFF:
        return Outcome("cancelled", "the execution ended while this node ran")
    return span_outcome(span)


def _metadata(span: SpanRecord) -> dict[str, AttributeValue]:
    kept = {label: span.attributes[name] for name, label in _KEPT.items() if name in span.attributes}
    # A retry is linked to another trace.
    if span.name == EXECUTION_SPAN and any(link.trace_id == span.trace_id for link in span.links):
        kept["resumed"] = True
    instance = span.resource.attributes.get(n8n.N8N_INSTANCE_ID)
    if instance is not None:
        kept["instance_id"] = instance
    return kept
