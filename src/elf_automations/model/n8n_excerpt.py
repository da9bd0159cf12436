"""What is taken of an execution as n8n's public API tells it: the fields of the event `workflow.executed`, no others.

Execution data holds webhook headers and bodies, request headers of failed calls, every item that passed, and a token
that resumes a waiting run. This is the one place that looks into it; of items it takes their number and whether one
is an error, of headers the trace's. Source of the shapes: n8n 2.41.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from elf_automations.model.n8n_fields import Json, items, mapping, mappings, text
from elf_automations.model.n8n_nodes import short_type
from elf_automations.model.n8n_outcome import speaks_of_a_timeout

_CONTINUES: Final = frozenset({"continueRegularOutput", "continueErrorOutput"})
# What starts a workflow over HTTP and keeps the request's headers in its first item.
_HTTP_TRIGGERS: Final = frozenset({"webhook", "formtrigger", "mcptrigger", "chattrigger"})
_ERROR_WORDS: Final = ("name", "message", "httpCode", "reason")


def excerpt(document: Json, services: Mapping[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (workflow, execution) as the event has them.

    `document` is an answer to `GET /executions/{id}?includeData=true`, `services` whom each node calls, by its name.
    """
    data, saved = mapping(document.get("data")), mapping(document.get("workflowData"))
    result = mapping(data.get("resultData"))
    runs = mapping(result.get("runData"))
    declared = {text(node.get("name")) or "": node for node in mappings(saved.get("nodes"))}
    incoming = _incoming(runs, declared) or _waiting(mapping(data.get("executionData")))
    execution = {
        **_taken(document, ("id", "mode", "status", "retryOf", "waitTill")),
        # What was cancelled in the queue never started: it has one time, and no duration.
        **_taken(document if document.get("startedAt") else _never_started(document), ("startedAt", "stoppedAt")),
        "error": _error(result.get("error")),
        "parentExecution": _parent(data, runs),
        "traceparent": text(incoming.get("traceparent")),
        "tracestate": text(incoming.get("tracestate")),
        # Without them nothing tells how far it came.
        "nodes": list(_nodes(runs, declared, services or {})) if "runData" in result else None,
    }
    workflow = {
        "id": text(document.get("workflowId")) or text(saved.get("id")),
        "name": text(saved.get("name")),
        "versionId": text(document.get("workflowVersionId")),
        "settings": _taken(mapping(saved.get("settings")), ("executionTimeout",)),
        "nodes": [_taken(node, ("id", "name", "type", "typeVersion")) for node in declared.values()],
    }
    return _present(workflow), _present(execution)


def _never_started(document: Json) -> Json:
    return {"startedAt": document.get("stoppedAt") or document.get("createdAt")}


def _nodes(runs: Json, declared: Mapping[str, Json], services: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    for name, each in runs.items():
        node = declared.get(name, {})
        for number, run in enumerate(mappings(each)):
            sub = mapping(mapping(run.get("metadata")).get("subExecution"))
            yield _present(
                {
                    "name": name,
                    **_taken(node, ("id", "type", "typeVersion")),
                    "service": services.get(name),
                    "run": number,
                    **_taken(run, ("startTime", "executionTime", "executionIndex")),
                    "status": text(run.get("executionStatus")),
                    "error": _error(run.get("error")),
                    "subExecutions": [_taken(sub, ("executionId", "workflowId"))] if sub else None,
                    "items": {"input": _taken_in(run, runs), "output": sum(map(len, _outputs(run)))},
                    "softError": (_goes_on(node) and _has_failed_item(run)) or None,
                }
            )


def _error(error: object) -> dict[str, Any] | str | None:
    if isinstance(error, str):
        return error
    said = mapping(error)
    if not said:
        return None
    # The other messages quote what a service answered.
    hints = [hint for hint in items(said.get("messages")) if speaks_of_a_timeout(hint)]
    return _present({**_taken(said, _ERROR_WORDS), "messages": hints or None})


def _parent(data: Json, runs: Json) -> dict[str, Any] | None:
    """Return the execution that started this one; an error workflow is told by its trigger's metadata alone."""
    ran = (run for each in runs.values() for run in mappings(each))
    told = (mapping(mapping(run.get("metadata")).get("parentExecution")) for run in ran)
    for found in (mapping(data.get("parentExecution")), *told):
        if found.get("executionId") is not None:
            return _taken(found, ("executionId", "workflowId"))
    parent = text(mapping(mapping(data.get("executionData")).get("runtimeData")).get("parentExecutionId"))
    return {"executionId": parent} if parent else None


def _incoming(runs: Json, declared: Mapping[str, Json]) -> Json:
    """Return the headers of the request that started it."""
    for name, each in runs.items():
        if _takes_requests(declared.get(name, {})):
            for run in mappings(each):
                return _headers(run)
    return {}


def _waiting(execution_data: Json) -> Json:
    """Return the same of an execution whose first node has not ended: its request still waits for it."""
    for entry in mappings(execution_data.get("nodeExecutionStack")):
        if _takes_requests(mapping(entry.get("node"))):
            return _headers(entry)
    return {}


def _takes_requests(node: Json) -> bool:
    return short_type(text(node.get("type")) or "").lower() in _HTTP_TRIGGERS


def _headers(run: Json) -> Json:
    for output in _outputs(run):
        for item in mappings(output):
            return mapping(mapping(item.get("json")).get("headers"))
    return {}


def _outputs(run: Json) -> list[list[object]]:
    """Return the items of each output of a node's run; an output nothing came from is null in n8n."""
    return [list(items(output)) for output in items(mapping(run.get("data")).get("main"))]


def _taken_in(run: Json, runs: Json) -> int:
    """Return how many items a run was given: those of the outputs it names as its sources."""
    given = 0
    for source in mappings(run.get("source")):
        number, output = source.get("previousNodeRun") or 0, source.get("previousNodeOutput") or 0
        before = mappings(runs.get(text(source.get("previousNode")) or ""))
        if isinstance(number, int) and isinstance(output, int) and 0 <= number < len(before):
            outputs = _outputs(before[number])
            given += len(outputs[output]) if 0 <= output < len(outputs) else 0
    return given


def _goes_on(node: Json) -> bool:
    return node.get("onError") in _CONTINUES or node.get("continueOnFail") is True


def _has_failed_item(run: Json) -> bool:
    made = (item for output in _outputs(run) for item in mappings(output))
    return any(_is_said(mapping(item.get("json")).get("error")) or _is_said(item.get("error")) for item in made)


def _is_said(error: object) -> bool:
    # As n8n tests it, in JavaScript.
    return bool(error) or isinstance(error, dict | list)


def _taken(said: Json, words: Iterable[str]) -> dict[str, Any]:
    return {word: said[word] for word in words if isinstance(said.get(word), str | int | float)}


def _present(said: Mapping[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in said.items() if value is not None}
