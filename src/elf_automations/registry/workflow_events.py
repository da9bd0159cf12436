"""n8n's webhook events: what each does to the registry, and when it becomes telemetry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias, cast

from elf_automations.errors import ConfigurationError, ElfTelemetryError
from elf_automations.instrumentation.n8n import record_execution
from elf_automations.model import AttributeValue
from elf_automations.model.n8n_outcome import ending
from elf_automations.model.redact import bounded
from elf_automations.registry.workflows import ENTITY_TYPE, N8NWorkflowRegistry
from elf_automations.settings import load_settings

__all__ = ["BAD_EVENT", "UNAVAILABLE", "WorkflowEvents"]

logger = logging.getLogger(__name__)

_Payload: TypeAlias = Mapping[str, Any]
_Answer: TypeAlias = dict[str, Any]
_Record: TypeAlias = Callable[[_Payload, _Payload], bool]

# n8n's deactivate hook hands over an object that still says active, so for these the event's name decides.
_STATE_OF: Final[Mapping[str, str]] = {
    "workflow.activated": "active",
    "workflow.deactivated": "inactive",
    "workflow.archived": "archived",
    "workflow.unarchived": "inactive",
    "workflow.deleted": "deleted",
}
# Runs of somebody who builds the workflow in n8n's editor; n8n's own telemetry leaves them out as well.
_TRIAL: Final = "manual"
_MAX_ID: Final = 255

BAD_EVENT: Final = "bad_event"
"""The `code` of an answer to an event that makes no sense: sending it again does not help."""
UNAVAILABLE: Final = "unavailable"
"""The `code` of an answer when the registry could not take the event now."""


class _BadEventError(ElfTelemetryError):
    """An event that does not say what it must."""


class WorkflowEvents:
    """Takes the events that a hook in n8n, or any other sender, posts: `{"event": "workflow.…", "workflow": {…}}`."""

    def __init__(self, registry: N8NWorkflowRegistry, *, record: _Record = record_execution) -> None:
        """Write what the events tell to `registry`; `record` makes an execution's spans, and says if it did."""
        self._registry = registry
        self._record = record
        self._handlers: Mapping[str, Callable[[str, str, _Payload, _Payload], _Answer]] = {
            "workflow.created": self._described,
            "workflow.updated": self._described,
            "workflow.executed": self._executed,
            **dict.fromkeys(_STATE_OF, self._moved),
        }

    async def handle_workflow_event(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """Bring the registry up to date with one event; database work happens in a thread, the loop is never blocked.

        Args:
            event: `event` (workflow.created, updated, activated, deactivated, archived, unarchived, deleted, executed),
                `workflow` (`id`, `name`, `nodes`, `tags`, `active`, `isArchived` …) and, of an execution, `execution`
                (`id`, `status`, `startedAt`, `stoppedAt`, `error`, `nodes`, `instance`).

        Returns:
            `{"status": "success", "event": …, "action": …, "workflow_id": …}`, or `{"status": "error", "error": …,
            "code": …}` for an event that cannot be understood or stored; never raises for either.
        """
        try:
            return await asyncio.to_thread(self._handle, event)
        except _BadEventError as error:
            logger.warning("n8n event not taken: %s", error)
            return {"status": "error", "error": str(error), "code": BAD_EVENT}
        except ElfTelemetryError as error:
            logger.warning("n8n event not taken: %s", error)
            return {"status": "error", "error": str(error), "code": UNAVAILABLE}
        except Exception as error:
            logger.exception("n8n event not taken")
            return {"status": "error", "error": f"the event could not be taken: {type(error).__name__}"}

    def _handle(self, event: object) -> _Answer:
        if not isinstance(event, Mapping):
            message = f"an event is an object with event and workflow, not {type(event).__name__}"
            raise _BadEventError(message)
        told = cast("_Payload", event)
        name = told.get("event")
        handler = self._handlers.get(name) if isinstance(name, str) else None
        if handler is None or not isinstance(name, str):
            message = f"event {bounded(repr(name), 100)} is unknown: use one of {', '.join(self._handlers)}"
            raise _BadEventError(message)
        workflow = told.get("workflow")
        if not isinstance(workflow, Mapping):
            message = f"{name} has no workflow object"
            raise _BadEventError(message)
        found = cast("_Payload", workflow)
        workflow_id = _workflow_id(found.get("id"), name)
        answer = handler(name, workflow_id, found, _object(told.get("execution")))
        if answer["status"] == "error":
            return {**answer, "code": UNAVAILABLE}
        return {"event": name, "workflow_id": workflow_id, **answer}

    def _described(self, _name: str, workflow_id: str, workflow: _Payload, _execution: _Payload) -> _Answer:
        answer = self._register(workflow_id, workflow)
        if answer["status"] == "error":
            return answer
        # Created without a word on it is active; updated without a word on it stays what it is.
        state = _state(workflow) or ("active" if answer["action"] == "registered" else None)
        if state is not None:
            self._set(workflow_id, state)
            answer["state"] = state
        return answer

    def _moved(self, name: str, workflow_id: str, workflow: _Payload, _execution: _Payload) -> _Answer:
        state = _STATE_OF[name]
        if state == "deleted":
            if not self._set(workflow_id, state):
                return {"status": "success", "action": "ignored", "reason": "the workflow was never registered"}
        # What is activated is what runs from now on, so an event that describes it is a description as well.
        elif isinstance(workflow.get("nodes"), list) or not self._set(workflow_id, state):
            answer = self._register(workflow_id, workflow)
            if answer["status"] == "error":
                return answer
            self._set(workflow_id, state)
        return {"status": "success", "action": "state_updated", "state": state}

    def _executed(self, name: str, workflow_id: str, workflow: _Payload, execution: _Payload) -> _Answer:
        if execution.get("mode") == _TRIAL:
            return {"status": "success", "action": "ignored", "reason": "a run in n8n's editor"}
        outcome = ending(execution, workflow)
        if outcome is None:
            return {"status": "success", "action": "ignored", "reason": "the execution has not ended"}
        # An execution that is a row brings its activity with it: counting it here too would count it twice. With otlp
        # it may become one or not; if it does, the row takes back what was counted here.
        source = _source()
        recorded = source == "events" and self._record({**workflow, "id": workflow_id}, execution)

        def note() -> str | None:
            return self._registry.record_execution(
                workflow_id,
                outcome.status,
                execution_id=_execution_id(execution.get("id")),
                ended_at=_moment(execution.get("stoppedAt")),
                count_activity=not recorded and source != "api",
            )

        if note() is None:
            answer = self._described(name, workflow_id, workflow, execution)
            if answer["status"] == "error":
                return answer
            note()
        return {"status": "success", "action": "activity_recorded", "execution_status": outcome.status}

    def _register(self, workflow_id: str, workflow: _Payload) -> _Answer:
        published = _object(workflow.get("activeVersion"))  # what runs; `nodes` beside it is the draft
        nodes = published.get("nodes", workflow.get("nodes"))
        name, description, version = (workflow.get(word) for word in ("name", "description", "versionId"))
        timeout = _object(workflow.get("settings")).get("executionTimeout")
        texts = {"version_id": version, "project_id": workflow.get("projectId")}
        metadata: dict[str, AttributeValue] = {word: said for word, said in texts.items() if isinstance(said, str)}
        if isinstance(timeout, int | float) and not isinstance(timeout, bool):
            metadata["execution_timeout"] = max(timeout, 0)  # 0: none, in place of one it had
        return self._registry.register_workflow(
            workflow_id,
            name if isinstance(name, str) else "",
            description=description if isinstance(description, str) else None,
            tags=_items(workflow.get("tags"), (str, Mapping)),
            nodes=_items(nodes, (Mapping,)),
            metadata=metadata,
        )

    def _set(self, workflow_id: str, state: str) -> bool:
        return self._registry.entities.update_state(workflow_id, ENTITY_TYPE, state, updated_by="n8n")


def _workflow_id(value: object, event: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and 0 < len(value) <= _MAX_ID and value.isprintable():
        return value
    message = f"{event} has no usable workflow.id: {bounded(repr(value), 100)}"
    raise _BadEventError(message)


def _execution_id(value: object) -> str | None:
    said = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return said if 0 < len(said) <= _MAX_ID and said.isprintable() else None


def _moment(value: object) -> datetime | None:
    """Return ISO 8601 text or ms since 1970 as a moment, None for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC)
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except (ValueError, OverflowError, OSError):
        return None
    return at.replace(tzinfo=at.tzinfo or UTC) if at else None


def _state(workflow: _Payload) -> str | None:
    if workflow.get("isArchived") is True:
        return "archived"
    active = workflow.get("active")
    return ("active" if active else "inactive") if isinstance(active, bool) else None


def _object(value: object) -> _Payload:
    return cast("_Payload", value) if isinstance(value, Mapping) else {}


def _items(value: object, kinds: tuple[type, ...]) -> list[Any] | None:
    if not isinstance(value, list):
        return None
    return [item for item in cast("list[object]", value) if isinstance(item, kinds)]


def _source() -> str | None:
    """Return the one source of execution rows, None when the settings do not say."""
    try:
        return load_settings().n8n_executions
    except ConfigurationError as error:
        logger.warning("n8n executions are not recorded from events: %s", error)
        return None
