"""Our own attribute names: what a row says and no standard attribute can.

Resource attributes `elf.entity.*` name the process; span attributes name one call. An `elf.*` span
attribute is an explicit statement and wins over whatever the mapping would derive.
"""

from __future__ import annotations

from typing import Final

ELF_ENTITY_ID: Final = "elf.entity.id"
ELF_ENTITY_TYPE: Final = "elf.entity.type"
ELF_ENTITY_NAME: Final = "elf.entity.name"
ELF_ENTITY_CAPABILITIES: Final = "elf.entity.capabilities"
ELF_ENTITY_PARENT: Final = "elf.entity.parent"
ELF_ENTITY_ENDPOINT: Final = "elf.entity.endpoint"

ELF_PROTOCOL: Final = "elf.protocol"
ELF_OBSERVED_BY: Final = "elf.observed_by"
ELF_OPERATION: Final = "elf.operation"
ELF_OUTCOME: Final = "elf.outcome"
ELF_IMPLICIT: Final = "elf.implicit"
ELF_CALLER_SPAN_ID: Final = "elf.caller.span_id"
ELF_SOURCE_ID: Final = "elf.source.id"
ELF_SOURCE_TYPE: Final = "elf.source.type"
ELF_TARGET_ID: Final = "elf.target.id"
ELF_TARGET_TYPE: Final = "elf.target.type"
ELF_TARGET_ENDPOINT: Final = "elf.target.endpoint"
ELF_TARGET_CAPABILITIES: Final = "elf.target.capabilities"
ELF_TARGET_PROVIDER: Final = "elf.target.provider"
ELF_TARGET_PROVIDER_URL: Final = "elf.target.provider_url"
ELF_DURATION_MS: Final = "elf.duration_ms"
ELF_ERROR_MESSAGE: Final = "elf.error.message"
ELF_ERROR_CODE: Final = "elf.error.code"
ELF_TOOL_CATEGORY: Final = "elf.tool.category"
ELF_TASK_DESCRIPTION: Final = "elf.task.description"
ELF_CAPABILITIES_REQUIRED: Final = "elf.capabilities.required"
ELF_MESSAGE_TYPE: Final = "elf.message.type"
ELF_A2A_BINDING: Final = "elf.a2a.binding"
ELF_A2A_RETURN_IMMEDIATELY: Final = "elf.a2a.return_immediately"
ELF_A2A_EVENTS: Final = "elf.a2a.events"
ELF_A2A_TIME_TO_FIRST_EVENT: Final = "elf.a2a.time_to_first_event"
ELF_WORKFLOW_ID: Final = "elf.workflow.id"
ELF_WORKFLOW_NAME: Final = "elf.workflow.name"
ELF_WORKFLOW_NODE: Final = "elf.workflow.node"
ELF_N8N_SOFT_ERROR: Final = "elf.n8n.soft_error"
ELF_PAYLOAD_SIZE: Final = "elf.payload.size"
ELF_RESPONSE_SIZE: Final = "elf.response.size"
ELF_TOKENS_USED: Final = "elf.tokens.used"
ELF_COST_USD: Final = "elf.cost.usd"
ELF_CORRELATION_ID: Final = "elf.correlation.id"
ELF_PARENT_CORRELATION_ID: Final = "elf.parent_correlation.id"
ELF_METADATA: Final = "elf.metadata"
