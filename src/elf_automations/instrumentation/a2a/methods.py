"""The methods of A2A: where the SDK's client and server handle each, and how it is called on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from elf_automations.model.protocols.a2a import OPERATIONS, TASK_RUNS


@dataclass(frozen=True, slots=True)
class Method:
    """One A2A method; `streams` says whether the wrapped SDK function is an async generator."""

    name: str
    streams: bool = False

    @property
    def operation(self) -> str:
        """The row's word for this method."""
        return OPERATIONS[self.name]

    @property
    def runs_task(self) -> bool:
        """Whether the answer is the end of a task, so that its state decides the outcome."""
        return self.operation in TASK_RUNS

    def message_type(self, side: str) -> str | None:
        """Return the row's message_type on `side` (client, server), None for what concerns no task."""
        if self.operation == "send_task":
            return "task_request" if side == "client" else "task_response"
        return "status_update" if self.operation in {"get_task", "subscribe_task"} else None


SEND: Final = Method("SendMessage")
SEND_STREAMING: Final = Method("SendStreamingMessage", streams=True)

_UNARY: Final[Mapping[str, Method]] = {
    "get_task": Method("GetTask"),
    "list_tasks": Method("ListTasks"),
    "cancel_task": Method("CancelTask"),
    "create_task_push_notification_config": Method("CreateTaskPushNotificationConfig"),
    "get_task_push_notification_config": Method("GetTaskPushNotificationConfig"),
    "list_task_push_notification_configs": Method("ListTaskPushNotificationConfigs"),
    "delete_task_push_notification_config": Method("DeleteTaskPushNotificationConfig"),
    "get_extended_agent_card": Method("GetExtendedAgentCard"),
}
_SUBSCRIBE: Final = Method("SubscribeToTask", streams=True)

# `send_message` is one generator for both modes; which one a call takes is known when it is made.
CLIENT_METHODS: Final[Mapping[str, Method]] = {"send_message": SEND_STREAMING, "subscribe": _SUBSCRIBE, **_UNARY}
SERVER_METHODS: Final[Mapping[str, Method]] = {
    "on_message_send": SEND,
    "on_message_send_stream": SEND_STREAMING,
    "on_subscribe_to_task": _SUBSCRIBE,
    **{f"on_{name}": method for name, method in _UNARY.items()},
}
