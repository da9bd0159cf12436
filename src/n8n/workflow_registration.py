"""Registering n8n workflows: the import path of the guide; the code is in `elf_automations.registry`."""

from __future__ import annotations

from collections.abc import Mapping

from elf_automations.instrumentation.n8n import record_execution
from elf_automations.pipeline import ensure_pipeline
from elf_automations.registry import N8NWorkflowRegistry, WorkflowEvents

__all__ = ["N8NWebhookHandler", "N8NWorkflowRegistry"]


class N8NWebhookHandler(WorkflowEvents):
    """Takes the events of n8n; `WorkflowEvents` says which. Executions become rows with `ELF_N8N_EXECUTIONS=events`."""

    def __init__(self, registry: N8NWorkflowRegistry) -> None:
        """Write what the events tell to `registry`."""
        super().__init__(registry, record=_record)


def _record(workflow: Mapping[str, object], execution: Mapping[str, object]) -> bool:
    ensure_pipeline()
    return record_execution(workflow, execution)
