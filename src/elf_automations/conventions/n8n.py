"""Attribute names that n8n's own OpenTelemetry export uses (observed on n8n 2.41.1)."""

from __future__ import annotations

from typing import Final

N8N_WORKFLOW_ID: Final = "n8n.workflow.id"
N8N_WORKFLOW_NAME: Final = "n8n.workflow.name"
N8N_WORKFLOW_VERSION_ID: Final = "n8n.workflow.version_id"
N8N_WORKFLOW_NODE_COUNT: Final = "n8n.workflow.node_count"
N8N_EXECUTION_ID: Final = "n8n.execution.id"
N8N_EXECUTION_MODE: Final = "n8n.execution.mode"
N8N_EXECUTION_STATUS: Final = "n8n.execution.status"
N8N_EXECUTION_ERROR_TYPE: Final = "n8n.execution.error_type"
N8N_EXECUTION_IS_RETRY: Final = "n8n.execution.is_retry"
N8N_EXECUTION_RETRY_OF: Final = "n8n.execution.retry_of"
N8N_NODE_ID: Final = "n8n.node.id"
N8N_NODE_NAME: Final = "n8n.node.name"
N8N_NODE_TYPE: Final = "n8n.node.type"
N8N_NODE_TYPE_VERSION: Final = "n8n.node.type_version"
N8N_NODE_ITEMS_INPUT: Final = "n8n.node.items.input"
N8N_NODE_ITEMS_OUTPUT: Final = "n8n.node.items.output"
N8N_NODE_TERMINATION_REASON: Final = "n8n.node.termination_reason"
N8N_INSTANCE_ID: Final = "n8n.instance.id"
N8N_PROJECT_ID: Final = "n8n.project.id"
