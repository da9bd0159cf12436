"""The workflows of an n8n as its public API lists them, brought into the registry."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from elf_automations.model.n8n_fields import Json, mapping, mappings, text
from elf_automations.n8n.api import N8NApi
from elf_automations.registry import N8NWorkflowRegistry
from elf_automations.registry.workflows import ENTITY_TYPE

_ALL: Final = 10_000
_INSTANCE: Final = "n8n_instance"
_SEEN: Final = "n8n_seen"


@dataclass(slots=True)
class Workflows:
    """What a look at the workflows found; `unregistered` could not be written."""

    registered: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    unregistered: int = 0


def sync_workflows(
    api: N8NApi, registry: N8NWorkflowRegistry, instance: str, complain: Callable[[str], None]
) -> tuple[Workflows, Mapping[str, str]]:
    """Register what is new, update what changed, and set deleted what `instance` had and no longer has.

    A workflow's nodes are those of its published version, which is what runs. What another instance described last is
    left as it is, until that one has deleted it, and so is what nobody polled yet. Raises what `N8NApi` and
    `UnifiedRegistry` raise.

    Returns the counts, and the project of each workflow.
    """
    known = {found["entity_id"]: found for found in registry.entities.list(ENTITY_TYPE, limit=_ALL)}
    done, projects = Workflows(), dict[str, str]()
    elsewhere: dict[str, str] = {}
    gone = {entity_id for entity_id, found in known.items() if mapping(found["metadata"]).get(_INSTANCE) == instance}
    for workflow in api.workflows():
        workflow_id = text(workflow.get("id"))
        if workflow_id is None:
            continue
        gone.discard(workflow_id)
        project = _project(workflow)
        if project:
            projects[workflow_id] = project
        other = _described_by(known.get(workflow_id))
        if other in {None, instance}:
            _sync(registry, workflow_id, workflow, known.get(workflow_id), instance, done, complain)
        else:
            elsewhere[workflow_id] = str(other)
    if elsewhere:
        complain(_left_alone(elsewhere))
    for workflow_id in sorted(gone):
        if registry.update_workflow_state(workflow_id, "deleted", reason="no longer in n8n", updated_by="n8n"):
            done.deleted += 1
    return done, projects


def _left_alone(elsewhere: Mapping[str, str]) -> str:
    workflow_id, other = next(iter(elsewhere.items()))
    what = "1 workflow is left as another n8n described it:"
    if len(elsewhere) > 1:
        what = f"{len(elsewhere)} workflows are left as another n8n described them, such as"
    return f"{what} {workflow_id}, of {other}; if that is an old name of this n8n, give --instance {other}"


def _described_by(known: Mapping[str, Any] | None) -> str | None:
    """Return the instance that a registered workflow is of; None when nobody claims it any more."""
    if known is None or known["current_state"] == "deleted":
        return None
    return text(mapping(known["metadata"]).get(_INSTANCE))


def _sync(
    registry: N8NWorkflowRegistry,
    workflow_id: str,
    workflow: Json,
    known: Mapping[str, Any] | None,
    instance: str,
    done: Workflows,
    complain: Callable[[str], None],
) -> None:
    state = _state(workflow)
    wanted = _registration(workflow, instance)
    mark = _mark(wanted)
    same = known is not None and mapping(known["metadata"]).get(_SEEN) == mark
    if same and known is not None and known["current_state"] == state:
        done.unchanged += 1
        return
    if not same:
        wanted["metadata"][_SEEN] = mark
        answer = registry.register_workflow(workflow_id, **wanted)
        if answer["status"] == "error":
            done.unregistered += 1
            complain(f"workflow {workflow_id} is not registered: {answer['error']}")
            return
    registry.update_workflow_state(workflow_id, state, updated_by="n8n")
    if known is None:
        done.registered += 1
    else:
        done.updated += 1


def _registration(workflow: Json, instance: str) -> dict[str, Any]:
    published = mapping(workflow.get("activeVersion"))
    nodes = [dict(node) for node in mappings(published.get("nodes", workflow.get("nodes")))]
    limit = mapping(workflow.get("settings")).get("executionTimeout")
    # Empty or 0 where there is none: what is not said stays as it was.
    metadata = {
        _INSTANCE: instance,
        "version_id": text(published.get("versionId")) or text(workflow.get("versionId")),
        "project_id": _project(workflow) or ("" if "shared" in workflow else None),
        "execution_timeout": max(limit, 0) if isinstance(limit, int | float) else 0,
    }
    return {
        "workflow_name": text(workflow.get("name")) or "",
        "description": text(workflow.get("description")) or "",
        "tags": [dict(tag) for tag in mappings(workflow.get("tags"))],
        "nodes": nodes,
        "metadata": {word: value for word, value in metadata.items() if value is not None},
    }


def _mark(wanted: dict[str, Any]) -> str:
    """Return a short text that changes with what is registered, so that what stayed the same is not written again."""
    return hashlib.sha256(orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def _state(workflow: Json) -> str:
    if workflow.get("isArchived") is True:
        return "archived"
    return "active" if workflow.get("active") is True else "inactive"


def _project(workflow: Json) -> str | None:
    """Return the project that owns a workflow; the others it is shared with do not run it."""
    for share in mappings(workflow.get("shared")):
        if share.get("role") == "workflow:owner":
            return text(share.get("projectId"))
    return None
