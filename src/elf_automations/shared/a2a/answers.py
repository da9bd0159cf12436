"""What a caller gets: a task's events folded into one dict, an Agent Card as a dict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from a2a.types.a2a_pb2 import (
    AgentCard,
    Artifact,
    Message,
    Part,
    StreamResponse,
    Task,
    TaskArtifactUpdateEvent,
    TaskState,
    TaskStatus,
)
from google.protobuf.json_format import MessageToDict

from elf_automations.model.protocols.a2a import CANCELLED_STATE, FAILED_STATES

_STATES: Final[dict[int, str]] = {number: name for name, number in TaskState.items()}
_UNDER_WAY: Final = frozenset({"TASK_STATE_SUBMITTED", "TASK_STATE_WORKING", "TASK_STATE_UNSPECIFIED"})
_DONE: Final = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_INPUT_REQUIRED"})


class Answer:
    """Collects the events of one task; `as_dict` is what `send_task` returns."""

    def __init__(self) -> None:
        self._task_id: str | None = None
        self._context_id: str | None = None
        self._state: str | None = None
        self._status_text: str | None = None
        self._reply: str | None = None
        self._artifacts: dict[str, Artifact] = {}

    def add(self, event: StreamResponse) -> None:
        """Take in the next event."""
        match event.WhichOneof("payload"):
            case "task":
                self._task(event.task)
            case "message":
                self._message(event.message)
            case "status_update":
                self._identify(event.status_update.task_id, event.status_update.context_id)
                self._status(event.status_update.status)
            case "artifact_update":
                self._artifact(event.artifact_update)
            case _:
                pass

    @property
    def unfinished(self) -> str | None:
        """The id of a task that neither ended nor waits for its caller; None when there is nothing to wait for."""
        return self._task_id if self._reply is None and (self._state is None or self._state in _UNDER_WAY) else None

    def as_dict(self) -> dict[str, Any]:
        """Return status, task_id, context_id, state (a `TASK_STATE_*` name), text, status_text and artifacts.

        `status` is the row's word for how the task ended: success (also when the team asks back), error (failed,
        rejected, authentication required) or cancelled. `text` is what the team answered: its message, else its
        artifacts' text, else its status text. A team that answers with a bare message made no task: task_id and state
        are None then. A state that the SDK has no name for is its number, and no known end.
        """
        artifacts = list(self._artifacts.values())
        produced = text_of(part for artifact in artifacts for part in artifact.parts)
        return {
            "status": self._outcome(),
            "task_id": self._task_id,
            "context_id": self._context_id,
            "state": self._state,
            "text": self._reply or produced or self._status_text or "",
            "status_text": self._status_text,
            "artifacts": [MessageToDict(artifact, preserving_proto_field_name=True) for artifact in artifacts],
        }

    def _outcome(self) -> str:
        if self._state in FAILED_STATES:
            return "error"
        # Without a word on how it ended, the team went away.
        lost = self._reply is None and self._state not in _DONE
        return "cancelled" if lost or self._state == CANCELLED_STATE else "success"

    def _identify(self, task_id: str, context_id: str) -> None:
        self._task_id = task_id or self._task_id
        self._context_id = context_id or self._context_id

    def _task(self, task: Task) -> None:
        self._identify(task.id, task.context_id)
        self._status(task.status)
        for artifact in task.artifacts:
            self._artifacts[artifact.artifact_id] = artifact

    def _message(self, message: Message) -> None:
        self._identify(message.task_id, message.context_id)
        self._reply = text_of(message.parts)

    def _status(self, status: TaskStatus) -> None:
        self._state = _STATES.get(status.state) or str(status.state)
        self._status_text = text_of(status.message.parts) or None

    def _artifact(self, update: TaskArtifactUpdateEvent) -> None:
        self._identify(update.task_id, update.context_id)
        known = self._artifacts.get(update.artifact.artifact_id)
        if update.append and known is not None:
            known.parts.extend(update.artifact.parts)
        else:
            self._artifacts[update.artifact.artifact_id] = update.artifact


def text_of(parts: Iterable[Part]) -> str:
    """Return the text parts, one a line."""
    return "\n".join(part.text for part in parts if part.text)


def team_of(team: str, card: AgentCard, endpoint: str) -> dict[str, Any]:
    """Return what the Agent Card of `team`, found at `endpoint`, says of it."""
    return {
        "team_id": team,
        "name": card.name,
        "description": card.description,
        "version": card.version,
        "provider": card.provider.organization or None,
        "endpoint": endpoint,
        "bindings": [interface.protocol_binding for interface in card.supported_interfaces],
        "streaming": card.capabilities.streaming,
        "capabilities": [skill.id or skill.name for skill in card.skills],
        "skills": [
            {"id": skill.id, "name": skill.name, "description": skill.description, "tags": list(skill.tags)}
            for skill in card.skills
        ],
    }


def offers(card: AgentCard, capabilities: Iterable[str]) -> bool:
    """Return whether skills of the card have each of `capabilities` as id, name or one of their tags."""
    had = {word for skill in card.skills for word in (skill.id, skill.name, *skill.tags)}
    return had.issuperset(capabilities)
