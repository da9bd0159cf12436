"""The methods of A2A: where the SDK's client and server handle each, and how it is called on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from elf_automations.model.protocols.a2a import OPERATIONS, TASK_RUNS


@dataclass(frozen=True, slots=True)
class Method:
    """One A2A method; `streams` says whether the wrapped SDK function is an async generator."""

    name: str
    streams: bool = False
    operation: str = field(init=False)
    """The row's word for this method."""
    runs_task: bool = field(init=False)
    """Whether the answer is the end of a task, so that its state decides the outcome."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "operation", OPERATIONS[self.name])
        object.__setattr__(self, "runs_task", OPERATIONS[self.name] in TASK_RUNS)


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
TRANSPORT_METHODS: Final[Mapping[str, Method]] = {
    "send_message": SEND,
    "send_message_streaming": SEND_STREAMING,
    "subscribe": _SUBSCRIBE,
    **_UNARY,
}
SERVER_METHODS: Final[Mapping[str, Method]] = {
    "on_message_send": SEND,
    "on_message_send_stream": SEND_STREAMING,
    "on_subscribe_to_task": _SUBSCRIBE,
    **{f"on_{name}": method for name, method in _UNARY.items()},
}
# By name on the wire, and by the SDK's function behind a REST route.
WIRE_METHODS: Final[Mapping[str, Method]] = {method.name: method for method in SERVER_METHODS.values()}
REST_METHODS: Final[Mapping[str, Method]] = {
    "on_message_send": SEND,
    "on_message_send_stream": SEND_STREAMING,
    "on_cancel_task": _UNARY["cancel_task"],
    "on_subscribe_to_task": _SUBSCRIBE,
    "on_get_task": _UNARY["get_task"],
    "list_tasks": _UNARY["list_tasks"],
    "set_push_notification": _UNARY["create_task_push_notification_config"],
    "get_push_notification": _UNARY["get_task_push_notification_config"],
    "list_push_notifications": _UNARY["list_task_push_notification_configs"],
    "delete_push_notification": _UNARY["delete_task_push_notification_config"],
    "handle_authenticated_agent_card": _UNARY["get_extended_agent_card"],
}
# A request that names no method of the protocol.
OTHER: Final = Method("_OTHER")
PUSH: Final = Method("SendPushNotification")
