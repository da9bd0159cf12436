"""Attribute names of the draft A2A semantic conventions (stability: development; renames expected)."""

from __future__ import annotations

from typing import Final

A2A_METHOD_NAME: Final = "a2a.method.name"
A2A_MESSAGE_ID: Final = "a2a.message.id"
A2A_REFERENCE_TASK_IDS: Final = "a2a.message.reference_task_ids"
A2A_TASK_ID: Final = "a2a.task.id"
A2A_TASK_STATE: Final = "a2a.task.state"
A2A_TENANT: Final = "a2a.tenant"
A2A_PROTOCOL_VERSION: Final = "a2a.protocol.version"
