"""What the tests of `elf-telemetry n8n sync` share: what an n8n lists, and what became of it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from command import answer
from n8n_captures import document

FIXTURES = Path(__file__).parent / "fixtures" / "n8n"
BEGUN: dict[str, datetime] = {}


def workflow(workflow_id: str, **more: Any) -> dict[str, Any]:
    found = json.loads((FIXTURES / "api_workflows_list.json").read_text())["data"][0]
    return {**found, "id": workflow_id, "name": workflow_id.upper(), **more}


def execution(number: int, status: str = "success", **more: Any) -> dict[str, Any]:
    """An execution as the captured one: it has a webhook, an HTTP call and two nodes that stay inside."""
    told = document("success")
    start = BEGUN["first"] + timedelta(seconds=number)
    runs = told["data"]["resultData"]["runData"]
    for index, each in enumerate(runs.values()):
        each[0]["startTime"] = int(start.timestamp() * 1000) + 10 * index
    ended = status not in {"running", "waiting", "new"}
    if not ended:
        told["data"]["resultData"]["runData"] = {}
    stopped = start + timedelta(milliseconds=58)
    return {
        **told, "id": str(number), "status": status, "finished": status == "success",
        "startedAt": _iso(start), "stoppedAt": _iso(stopped) if ended else None, **more,
    }  # fmt: skip


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sync(database_url: str, *more: str, code: int = 0) -> dict[str, Any]:
    return answer(database_url, "n8n", "sync", "--limit-rate", "1000", *more, code=code)


def counts(told: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in told["executions"].items() if count}


def rows(database_url: str, columns: str = "*") -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        query = f"select {columns} from communication_telemetry order by timestamp, operation"
        return connection.execute(query.encode()).fetchall()


def executions(database_url: str) -> Counter[str]:
    told = rows(database_url, "metadata ->> 'execution_id' as id, operation")
    return Counter(row["id"] for row in told if row["operation"] == "workflow_execution")


def family() -> tuple[dict[str, Any], dict[str, Any]]:
    parent, child = execution(1, workflowId="wf_1"), execution(2, workflowId="wf_2", mode="integrated")
    headers = {"traceparent": "00-946e5c7d0817b6ef1063ef22cc049650-34da64a1ba82b0e8-01", "authorization": "Bearer fake"}
    runs = parent["data"]["resultData"]["runData"]
    runs["Webhook"][0]["data"]["main"][0][0]["json"]["headers"] = headers
    runs["Shape order"][0]["metadata"] = {"subExecution": {"executionId": "2", "workflowId": "wf_2"}}
    parent["workflowData"]["nodes"][1]["type"] = "n8n-nodes-base.executeWorkflow"
    child["data"]["parentExecution"] = {"executionId": "1", "workflowId": "wf_1"}
    return parent, child
