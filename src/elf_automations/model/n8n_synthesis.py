"""An n8n execution as the spans its own export would have made: `workflow.execute`, and `node.execute` a node's run.

Made from what hooks or the public API tell, with the true times, n8n's attribute names and ids that follow from what
they name, so that telling it again is telling the same. Three things are better than in n8n's export: node spans say
their workflow, an execution that a node started hangs below that node, a retry is linked to what it repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import orjson

from elf_automations.conventions import elf, n8n, otel
from elf_automations.model.call import Outcome
from elf_automations.model.caller_state import caller_of
from elf_automations.model.n8n_execution import Execution, ExecutionRef, NodeRun
from elf_automations.model.n8n_fields import TraceParent
from elf_automations.model.n8n_nodes import reaches_outside
from elf_automations.model.protocols.n8n import EXECUTION_SPAN, NODE_SPAN
from elf_automations.model.records import (
    AttributeValue,
    ExceptionRecord,
    LinkRecord,
    ResourceRecord,
    SpanRecord,
    StatusCode,
)

SCOPE: Final = "elf-automations.n8n"
SERVICE: Final = "n8n"


def spans_of(
    execution: Execution,
    *,
    now_ns: int,
    instance: str = "",
    above: Sequence[Execution] = (),
    resource: ResourceRecord | None = None,
) -> tuple[SpanRecord, ...]:
    """Return the spans of one ended execution, the workflow's first.

    Args:
        execution: what is known of it.
        now_ns: its time, ns since 1970, when nobody says when it ran; its duration is unknown then.
        instance: what tells two n8n instances apart that run the same workflows.
        above: the execution that started it, the one that started that, and so on, as far as they are known.
        resource: who it is told by; default: a service called n8n.
    """
    said_by = resource or ResourceRecord({otel.SERVICE_NAME: SERVICE})
    start = execution.start_ns or now_ns
    execution = replace(execution, start_ns=start)
    trace_id, parent = _place(execution, instance, above)
    root = SpanRecord(
        trace_id=trace_id,
        span_id=_root_span(execution, instance),
        parent_span_id=parent.span_id if parent else None,
        trace_state=parent.trace_state if parent else "",
        name=EXECUTION_SPAN,
        start_ns=start,
        end_ns=execution.end_ns or start,
        status=_code(execution.outcome),
        status_message=_failed_with(execution.outcome),
        attributes=_present(
            {
                **_shared(execution),
                **_asked_by(execution, parent, said_by),
                **_ended(execution.outcome, timed=execution.end_ns is not None),
                n8n.N8N_WORKFLOW_VERSION_ID: execution.version_id,
                n8n.N8N_WORKFLOW_NODE_COUNT: execution.node_count,
                n8n.N8N_PROJECT_ID: execution.project_id,
                n8n.N8N_EXECUTION_MODE: execution.mode,
                n8n.N8N_EXECUTION_STATUS: execution.status,
                n8n.N8N_EXECUTION_IS_RETRY: execution.retry_of is not None,
                n8n.N8N_EXECUTION_RETRY_OF: execution.retry_of,
                n8n.N8N_EXECUTION_ERROR_TYPE: _thrown(execution.outcome, execution.exception),
                elf.ELF_METADATA: _kept(
                    parent_execution_id=execution.parent and execution.parent.execution_id,
                    resumed=execution.resumed or None,
                    node_runs_left_out=execution.left_out,
                ),
            }
        ),
        exceptions=_exceptions(execution.outcome, execution.exception),
        links=_repeats(execution, instance),
        scope_name=SCOPE,
        resource=said_by,
    )
    return (root, *(_step(execution, node, root, instance) for node in execution.nodes))


def _step(execution: Execution, node: NodeRun, root: SpanRecord, instance: str) -> SpanRecord:
    start = node.start_ns or root.start_ns
    return SpanRecord(
        trace_id=root.trace_id,
        span_id=_node_span(execution, node, instance),
        parent_span_id=root.span_id,
        trace_state=root.trace_state,
        name=NODE_SPAN,
        start_ns=start,
        end_ns=node.end_ns or start,
        status=_code(node.outcome),
        status_message=_failed_with(node.outcome),
        attributes=_present(
            {
                **_shared(execution),
                **_ended(node.outcome, timed=node.end_ns is not None),
                n8n.N8N_NODE_ID: node.node_id,
                n8n.N8N_NODE_NAME: node.name,
                n8n.N8N_NODE_TYPE: node.type,
                n8n.N8N_NODE_TYPE_VERSION: node.type_version,
                n8n.N8N_NODE_ITEMS_INPUT: node.items_in,
                n8n.N8N_NODE_ITEMS_OUTPUT: node.items_out,
                **_called(node, root.resource),
                elf.ELF_N8N_SOFT_ERROR: node.soft_error or None,
                elf.ELF_METADATA: _kept(soft_error=node.soft_error or None),
            }
        ),
        exceptions=_exceptions(node.outcome, node.exception),
        scope_name=SCOPE,
        resource=root.resource,
    )


def _place(execution: Execution, instance: str, above: Sequence[Execution]) -> tuple[bytes, TraceParent | None]:
    """Return the trace an execution belongs to, and the span it hangs below."""
    if execution.retry_of is None and execution.incoming:
        return execution.incoming.trace_id, execution.incoming
    if execution.retry_of is None and execution.parent:
        caller = above[0] if above and _is(above[0], execution.parent) else None
        if caller is None:
            trace_id = _digest(16, "trace", instance, *_words(execution.parent))
            return trace_id, TraceParent(trace_id, _digest(8, "execution", instance, *_words(execution.parent)))
        trace_id, grand = _place(caller, instance, above[1:])
        node = next((node for node in caller.nodes if any(_is(execution, ref) for ref in node.called)), None)
        span = _node_span(caller, node, instance) if node else _root_span(caller, instance)
        return trace_id, TraceParent(trace_id, span, grand.trace_state if grand else "")
    return _own_trace(execution, instance), None


def _own_trace(execution: Execution, instance: str) -> bytes:
    return _digest(16, "trace", instance, *_words(execution.ref), *_unnamed(execution))


def _repeats(execution: Execution, instance: str) -> tuple[LinkRecord, ...]:
    if execution.retry_of is None:
        return ()
    first = ExecutionRef(execution.retry_of, execution.ref.workflow_id)
    # A retry carries the first attempt's webhook data along, and with it the trace that one belonged to.
    trace_id = execution.incoming.trace_id if execution.incoming else _digest(16, "trace", instance, *_words(first))
    return (LinkRecord(trace_id, _digest(8, "execution", instance, *_words(first))),)


def _root_span(execution: Execution, instance: str) -> bytes:
    return _digest(8, "execution", instance, *_words(execution.ref), *_unnamed(execution))


def _node_span(execution: Execution, node: NodeRun, instance: str) -> bytes:
    words = (*_words(execution.ref), *_unnamed(execution), node.name, str(node.run))
    return _digest(8, "node", instance, *words)


def _unnamed(execution: Execution) -> tuple[str, ...]:
    """Return what tells apart executions that nobody gave an id."""
    return () if execution.ref.execution_id else (str(execution.start_ns),)


def _digest(size: int, *words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode(errors="surrogatepass")).digest()[:size]


def _words(ref: ExecutionRef) -> tuple[str, str]:
    return ref.workflow_id, ref.execution_id


def _is(execution: Execution, ref: ExecutionRef) -> bool:
    mine = execution.ref
    same_workflow = mine.workflow_id == ref.workflow_id or not (mine.workflow_id and ref.workflow_id)
    return mine.execution_id == ref.execution_id and same_workflow


def _shared(execution: Execution) -> dict[str, AttributeValue]:
    return {
        elf.ELF_PROTOCOL: "n8n",
        n8n.N8N_WORKFLOW_ID: execution.ref.workflow_id or None,
        n8n.N8N_WORKFLOW_NAME: execution.workflow_name,
        n8n.N8N_EXECUTION_ID: execution.ref.execution_id or None,
    }


def _ended(outcome: Outcome, *, timed: bool) -> dict[str, AttributeValue]:
    failed = outcome.status in {"error", "timeout"}
    return {
        elf.ELF_OUTCOME: outcome.status,
        elf.ELF_ERROR_MESSAGE: outcome.error_message,
        elf.ELF_ERROR_CODE: outcome.error_code,
        otel.ERROR_TYPE: outcome.error_code if failed else None,
        # A span cannot say "duration unknown", a statement by hand can.
        elf.ELF_OBSERVED_BY: None if timed else "manual",
    }


def _asked_by(execution: Execution, above: TraceParent | None, said_by: ResourceRecord) -> dict[str, AttributeValue]:
    """Return the source of an execution: the workflow that started it, or n8n; nothing while the trace state does."""
    if execution.parent and execution.parent.workflow_id:
        return {elf.ELF_SOURCE_ID: execution.parent.workflow_id, elf.ELF_SOURCE_TYPE: "workflow"}
    if above and caller_of(above.trace_state):
        return {}
    return {elf.ELF_SOURCE_ID: said_by.attributes.get(otel.SERVICE_NAME), elf.ELF_SOURCE_TYPE: "service"}


def _called(node: NodeRun, said_by: ResourceRecord) -> dict[str, AttributeValue]:
    """Return the target of a step: whom it calls, n8n for what stays inside; nothing while nobody knows."""
    if node.type is None:
        return {}
    if not reaches_outside(node.type):
        return {elf.ELF_TARGET_ID: said_by.attributes.get(otel.SERVICE_NAME), elf.ELF_TARGET_TYPE: "service"}
    return {elf.ELF_TARGET_ID: node.service, elf.ELF_TARGET_TYPE: "external"} if node.service else {}


def _kept(**metadata: AttributeValue) -> str | None:
    known = _present(metadata)
    return orjson.dumps(known).decode() if known else None


def _code(outcome: Outcome) -> StatusCode:
    return StatusCode.ERROR if outcome.status in {"error", "timeout"} else StatusCode.OK


def _failed_with(outcome: Outcome) -> str:
    return (outcome.error_message or "") if outcome.status in {"error", "timeout"} else ""


def _thrown(outcome: Outcome, exception: ExceptionRecord | None) -> str | None:
    return exception.type or None if exception and outcome.status in {"error", "timeout"} else None


def _exceptions(outcome: Outcome, exception: ExceptionRecord | None) -> tuple[ExceptionRecord, ...]:
    return (exception,) if exception and outcome.status in {"error", "timeout"} else ()


def _present(attributes: dict[str, AttributeValue]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}
