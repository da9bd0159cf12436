"""n8n spans: its native export (scope `n8n-workflow`), ours from its events, and `telemetry_client.record_n8n`.

`workflow.execute` is one counted `workflow_execution`; of the nodes those that reach outside n8n are a
`workflow_step`. n8n's attributes are read before the status code, which says OK for a cancelled execution.
Source: OpenTelemetry export of n8n 2.41.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from elf_automations.conventions import elf, n8n
from elf_automations.model.call import Call, Details, Outcome, Side, Status, elapsed_ms, stated
from elf_automations.model.entity import Entity, EntityRef, identify
from elf_automations.model.n8n_nodes import reaches_outside, short_type
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
_CUT_OFF: Final = "workflow_cancelled"
_NOISE: Final = Noise("n8n")
_SIDES: Final[Mapping[SpanKind, Side]] = {SpanKind.CLIENT: "client", SpanKind.SERVER: "server"}
_KEPT: Final[Mapping[str, str]] = {
    n8n.N8N_EXECUTION_ID: "execution_id",
    n8n.N8N_EXECUTION_MODE: "execution_mode",
    n8n.N8N_EXECUTION_RETRY_OF: "retry_of",
    n8n.N8N_PROJECT_ID: "project_id",
    n8n.N8N_NODE_ID: "node_id",
    n8n.N8N_NODE_TYPE: "node_type",
}


def recognise(span: SpanRecord) -> Call | Noise | None:
    """Return the n8n call of `span`; `Noise` for nodes that stay inside n8n and executions that only pause."""
    if span.text(elf.ELF_PROTOCOL) != "n8n" and span.scope_name != NATIVE_SCOPE:
        return None
    if span.name == NODE_SPAN:
        return _step(span)
    if span.name == EXECUTION_SPAN:
        return _execution(span)
    return _said_by_hand(span) if span.text(elf.ELF_PROTOCOL) == "n8n" else _NOISE


def _execution(span: SpanRecord) -> Call | Noise:
    if span.text(n8n.N8N_EXECUTION_STATUS) in _UNFINISHED:
        return _NOISE
    workflow_id = span.text(elf.ELF_WORKFLOW_ID, n8n.N8N_WORKFLOW_ID)
    call = _call(
        span,
        operation=EXECUTION,
        target=EntityRef(workflow_id or UNKNOWN_TARGET, "workflow"),
        outcome=_execution_outcome(span),
    )
    if workflow_id is None or call.side == "manual":
        return call
    workflow = Entity(
        entity_id=workflow_id,
        entity_type="n8n_workflow",
        entity_name=call.details.workflow_name or workflow_id,
        deployment_type="n8n",
    )
    return replace(call, entities=(workflow,))


def _step(span: SpanRecord) -> Call | Noise:
    node_type = span.text(n8n.N8N_NODE_TYPE)
    if node_type is not None and not reaches_outside(node_type):
        return _NOISE
    workflow_id = span.text(elf.ELF_WORKFLOW_ID, n8n.N8N_WORKFLOW_ID)
    return _call(
        span,
        operation=STEP,
        source=EntityRef(workflow_id, "workflow") if workflow_id else None,
        target=EntityRef(short_type(node_type) if node_type else UNKNOWN_TARGET, "external"),
        outcome=_step_outcome(span),
        node=span.text(n8n.N8N_NODE_NAME),
    )


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
            metadata=_metadata(span),
        ),
        key=node or workflow_id or "",
    )
    return stated(call)


def _execution_outcome(span: SpanRecord) -> Outcome:
    status = TERMINAL.get(span.text(n8n.N8N_EXECUTION_STATUS) or "")
    if status == "success":
        return Outcome("success")
    seen = span_outcome(span)
    if status is None:
        return seen
    code = span.text(n8n.N8N_EXECUTION_ERROR_TYPE) or seen.error_code
    return Outcome(status, seen.error_message, code if status == "error" else None)


def _step_outcome(span: SpanRecord) -> Outcome:
    if span.text(n8n.N8N_NODE_TERMINATION_REASON) == _CUT_OFF:
        return Outcome("cancelled", "the execution was cancelled while this node ran")
    return span_outcome(span)


def _metadata(span: SpanRecord) -> dict[str, AttributeValue]:
    kept = {label: span.attributes[name] for name, label in _KEPT.items() if name in span.attributes}
    instance = span.resource.attributes.get(n8n.N8N_INSTANCE_ID)
    if instance is not None:
        kept["instance_id"] = instance
    return kept
