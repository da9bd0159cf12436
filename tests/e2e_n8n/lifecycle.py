"""What the registry must know: every workflow from n8n's start on, each change, health from several executions."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from real_n8n import OWNER, N8n
from rich.console import Console
from rich.table import Table
from world import World

_SECONDS = 30.0
_ORDERS, _BILLING = "elfSuccess000001", "elfFailure000001"


def check_registry(console: Console, n8n: N8n, world: World, named: Mapping[str, str]) -> int:
    for _ in range(3):
        n8n.trigger("success")
        n8n.trigger("failure")
    n8n.call("POST", "/workflows/elfStop000000001/deactivate")
    n8n.call("POST", "/workflows/elfRetry00000001/archive")
    n8n.call("POST", "/workflows/elfNodeTimeout01/deactivate")
    _deleted(n8n, "elfNodeTimeout01")
    made = n8n.call("POST", "/workflows", json={"name": "New", "nodes": [], "connections": {}, "settings": {}})
    expected = {
        ("state", _ORDERS): "active",
        ("capabilities", _ORDERS): ["http_request", "set", "webhook_trigger"],
        ("node_targets", _ORDERS): {"Call inventory": "service"},
        ("node_targets", "elfAsksTeam00001"): {"Ask proposal team": "team"},
        ("health", _ORDERS): "healthy",
        ("health", _BILLING): "unhealthy",
        ("health", "elfParent0000001"): "unknown",
        ("name", "elfTimeout000001"): "Slow (times out)",
        ("state", "elfStop000000001"): "inactive",
        ("state", "elfRetry00000001"): "archived",
        ("state", "elfNodeTimeout01"): "deleted",
        ("state", made["id"]): "inactive",
        ("secrets", "all"): "none",
    }
    source = "events"
    deadline = time.monotonic() + _SECONDS
    while (got := _got(world.registry(source), expected, named)) != expected and time.monotonic() < deadline:
        time.sleep(0.5)
    table = Table("workflow", "what", "expected", "got", title="The registry")
    failures = 0
    for (what, workflow_id), wanted in expected.items():
        found = got[what, workflow_id]
        failures += found != wanted
        table.add_row(workflow_id, what, str(wanted), str(found), style="" if found == wanted else "red")
    console.print(table)
    return failures


def _got(
    registry: Mapping[str, Mapping[str, Any]], asked: Mapping[tuple[str, str], Any], named: Mapping[str, str]
) -> dict[tuple[str, str], Any]:
    said = str(list(registry.values()))
    columns = {"state": "current_state", "health": "health_status", "name": "entity_name"}

    def one(what: str, workflow_id: str) -> Any:
        if what == "secrets":
            return "none" if OWNER["email"] not in said and "resumeToken" not in said else "some"
        row = registry.get(workflow_id)
        if row is None:
            return "unknown workflow"
        if what == "node_targets":
            targets = row["metadata"].get("node_targets", {})
            return {node: named.get(target, target) for node, target in targets.items()}
        return row[columns.get(what, what)]

    return {key: one(*key) for key in asked}


def _deleted(n8n: N8n, workflow_id: str) -> None:
    """Right after its deactivation n8n refuses for a moment."""
    deadline = time.monotonic() + 20
    while True:
        answer = n8n.api.delete(f"{n8n.url}/api/v1/workflows/{workflow_id}", headers={"X-N8N-API-KEY": n8n.key})
        if answer.is_success or time.monotonic() > deadline:
            assert answer.is_success, answer.text
            return
        time.sleep(0.2)
