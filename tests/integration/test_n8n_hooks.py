"""elf-hooks.cjs under Node, called with what a real n8n hands its hooks, before the real webhook and database."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import psycopg
import pytest

from command import eventually
from elf_automations.model.n8n_nodes import node_kind
from elf_automations.n8n import hooks_file
from elf_automations.registry.node_targets import node_targets
from n8n_hooks_process import Caller, caller, listening
from n8n_webhook_process import webhook

TESTS = Path(__file__).parents[1]
FILES = ("hooks_success", "hooks_failure_with_error_workflow", "hooks_lifecycle")
CAPTURED = [
    json.loads(line)
    for name in FILES
    for line in (TESTS / "fixtures" / "n8n" / f"{name}.jsonl").read_text().splitlines()
]
SECRETS = ("owner@example.com", "resumeToken", "python-requests", "order_id", "jsonBody", "/charge", "stack", "H Three")
TOKEN = "not-a-secret"


def replay(n8n: Caller) -> None:
    """Make the captured calls; a hook returns nothing, so that there is nothing to wait for."""
    for call in CAPTURED:
        assert n8n.say(hook=call["hook"], args=call["args"]) == {}, call["hook"]


def asked(database_url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(query.encode()).fetchall()


STATES = "select entity_id, entity_name, current_state, tags from unified_registry where entity_type = 'n8n_workflow'"


def test_what_a_real_n8n_tells_its_hooks_becomes_registry_and_rows(database_url: str) -> None:
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_EXECUTIONS": "events", "ELF_N8N_WEBHOOK_TOKEN": TOKEN}
    with webhook(environment=environment) as receiver:
        with caller({"ELF_N8N_WEBHOOK_URL": receiver.url, "ELF_N8N_WEBHOOK_TOKEN": TOKEN}) as n8n:
            replay(n8n)
            rows = (
                "select operation, workflow_name, workflow_node, source_id, target_id, status, error_message "
                "from communication_telemetry where counted order by timestamp"
            )
            eventually(lambda: len(asked(database_url, rows)) == 6)
            assert n8n.ended() == ""
        inventory = "127.0.0.1:14400"
        message = "The service was not able to process your request"
        assert asked(database_url, rows) == [
            ("workflow_execution", "H3 order intake", None, "n8n", "h3Success0000001", "success", None),
            ("workflow_step", "H3 order intake", "Call inventory", "h3Success0000001", inventory, "success", None),
            ("workflow_execution", "H3 billing (fails)", None, "n8n", "h3Failure0000001", "error", message),
            ("workflow_step", "H3 billing (fails)", "Charge card", "h3Failure0000001", inventory, "error", message),
            ("workflow_execution", "H3 error handler", None, "h3Failure0000001", "h3ErrHandler0001", "success", None),
            ("workflow_step", "H3 error handler", "Report", "h3ErrHandler0001", inventory, "success", None),
        ]
        lifecycle = [found for found in asked(database_url, STATES) if found[0] == "LxXekOB0UhEGoPWY"]
        assert [found[2] for found in lifecycle] == ["deleted"]
        transitions = asked(
            database_url,
            "select to_state from registry_state_transitions where entity_id = 'LxXekOB0UhEGoPWY' order by id",
        )
        went = ["inactive", "active", "inactive", "archived", "inactive", "deleted"]
        assert [state for (state,) in transitions] == went


def test_what_works_inside_n8n_is_n8ns_and_not_the_webhooks(database_url: str) -> None:
    who = {"ELF_ENTITY_ID": "n8n-webhook", "ELF_ENTITY_TYPE": "service"}
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_EXECUTIONS": "events", "ELF_N8N_NODES": "all", **who}
    with webhook(environment=environment) as receiver, caller({"ELF_N8N_WEBHOOK_URL": receiver.url}) as n8n:
        n8n.say(hook="workflow.postExecute", args=looped(Loop=("splitInBatches", 1), Sub=("executeWorkflow", 1)))
        steps = "select workflow_node, target_id, target_type from communication_telemetry where workflow_node <> ''"
        eventually(lambda: len(asked(database_url, steps)) == 2)
        assert sorted(asked(database_url, steps)) == [("Loop", "n8n", "service"), ("Sub", "n8n", "service")]


def test_item_data_people_and_secrets_stay_in_n8n() -> None:
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        replay(n8n)
        eventually(lambda: len(bodies) >= 10)
        n8n.ended()
    said = b"".join(bodies).decode()
    everything = json.dumps(CAPTURED)
    for secret in SECRETS:
        assert secret in everything, f"{secret} is no test: nothing captured has it"
        assert secret not in said
    # The two headers that continue a trace are the exception.
    assert said.count("traceparent") == said.count("tracestate") == 2


def test_whatever_it_is_given_it_neither_throws_nor_waits() -> None:
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        assert "workflow.postExecute" in n8n.say(hostile=True)["hooks"]
        n8n.say(hook="workflow.afterArchive", args=["last"])
        eventually(lambda: any(b'"last"' in body for body in bodies))
        assert len(n8n.ended().splitlines()) <= 2


def test_a_receiver_that_comes_back_is_told_what_it_missed(database_url: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    present = {"id": "wf_1", "name": "Missed", "active": True, "isArchived": False, "tags": [], "nodes": []}
    with caller({"ELF_N8N_WEBHOOK_URL": f"http://127.0.0.1:{port}/n8n/webhook"}) as n8n:
        n8n.say(workflows=[present])
        for _ in range(5):
            n8n.say(hook="workflow.afterUpdate", args=[{**present, "name": "Old"}])
        n8n.say(hook="workflow.afterDelete", args=["wf_gone"])
        with webhook("--port", str(port), environment={"ELF_DATABASE_URL": database_url}):
            n8n.say(hook="workflow.afterCreate", args=[{"id": "wf_2", "name": "New", "active": False}])
            expected = {("wf_1", "Missed", "active"), ("wf_2", "New", "inactive")}
            eventually(lambda: {found[:3] for found in asked(database_url, STATES)} == expected, 60)
        said = n8n.ended().splitlines()
    there = f"http://127.0.0.1:{port}"
    assert said[0].startswith(f"elf-hooks: 1 event was not delivered to {there} (connect ECONNREFUSED")
    # How many more were refused depends on how fast the receiver came back.
    again = f"elf-hooks: {re.escape(there)} takes events again(; [1-9][0-9]* more were not delivered)?"
    assert re.fullmatch(again, said[1]), said[1]
    assert len(said) <= 3


def ended(name: str, mode: str, **more: Any) -> list[Any]:
    """What n8n hands over when an execution of a workflow called `name` ends."""
    data = {"resultData": {"runData": {}}, **more}
    run = {"data": data, "mode": mode, "status": "success", "startedAt": 1, "stoppedAt": 2}
    return [run, {"id": name, "name": name, "nodes": []}, name]


def test_a_sub_workflow_is_told_after_the_execution_that_started_it() -> None:
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        for name, parent in (("grandchild", "child"), ("child", "parent"), ("stranger", None), ("parent", None)):
            more = {"parentExecution": {"executionId": parent, "workflowId": "w"}} if parent else {}
            n8n.say(hook="workflow.postExecute", args=ended(name, "integrated" if parent else "webhook", **more))
        eventually(lambda: len(bodies) == 4)
        n8n.ended()
    assert [json.loads(body)["execution"]["id"] for body in bodies] == ["stranger", "parent", "child", "grandchild"]


def test_what_a_run_in_the_editor_started_is_one_as_well() -> None:
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        for name, parent in (("grandchild", "child"), ("child", "parent")):
            above = {"parentExecution": {"executionId": parent, "workflowId": "w"}}
            n8n.say(hook="workflow.postExecute", args=ended(name, "integrated", **above))
        n8n.say(hook="workflow.postExecute", args=ended("parent", "manual"))
        eventually(lambda: len(bodies) == 3)
        n8n.ended()
    assert [json.loads(body)["execution"]["mode"] for body in bodies] == ["manual"] * 3


def looped(**runs: tuple[str, int]) -> list[Any]:
    """What n8n hands over of an execution whose nodes, each of a type, ran so often."""
    data = {
        name: [{"startTime": 1, "executionIndex": index} for index in range(often)] for name, (_, often) in runs.items()
    }
    run, workflow, execution_id = ended("loop", "webhook", resultData={"runData": data})
    workflow["nodes"] = [{"name": name, "type": f"n8n-nodes-base.{kind}"} for name, (kind, _) in runs.items()]
    return [run, workflow, execution_id]


def test_what_a_loop_calls_outside_is_told_before_what_stays_inside() -> None:
    calls = looped(Loop=("splitInBatches", 1001), Set=("set", 1000), HTTP=("httpRequest", 1000))
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        n8n.say(hook="workflow.postExecute", args=calls)
        eventually(lambda: len(bodies) == 1)
        assert n8n.ended() == "elf-hooks: execution loop of loop is told without 1001 of its 3001 node runs\n"
    told = json.loads(bodies[0])["execution"]
    runs = Counter(node["name"] for node in told["nodes"])
    assert (runs["HTTP"], runs.total(), told["nodesLeftOut"]) == (1000, 2000, 1001)


def test_what_is_left_out_of_a_large_execution_is_said_and_on_its_row(database_url: str) -> None:
    calls = looped(Loop=("splitInBatches", 1501), First=("httpRequest", 1500), Second=("slack", 1500))
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_EXECUTIONS": "events"}
    with webhook(environment=environment) as receiver, caller({"ELF_N8N_WEBHOOK_URL": receiver.url}) as n8n:
        n8n.say(hook="workflow.postExecute", args=calls)
        steps = "select workflow_node, count(*) from communication_telemetry where workflow_node <> '' group by 1"
        eventually(lambda: dict(asked(database_url, steps)) == {"First": 1000, "Second": 1000})
        said = n8n.ended()
    assert said == "elf-hooks: execution loop of loop is told without 2501 of its 4501 node runs\n"
    left_out = (
        "select metadata -> 'node_runs_left_out' from communication_telemetry where counted and workflow_node is null"
    )
    assert asked(database_url, left_out) == [(2501,)]


def test_what_the_hooks_take_to_stay_inside_does() -> None:
    (listed,) = re.findall(r"const INSIDE = new Set\(\[(.*?)\]\)", hooks_file().read_text(), re.DOTALL)
    names = re.findall(r"'(\w+)'", listed)
    assert len(names) > 10
    assert {node_kind(f"n8n-nodes-base.{name}") for name in names} == {"inside"}


def test_an_execution_that_a_worker_ran_is_told_by_the_worker_alone(database_url: str) -> None:
    """In queue mode n8n calls the hook in the process that queued it too, with another start and the job's id."""
    mine, workflow, execution_id = ended("7", "webhook")
    run = {**mine, "startedAt": 1_795_331_277_108, "stoppedAt": 1_795_331_277_208}
    copy = {**run, "startedAt": 1_795_331_277_101, "jobId": "3"}
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_EXECUTIONS": "events"}
    with webhook(environment=environment) as receiver, caller({"ELF_N8N_WEBHOOK_URL": receiver.url}) as n8n:
        executions = "select metadata ->> 'execution_id' from communication_telemetry where counted order by 1"
        n8n.say(hook="workflow.postExecute", args=[run, workflow, execution_id])
        eventually(lambda: asked(database_url, executions) == [("7",)])
        n8n.say(hook="workflow.postExecute", args=[copy, workflow, execution_id])
        n8n.say(hook="workflow.postExecute", args=ended("8", "webhook"))
        eventually(lambda: ("8",) in asked(database_url, executions))
        n8n.ended()
    assert asked(database_url, executions) == [("7",), ("8",)]


