"""Spans of an n8n execution from the event that reports it, for instances that do not export OpenTelemetry themselves.

`ELF_N8N_EXECUTIONS=events` makes rows of them. What the spans say is made in `model.n8n_synthesis`, here they get out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from opentelemetry import trace
from opentelemetry.trace import TracerProvider

from elf_automations.conventions import n8n, otel
from elf_automations.instrumentation.n8n_emission import emit
from elf_automations.model import Outcome, ResourceRecord
from elf_automations.model.n8n_execution import Execution, read_execution
from elf_automations.model.n8n_fields import text
from elf_automations.model.n8n_outcome import ending
from elf_automations.model.n8n_synthesis import SCOPE, SERVICE, spans_of

__all__ = ["SCOPE", "event_outcome", "record_execution"]

logger = logging.getLogger(__name__)


def record_execution(
    workflow: Mapping[str, object],
    execution: Mapping[str, object],
    *,
    instance: str = "",
    tracer_provider: TracerProvider | None = None,
) -> bool:
    """Make the spans of one ended execution; made again of the same event they have the same ids and times.

    Args:
        workflow: of the event; `model.n8n_execution.read_execution` says what is read of it.
        execution: of the event, likewise.
        instance: what tells two n8n instances apart that run the same workflows; default: `execution.instance`.
        tracer_provider: where the spans go; default: the global provider.

    Returns:
        Whether the execution was recorded: False for one that has not ended, and when tracing is off or sampled out.
        Never raises.
    """
    try:
        found = read_execution(workflow, execution)
        if found is None:
            return False
        instance = instance or text(execution.get("instance")) or ""
        resource = ResourceRecord({otel.SERVICE_NAME: SERVICE, **({n8n.N8N_INSTANCE_ID: instance} if instance else {})})
        above = _recent.above(instance, found)
        spans = spans_of(found, now_ns=time.time_ns(), instance=instance, above=above, resource=resource)
        return emit(spans, trace.get_tracer(SCOPE, tracer_provider=tracer_provider))
    except Exception:
        logger.warning("an n8n execution could not be recorded", exc_info=True)
        return False


class _Recent:
    """The executions told last, for those they started: an error workflow's event comes after that of what failed."""

    _KEPT: Final = 1000
    _DEEPEST: Final = 32

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str], Execution] = OrderedDict()

    def above(self, instance: str, execution: Execution) -> tuple[Execution, ...]:
        """Remember `execution`, and return the executions above it that are remembered, nearest first."""
        with self._lock:
            self._keep(instance, execution)
            return tuple(self._ancestors(instance, execution))

    def _keep(self, instance: str, execution: Execution) -> None:
        if execution.ref.execution_id:
            callers = tuple(node for node in execution.nodes if node.called)
            self._known[instance, execution.ref.execution_id] = replace(execution, nodes=callers)
            if len(self._known) > self._KEPT:
                self._known.popitem(last=False)

    def _ancestors(self, instance: str, execution: Execution) -> Iterator[Execution]:
        for _ in range(self._DEEPEST):
            found = self._known.get((instance, execution.parent.execution_id)) if execution.parent else None
            if found is None:
                return
            yield found
            execution = found


_recent: Final = _Recent()


def event_outcome(execution: Mapping[str, object]) -> Outcome | None:
    """Return how an execution, or one node of it, ended; None while it has not (waiting, running).

    A failure is a timeout on positive evidence only: an error code or text of n8n that says so.
    """
    return ending(execution)
