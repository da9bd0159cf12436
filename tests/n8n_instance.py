"""An n8n as telemetry sees it: a webhook whose execution makes spans of n8n's shape and calls what its nodes name.

Of trace headers it does what n8n 2.41 does: it continues `traceparent`, keeps and
forwards `tracestate`, and drops `baggage`.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

_W3C = TraceContextTextMapPropagator()


@dataclass(frozen=True)
class Node:
    """One HTTP Request node: its requests are sent one after the other, a session of MCP keeps its id."""

    name: str
    url: str
    bodies: Sequence[Mapping[str, Any]]
    headers: Mapping[str, str] = field(default_factory=dict)


class Instance:
    """Serves `POST /webhook` with one workflow of `nodes`; its spans go to `exporter` one by one, as they end."""

    def __init__(self, exporter: SpanExporter, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._provider = TracerProvider(resource=Resource({"service.name": "n8n", "n8n.instance.id": "d726a3"}))
        self._provider.add_span_processor(SimpleSpanProcessor(exporter))
        self.app = Starlette(routes=[Route("/webhook", self._webhook, methods=["POST"])])

    async def _webhook(self, request: Request) -> JSONResponse:
        answers = await anyio.to_thread.run_sync(self._execute, dict(request.headers))
        return JSONResponse(answers)

    def _execute(self, headers: Mapping[str, str]) -> list[Any]:
        tracer = self._provider.get_tracer("n8n-workflow")
        workflow = {"n8n.workflow.id": "wf_quotes", "n8n.workflow.name": "Quotes", "n8n.execution.id": "7"}
        said = {**workflow, "n8n.execution.mode": "webhook", "n8n.execution.is_retry": False}
        answers: list[Any] = []
        with tracer.start_as_current_span("workflow.execute", _W3C.extract(headers), attributes=said) as execution:
            for node in self._nodes:
                kind = {"n8n.node.name": node.name, "n8n.node.type": "n8n-nodes-base.httpRequest"}
                with tracer.start_as_current_span("node.execute", attributes=kind) as step:
                    onward: dict[str, str] = {}
                    _W3C.inject(onward, set_span_in_context(step))
                    answers += _sent(node, onward)
                    step.set_status(Status(StatusCode.OK))
            execution.set_attribute("n8n.execution.status", "success")
            execution.set_status(Status(StatusCode.OK))
        return answers

    def shutdown(self) -> None:
        self._provider.shutdown()


def _sent(node: Node, onward: Mapping[str, str]) -> list[Any]:
    """Send the requests of a node with a client that no OpenTelemetry instruments."""
    headers = {"content-type": "application/json", **node.headers, **onward}
    answers: list[Any] = []
    for body in node.bodies:
        request = urllib.request.Request(node.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read().decode()
            if session := answer.headers.get("mcp-session-id"):
                headers["mcp-session-id"] = session
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        answers += [json.loads(line) for line in (lines or [text]) if line]
    return answers