def test_executions_of_two_n8n_with_the_same_workflows_are_two(database_url: str) -> None:
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_EXECUTIONS": "events"}
    told = "select metadata ->> 'instance_id' from communication_telemetry where counted order by 1"
    with webhook(environment=environment) as receiver:
        for instance in ("here", "there"):
            with caller({"ELF_N8N_WEBHOOK_URL": receiver.url, "ELF_N8N_INSTANCE": instance}) as n8n:
                n8n.say(hook="workflow.postExecute", args=ended("7", "webhook"))
                eventually(lambda known=instance: (known,) in asked(database_url, told))
        assert asked(database_url, told) == [("here",), ("there",)]


def test_a_retry_says_what_it_repeats_and_keeps_its_project() -> None:
    shared = [{"role": "workflow:owner", "projectId": "p-1", "project": {"name": "Somebody <owner@example.com>"}}]
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        n8n.say(hook="workflow.afterCreate", args=[{"id": "again", "name": "again", "shared": shared}])
        n8n.say(hook="workflow.postExecute", args=ended("again", "retry"))  # n8n tells neither here
        eventually(lambda: len(bodies) == 2)
        n8n.ended()
    told = json.loads(bodies[1])
    assert (told["execution"]["retryOf"], told["workflow"]["projectId"]) == ("7", "p-1")


