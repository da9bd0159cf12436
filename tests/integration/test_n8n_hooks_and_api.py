"""Whatever an execution holds, elf-hooks.cjs and the API's excerpt tell the same of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from command import eventually
from elf_automations.model import SpanRecord
from n8n_captures import document, spans_of_document, spans_of_event
from n8n_hooks_process import caller, listening

HEADERS = {"traceparent": "00-946e5c7d0817b6ef1063ef22cc049650-34da64a1ba82b0e8-01", "tracestate": "h3=1"}
Change = Callable[[dict[str, Any], dict[str, Any], list[dict[str, Any]]], None]


def _trigger(kind: str) -> Change:
    def change(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
        nodes[0]["type"] = kind
        runs["Webhook"][0]["data"]["main"][0][0]["json"]["headers"] = HEADERS

    return change


def _item(error: object, **where: Any) -> Change:
    """The HTTP call goes on after a failure, and its item says `error`."""

    def change(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
        nodes[2].update(where or {"onError": "continueRegularOutput"})
        runs["Call inventory"][0]["data"]["main"][0][0]["json"] = {"error": error}

    return change


def _not_ended(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    """Stopped while its first node waited: the request is still to be taken in."""
    runs.clear()
    request = {"main": [[{"json": {"headers": HEADERS}}]]}
    data["executionData"] = {"nodeExecutionStack": [{"node": nodes[0], "data": request}]}


def _no_caller(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    """A second webhook that somebody else called is not what started it."""
    nodes[3]["type"] = "n8n-nodes-base.webhook"
    runs["Total"][0]["data"]["main"][0][0]["json"] = {"headers": HEADERS}


def _below(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    runs["Webhook"][0]["metadata"] = {"parentExecution": {"executionId": "3", "workflowId": "w"}}


def _started_by(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    data["executionData"] = {"runtimeData": {"parentExecutionId": "3"}}


def _calling(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    runs["Total"][0]["metadata"] = {"subExecution": {"executionId": "9", "workflowId": "w"}}


def _sources(data: dict[str, Any], runs: dict[str, Any], nodes: list[dict[str, Any]]) -> None:
    runs["Total"][0]["source"] = [
        None,
        {"previousNode": "Call inventory", "previousNodeRun": None, "previousNodeOutput": None},
        {"previousNode": "Nobody"},
    ]
    runs["Shape order"][0]["data"]["main"].insert(0, None)


CHANGES: Mapping[str, Change] = {
    **{f"started by {kind}": _trigger(kind) for kind in (
        "n8n-nodes-base.webhook", "n8n-nodes-base.formTrigger", "@n8n/n8n-nodes-langchain.mcpTrigger",
        "@n8n/n8n-nodes-langchain.chatTrigger", "n8n-nodes-base.emailTrigger",
    )},
    **{f"an item whose error is {error!r}": _item(error) for error in (
        "text", "", None, False, 0, 1, True, {}, [], {"message": "text"},
    )},
    "an error output": _item("text", onError="continueErrorOutput"),
    "as it was set before": _item("text", continueOnFail=True),
    "an error that stops": _item("text", onError="stopWorkflow"),
    "an unknown way to go on": _item("text", onError="continueSomehow"),
    "not ended": _not_ended,
    "no caller": _no_caller,
    "below": _below,
    "started by another": _started_by,
    "calling": _calling,
    "sources": _sources,
}  # fmt: skip


def _execution(change: Change) -> dict[str, Any]:
    """The captured execution, changed, as the API has it."""
    told = copy.deepcopy(document("success"))
    change(told["data"], told["data"]["resultData"]["runData"], told["workflowData"]["nodes"])
    return told


@pytest.fixture(scope="module")
def events() -> Iterator[Mapping[str, dict[str, Any]]]:
    """What the hooks post of each execution."""
    with listening() as (url, bodies), caller({"ELF_N8N_WEBHOOK_URL": url}) as n8n:
        for number, change in enumerate(CHANGES.values(), 1):
            told = _execution(change)
            run = {word: told[word] for word in ("data", "mode", "status", "startedAt", "stoppedAt")}
            n8n.say(hook="workflow.postExecute", args=[run, told["workflowData"], told["id"]])
            eventually(lambda told=number: len(bodies) == told)
        yield dict(zip(CHANGES, map(json.loads, bodies), strict=True))


@pytest.mark.parametrize("name", CHANGES)
def test_hooks_and_api_tell_the_same(events: Mapping[str, dict[str, Any]], name: str) -> None:
    assert [*map(_compared, spans_of_event(events[name]))] == [
        *map(_compared, spans_of_document(_execution(CHANGES[name])))
    ]


def _compared(span: SpanRecord) -> SpanRecord:
    # The event has the version that is published now, the API the one that ran.
    return replace(span, attributes={**span.attributes, "n8n.workflow.version_id": None})
