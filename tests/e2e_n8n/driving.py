"""Runs each scenario in the real n8n and says which executions it made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from expectations import Scenario
from real_n8n import N8n
from workflows import CHILD, ERROR_HANDLER
from world import World

_ENDED = {"success", "error", "canceled", "crashed"}


@dataclass(slots=True)
class Driven:
    executions: dict[str, str] = field(default_factory=dict)
    """Execution id by what it is in the scenario."""
    trace_id: str | None = None
    """Of the caller, when it has one."""


def drive(n8n: N8n, world: World, scenario: Scenario) -> Driven:
    workflow_id = scenario.rows[0].workflow
    done, driven = _newest(n8n, workflow_id), Driven()
    headers: dict[str, str] = {}
    if scenario.path == "team":
        headers, driven.trace_id = world.as_acting_team()
    if scenario.path == "stop":
        caller = threading.Thread(target=n8n.trigger, args=("stop",), daemon=True)
        caller.start()
        execution = _await(lambda: n8n.executions(workflow_id, status="running"))[0]["id"]
        time.sleep(1)  # until its slow node runs
        n8n.call("POST", f"/executions/{execution}/stop")
        caller.join(30)
    else:
        n8n.trigger(scenario.path, headers=headers)
        execution = _await(lambda: _newer(n8n, workflow_id, done))
    driven.executions["first"] = execution
    if scenario.path == "wait":
        _await(lambda: n8n.call("GET", f"/executions/{execution}")["status"] == "waiting")
        token = n8n.call("GET", f"/executions/{execution}", params={"includeData": "true"})["data"]["resumeToken"]
        answer = n8n.api.get(f"{n8n.url}/webhook-waiting/{execution}", params={"signature": token})
        assert answer.is_success, answer.text
    _await(lambda: n8n.call("GET", f"/executions/{execution}")["status"] in _ENDED)
    if scenario.path == "retry":
        n8n.call("POST", f"/executions/{execution}/retry", json={"loadWorkflow": False})
        driven.executions["retry"] = _await(lambda: _newer(n8n, workflow_id, execution))
    for label, other in (("child", CHILD), ("error", ERROR_HANDLER)):
        if any(row.of == label for row in scenario.rows):
            driven.executions[label] = _await(lambda other=other: _newer(n8n, other, None))
    return driven


def _newest(n8n: N8n, workflow_id: str) -> str | None:
    found = n8n.executions(workflow_id)
    return found[0]["id"] if found else None


def _newer(n8n: N8n, workflow_id: str, than: str | None) -> str | None:
    found = _newest(n8n, workflow_id)
    return found if found != than else None


def _await(check: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "n8n did not get there in time"
        time.sleep(0.2)
    return found
