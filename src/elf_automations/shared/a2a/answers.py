"""What a caller gets: a task's events folded into one dict, an Agent Card as a dict."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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

    def as_dict(self) -> dict[str, Any]:
        """Return task_id, context_id, state (a `TASK_STATE_*` name), text, status_text and artifacts.

        `text` is what the team answered: its message, else its artifacts' text, else its status text. A team that
        answers with a bare message made no task: task_id and state are None then.
        """
        artifacts = list(self._artifacts.values())
        produced = text_of(part for artifact in artifacts for part in artifact.parts)
        return {
            "task_id": self._task_id,
            "context_id": self._context_id,
            "state": self._state,
            "text": self._reply or produced or self._status_text or "",
            "status_text": self._status_text,
            "artifacts": [MessageToDict(artifact, preserving_proto_field_name=True) for artifact in artifacts],
        }

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
        self._state = TaskState.Name(status.state)
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


def team_of(card: AgentCard, endpoint: str) -> dict[str, Any]:
    """Return what an Agent Card, found at `endpoint`, says of its team."""
    return {
        "team_id": card.name,
        "description": card.description,
        "version": card.version,
        "endpoint": endpoint,
        "streaming": card.capabilities.streaming,
        "capabilities": [skill.id or skill.name for skill in card.skills],
        "skills": [
            {"id": skill.id, "name": skill.name, "description": skill.description, "tags": list(skill.tags)}
            for skill in card.skills
        ],
    }


def offers(card: AgentCard, capability: str) -> bool:
    """Return whether a skill of the card has `capability` as its id, name or one of its tags."""
    return any(capability in {skill.id, skill.name, *skill.tags} for skill in card.skills)
