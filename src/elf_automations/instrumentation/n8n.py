"""Spans of an n8n execution from the event that reports it: one `workflow.execute`, one `node.execute` a step outside.

For instances that do not export OpenTelemetry themselves (`ELF_N8N_EXECUTIONS=events`). The spans get the true start
and stop times of the event and carry n8n's own attribute names; item data, which holds secrets, is never read.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf, n8n, otel
from elf_automations.model import Outcome
from elf_automations.model.n8n_nodes import reaches_outside
from elf_automations.model.protocols.n8n import EXECUTION_SPAN, NODE_SPAN, TERMINAL

__all__ = ["SCOPE", "event_outcome", "record_execution"]

logger = logging.getLogger(__name__)

SCOPE: Final = "elf-automations.n8n"
N8N_SERVICE: Final = "n8n"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FAR_FUTURE_MS: Final = 9_000_000_000_000  # year 2255; ns beyond it do not fit OTLP's 64 bits
_MAX_MESSAGE: Final = 4000
_TIMEOUT_CODES: Final = frozenset({"ECONNABORTED", "ETIMEDOUT"})
_TIMED_OUT = re.compile(r"\btimeout of \d+ ?ms exceeded|\btimed out\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Window:
    """Start and end in ns since 1970; `known` is False when the event does not say both."""

    start: int
    end: int
    known: bool


def record_execution(
    workflow: Mapping[str, object], execution: Mapping[str, object], *, tracer_provider: TracerProvider | None = None
) -> bool:
    """Make the spans of one ended execution.

    Args:
        workflow: `id`, `name` and `nodes` (each `name`, `type`) as in the event.
        execution: `id`, `status`, `mode`, `startedAt`, `stoppedAt` (ISO 8601 or ms since 1970), `error`, and `nodes`,
            which ran: each `name`, `startTime` (ms since 1970), `executionTime` (ms), `status`, `error`.
        tracer_provider: where the spans go; default: the global provider.

    Returns:
        Whether the execution was recorded: False for one that has not ended, and when tracing is off or sampled out.
        Never raises.
    """
    try:
        return _record(workflow, execution, trace.get_tracer(SCOPE, tracer_provider=tracer_provider))
    except Exception:
        logger.warning("an n8n execution could not be recorded", exc_info=True)
        return False


def event_outcome(execution: Mapping[str, object]) -> Outcome | None:
    """Return how an execution, or one node of it, ended; None while it has not (waiting, running).

    A failure is a timeout on positive evidence only: an error code or text of n8n that says so.
    """
    status, error = execution.get("status"), execution.get("error")
    said = TERMINAL.get(status.lower()) if isinstance(status, str) else ("error" if error else "success")
    if said is None or said == "success":
        return Outcome("success") if said else None
    message, code, hints = _error(error)
    if said == "error" and (code in _TIMEOUT_CODES or any(_TIMED_OUT.search(hint) for hint in hints)):
        return Outcome("timeout", message, code if code in _TIMEOUT_CODES else "timeout")
    return Outcome(said, message, code if said == "error" else None)


def _record(workflow: Mapping[str, object], execution: Mapping[str, object], tracer: Tracer) -> bool:
    outcome = event_outcome(execution)
    if outcome is None:
        return False
    window = _window(_instant(execution.get("startedAt")), _instant(execution.get("stoppedAt")))
    shared = {
        elf.ELF_PROTOCOL: "n8n",
        n8n.N8N_WORKFLOW_ID: _text(workflow.get("id")),
        n8n.N8N_WORKFLOW_NAME: _text(workflow.get("name")),
        n8n.N8N_EXECUTION_ID: _text(execution.get("id")),
    }
    root = tracer.start_span(
        EXECUTION_SPAN,
        context=Context(),  # the request that delivers the event is not the execution's cause
        kind=SpanKind.INTERNAL,
        start_time=window.start,
        attributes=_present(
            {
                **shared,
                elf.ELF_SOURCE_ID: N8N_SERVICE,
                elf.ELF_SOURCE_TYPE: "service",
                n8n.N8N_EXECUTION_MODE: _text(execution.get("mode")),
                n8n.N8N_EXECUTION_STATUS: _text(execution.get("status")),
                n8n.N8N_EXECUTION_RETRY_OF: _text(execution.get("retryOf")),
            }
        ),
    )
    if not root.is_recording():
        return False
    inside = trace.set_span_in_context(root, Context())
    for node, node_type in _steps_outside(workflow, execution):
        _record_step(tracer, inside, shared, node, node_type, window)
    _end(root, outcome, window)
    return True


def _record_step(
    tracer: Tracer,
    inside: Context,
    shared: Mapping[str, AttributeValue | None],
    node: Mapping[str, object],
    node_type: str,
    execution: _Window,
) -> None:
    outcome = event_outcome(node)
    if outcome is None:
        return
    start, took = _instant(node.get("startTime")), _milliseconds(node.get("executionTime"))
    end = start + round(took * 1_000_000) if start is not None and took is not None else None
    window = _window(start if start is not None else execution.start, end)
    span = tracer.start_span(
        NODE_SPAN,
        context=inside,
        kind=SpanKind.INTERNAL,
        start_time=window.start,
        attributes=_present({**shared, n8n.N8N_NODE_NAME: _text(node.get("name")), n8n.N8N_NODE_TYPE: node_type}),
    )
    _end(span, outcome, window)


def _end(span: Span, outcome: Outcome, window: _Window) -> None:
    failed = outcome.status in {"error", "timeout"}
    attributes: dict[str, AttributeValue | None] = {elf.ELF_OUTCOME: outcome.status}
    if not window.known:
        attributes[elf.ELF_OBSERVED_BY] = "manual"  # a span cannot say "duration unknown", a statement by hand can
    if outcome.status != "success":
        attributes[elf.ELF_ERROR_MESSAGE] = outcome.error_message
        attributes[elf.ELF_ERROR_CODE] = outcome.error_code
    if failed:
        attributes[otel.ERROR_TYPE] = outcome.error_code
        span.set_status(Status(StatusCode.ERROR, outcome.error_message))
    span.set_attributes(_present(attributes))
    span.end(end_time=window.end)


def _steps_outside(
    workflow: Mapping[str, object], execution: Mapping[str, object]
) -> Iterator[tuple[Mapping[str, object], str]]:
    types = {_text(node.get("name")): _text(node.get("type")) for node in _mappings(workflow.get("nodes"))}
    for node in _mappings(execution.get("nodes")):
        node_type = _text(node.get("type")) or types.get(_text(node.get("name")))
        if node_type and reaches_outside(node_type):
            yield node, node_type


def _error(error: object) -> tuple[str | None, str | None, list[str]]:
    """Return (message, code, every text that may tell a timeout) of n8n's error, an object or a string."""
    if isinstance(error, str):
        return error[:_MAX_MESSAGE], None, [error]
    if not isinstance(error, Mapping):
        return None, None, []
    said = cast("Mapping[str, object]", error)
    message = _text(said.get("message"))
    more = said.get("messages")
    hints = [item for item in cast("list[object]", more) if isinstance(item, str)] if isinstance(more, list) else []
    return message, _text(said.get("httpCode")) or _text(said.get("name")), [message or "", *hints]


def _window(start: int | None, end: int | None) -> _Window:
    if start is None:
        now = time.time_ns()
        return _Window(now, now, known=False)
    return _Window(start, end if end is not None and end >= start else start, known=end is not None and end >= start)


def _instant(value: object) -> int | None:
    """Return ISO 8601 text or ms since 1970 as ns since 1970, None for anything else."""
    number = _milliseconds(value)
    if number is not None:
        return round(number * 1_000_000) or None
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    micros = (at - _EPOCH) // timedelta(microseconds=1)
    return micros * 1000 if 0 < micros < _FAR_FUTURE_MS * 1000 else None


def _milliseconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if 0 <= value < _FAR_FUTURE_MS else None


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value[:_MAX_MESSAGE] or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _mappings(value: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(value, list):
        return []
    return [cast("Mapping[str, object]", item) for item in cast("list[object]", value) if isinstance(item, Mapping)]


def _present(attributes: Mapping[str, AttributeValue | None]) -> dict[str, AttributeValue]:
    return {name: value for name, value in attributes.items() if value is not None}