def test_at_its_start_every_workflow_is_told(database_url: str) -> None:
    found = [
        {"id": f"wf_{number}", "name": f"W{number}", "active": number % 2 == 0, "isArchived": number == 3, "tags": [],
         "nodes": [{"type": "draft"}], "activeVersion": {"nodes": [{"type": "n8n-nodes-base.slack", "name": "Tell"}]}}
        for number in range(4)
    ]  # fmt: skip
    with (
        webhook(environment={"ELF_DATABASE_URL": database_url}) as receiver,
        caller({"ELF_N8N_WEBHOOK_URL": receiver.url}) as n8n,
    ):
        n8n.say(workflows=found)
        n8n.say(hook="n8n.ready", args=[])
        eventually(lambda: len(asked(database_url, STATES)) == 4)
        n8n.ended()
    assert {row[0]: row[2] for row in asked(database_url, STATES)} == {
        "wf_0": "active", "wf_1": "inactive", "wf_2": "active", "wf_3": "archived",
    }  # fmt: skip
    capabilities = asked(database_url, "select distinct capabilities from unified_registry")
    assert capabilities == [(["slack_integration"],)]


@pytest.mark.parametrize("url", [None, "not a url", "ftp://example.com/"])
def test_without_a_usable_url_it_is_off_and_says_so_once(url: str | None) -> None:
    with caller({} if url is None else {"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        replay(n8n)
        said = n8n.ended()
    assert said.startswith("elf-hooks: off: ")
    assert said.count("\n") == 1


NODES = [
    {"url": "https://api.example.com/v1/orders?key=1"},
    {"url": "http://user:pass@Inventory:8080/x"},
    {"url": "=https://api.example.com/{{ $json.id }}"},
    {"url": "={{ $json.url }}"},
    {"url": "=https://{{ $json.host }}/x"},
    {"url": "https://api.example.com"},
    {"url": "={{ $json.url }}", "nodeCredentialType": "slackOAuth2Api"},
    {"url": "={{ $json.url }}", "nodeCredentialType": "httpBasicAuth"},
    {"url": "={{ $json.url }}", "nodeCredentialType": "oAuth2Api"},
    {"endpointUrl": "http://127.0.0.1:9000/mcp"},
    {"url": 7},
    {},
]


def test_hooks_and_registry_read_the_same_target_of_a_node() -> None:
    nodes = [
        {"name": f"n{number}", "type": "n8n-nodes-base.httpRequest", "parameters": parameters}
        for number, parameters in enumerate(NODES)
    ]
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        n8n.say(hook="workflow.afterCreate", args=[{"id": "1", "name": "W", "nodes": nodes}])
        eventually(lambda: len(bodies) == 1)
        n8n.ended()
    told = json.loads(bodies[0])["workflow"]["nodes"]
    services = {node["name"]: node["service"] for node in told if "service" in node}
    assert services == node_targets(nodes) == node_targets(told)
    assert services == {
        "n0": "api.example.com", "n1": "inventory:8080", "n2": "api.example.com", "n5": "api.example.com",
        "n6": "slack", "n9": "127.0.0.1:9000",
    }  # fmt: skip
