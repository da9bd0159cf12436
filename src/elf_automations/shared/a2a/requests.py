"""The A2A request of a task: its text, who asks, and what the team must be able to do."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from a2a.types.a2a_pb2 import Message, Part, Role, SendMessageConfiguration, SendMessageRequest
from google.protobuf.struct_pb2 import Struct


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOrder:
    """A task to be sent: for whom (None: whoever can), what, with which context, for how long at most (in seconds)."""

    target_team: str | None
    description: str
    context: Mapping[str, Any] | None = None
    deadline_seconds: float = 3600
    required_capabilities: Sequence[str] | None = None

    def request(self, source_team: str, *, at_once: bool = False) -> SendMessageRequest:
        """Return the request; its metadata holds source_team, required_capabilities and context.

        `at_once` asks for an answer before the task ends.
        """
        told: dict[str, Any] = {"source_team": source_team}
        if self.required_capabilities:
            told["required_capabilities"] = list(self.required_capabilities)
        if self.context:
            told["context"] = dict(self.context)
        # Through JSON, so that a date or a UUID in the context becomes text instead of an exception.
        plain: dict[str, Any] = orjson.loads(orjson.dumps(told, default=str, option=orjson.OPT_NON_STR_KEYS))
        metadata = Struct()
        metadata.update(plain)
        message = Message(message_id=str(uuid.uuid4()), role=Role.ROLE_USER, parts=[Part(text=self.description)])
        configuration = SendMessageConfiguration(return_immediately=True) if at_once else None
        return SendMessageRequest(message=message, configuration=configuration, metadata=metadata)
