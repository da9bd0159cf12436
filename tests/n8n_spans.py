"""Spans of n8n 2.41 for tests: captured ones as the sink reads them, and ones of the same shape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson

from elf_automations.model import ExceptionRecord, LinkRecord, ResourceRecord, SpanRecord, StatusCode
from elf_automations.model.from_otlp_bytes import from_json
from records import START_NS, TRACE, span_id

FIXTURES = Path(__file__).parent / "fixtures" / "n8n"
CAPTURED = ("otlp_success", "otlp_failure_with_error_workflow", "otlp_execution_timeout")
N8N = ResourceRecord({"service.name": "n8n", "service.version": "2.41.1", "n8n.instance.id": "d726a3"})
_STATUS = {"success": StatusCode.OK, "error": StatusCode.ERROR}


def requests(name: str) -> list[dict[str, Any]]:
    """Return the OTLP requests of a capture, in the order n8n sent them."""
    found: list[dict[str, Any]] = json.loads((FIXTURES / f"{name}.json").read_text())["requests"]
    return found


def captured(name: str) -> list[SpanRecord]:
    """Return the spans of a capture, in the order n8n sent them."""
    read = [from_json(orjson.dumps(request)) for request in requests(name)]
    assert not any(one.refused for one in read)
    return [record for one in read for record in one.records]


def run(
    number: int,
    workflow: str,
    status: str | None = "success",
    *,
    parent: int | None = None,
    execution: str = "7",
    mode: str = "webhook",
    link: int | None = None,
    error: str | None = None,
    **more: Any,
) -> SpanRecord:
    """Return the `workflow.execute` span `number`; `parent` and `link` are numbers of spans."""
    attributes = {
        "n8n.workflow.id": workflow,
        "n8n.workflow.name": workflow.title(),
        "n8n.execution.id": execution,
        "n8n.execution.mode": mode,
        "n8n.execution.status": status,
        "n8n.execution.is_retry": "retry_of" in more,
        "n8n.project.id": "q31Q",
    }
    if "retry_of" in more:
        attributes["n8n.execution.retry_of"] = more.pop("retry_of")
    links = (LinkRecord(more.get("trace_id", TRACE), span_id(link)),) if link else ()
    return _span(number, "workflow.execute", attributes, parent, status, error, links=links, **more)


def node(
    number: int,
    parent: int,
    name: str,
    node_type: str = "n8n-nodes-base.httpRequest",
    status: str = "success",
    *,
    cut_off: bool = False,
    error: str | None = None,
    **more: Any,
) -> SpanRecord:
    """Return the `node.execute` span `number` of the run `parent`."""
    attributes = {
        "n8n.node.id": f"node-{number}",
        "n8n.node.name": name,
        "n8n.node.type": node_type,
        "n8n.node.type_version": 4.3,
        "n8n.node.items.input": 1,
    }
    if cut_off:
        attributes["n8n.node.termination_reason"] = "workflow_cancelled"
    return _span(number, "node.execute", attributes, parent, "error" if cut_off else status, error, **more)


def _span(
    number: int,
    name: str,
    attributes: dict[str, Any],
    parent: int | None,
    status: str | None,
    error: str | None,
    **more: Any,
) -> SpanRecord:
    more.setdefault("trace_id", TRACE)
    more.setdefault("start_ns", START_NS + number * 10_000_000)
    more.setdefault("end_ns", more["start_ns"] + 4_000_000)
    return SpanRecord(
        span_id=span_id(number),
        parent_span_id=span_id(parent) if parent is not None else None,
        name=name,
        status=_STATUS.get(status or "", StatusCode.OK),
        attributes={key: value for key, value in attributes.items() if value is not None},
        exceptions=(ExceptionRecord("NodeApiError", error),) if error else (),
        scope_name="n8n-workflow",
        resource=more.pop("resource", N8N),
        **more,
    )
