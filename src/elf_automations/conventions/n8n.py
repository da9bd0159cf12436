"""Attribute names that n8n's own OpenTelemetry export uses (observed on n8n 2.41.1)."""

from __future__ import annotations

from typing import Final

N8N_WORKFLOW_ID: Final = "n8n.workflow.id"
N8N_WORKFLOW_NAME: Final = "n8n.workflow.name"
N8N_EXECUTION_ID: Final = "n8n.execution.id"
N8N_EXECUTION_MODE: Final = "n8n.execution.mode"
N8N_EXECUTION_STATUS: Final = "n8n.execution.status"
N8N_EXECUTION_ERROR_TYPE: Final = "n8n.execution.error_type"
N8N_EXECUTION_RETRY_OF: Final = "n8n.execution.retry_of"
N8N_NODE_ID: Final = "n8n.node.id"
N8N_NODE_NAME: Final = "n8n.node.name"
N8N_NODE_TYPE: Final = "n8n.node.type"
N8N_NODE_TERMINATION_REASON: Final = "n8n.node.termination_reason"
N8N_INSTANCE_ID: Final = "n8n.instance.id"
N8N_PROJECT_ID: Final = "n8n.project.id"
