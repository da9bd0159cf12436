"""The workflows of the scenarios, as n8n imports them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

Json = dict[str, Any]
ERROR_HANDLER, CHILD = "elfErrorHandler1", "elfChild00000001"


def webhook(path: str) -> Json:
    return {
        "name": "Webhook", "type": "n8n-nodes-base.webhook", "typeVersion": 2.1, "webhookId": path,
        "parameters": {"httpMethod": "POST", "path": path, "responseMode": "lastNode", "options": {}},
    }  # fmt: skip


def call(name: str, url: str, **more: Any) -> Json:
    parameters = {
        "method": "POST", "url": url, "sendBody": True, "specifyBody": "json", "jsonBody": "={{ $json }}",
        "options": {}, **more.pop("parameters", {}),
    }  # fmt: skip
    return {"name": name, "type": "n8n-nodes-base.httpRequest", "typeVersion": 4.3, "parameters": parameters, **more}


def shape(name: str = "Shape order") -> Json:
    return {
        "name": name, "type": "n8n-nodes-base.set", "typeVersion": 3.4,
        "parameters": {"mode": "raw", "jsonOutput": '{"order_id": "A-1"}', "options": {}},
    }  # fmt: skip


def workflow(workflow_id: str, name: str, *nodes: Json, **settings: Any) -> Json:
    """A chain of nodes, in their order."""
    placed = [
        {"id": f"{workflow_id}-{number}", "position": [220 * number, 0], **node} for number, node in enumerate(nodes)
    ]
    names = [node["name"] for node in nodes]
    connections = {
        before: {"main": [[{"node": after, "type": "main", "index": 0}]]} for before, after in pairwise(names)
    }
    return {
        "id": workflow_id, "name": name, "active": False, "nodes": placed, "connections": connections,
        "settings": {"executionOrder": "v1", **settings}, "pinData": None,
    }  # fmt: skip


def all_workflows(service: str, team: str) -> list[Json]:
    """`service` is the URL of a service that does what its path says, `team` that of an A2A team's JSON-RPC."""
    message = {
        "jsonrpc": "2.0", "id": "1", "method": "SendMessage",
        "params": {"message": {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "propose"}]}},
    }  # fmt: skip
    ask = call(
        "Ask proposal team", team,
        parameters={
            "jsonBody": json.dumps(message), "sendHeaders": True,
            "headerParameters": {"parameters": [{"name": "A2A-Version", "value": "1.0"}]},
        },
    )  # fmt: skip
    return [
        workflow(ERROR_HANDLER, "Error handler",
            {"name": "Error Trigger", "type": "n8n-nodes-base.errorTrigger", "typeVersion": 1, "parameters": {}},
            call("Report", f"{service}/ok/report", parameters={"jsonBody": "{}"})),
        workflow(CHILD, "Child",
            {"name": "When called", "type": "n8n-nodes-base.executeWorkflowTrigger", "typeVersion": 1.1,
             "parameters": {"inputSource": "passthrough"}},
            call("Price", f"{service}/ok/price")),
        workflow("elfSuccess000001", "Order intake",
            webhook("success"), shape(), call("Call inventory", f"{service}/ok/inventory")),
        workflow("elfFailure000001", "Billing",
            webhook("failure"), call("Charge card", f"{service}/fail/charge"), shape("Never reached"),
            errorWorkflow=ERROR_HANDLER),
        workflow("elfGoesOn0000001", "Goes on",
            webhook("goes-on"), call("Optional", f"{service}/fail/optional", onError="continueRegularOutput"),
            call("Go on", f"{service}/ok/go-on", parameters={"jsonBody": "{}"})),
        workflow("elfParent0000001", "Parent",
            webhook("sub-workflow"),
            {"name": "Run child", "type": "n8n-nodes-base.executeWorkflow", "typeVersion": 1.2,
             "parameters": {"workflowId": {"__rl": True, "mode": "id", "value": CHILD}, "options": {}}}),
        workflow("elfWait000000001", "Approval",
            {**webhook("wait"), "parameters": {"httpMethod": "POST", "path": "wait", "responseMode": "onReceived",
                                               "options": {}}},
            {"name": "Wait for approval", "type": "n8n-nodes-base.wait", "typeVersion": 1.1, "webhookId": "wait-1",
             "parameters": {"resume": "webhook", "options": {}}},
            call("Notify", f"{service}/ok/notify", parameters={"jsonBody": "{}"})),
        workflow("elfTimeout000001", "Slow (times out)",
            webhook("timeout"), call("Too slow", f"{service}/slow/report"), executionTimeout=2),
        workflow("elfStop000000001", "Slow (stopped)",
            webhook("stop"), call("Endless", f"{service}/slow/endless")),
        workflow("elfRetry00000001", "Flaky",
            webhook("retry"), call("Flaky service", f"{service}/flaky/once")),
        workflow("elfNodeTimeout01", "Impatient",
            webhook("node-timeout"), call("Impatient call", f"{service}/slow/node",
                                          parameters={"options": {"timeout": 800}})),
        workflow("elfAsksTeam00001", "Proposal", webhook("team"), ask),
    ]  # fmt: skip
