"""The unified registry: who there is, in what state and health; over Postgres or a Supabase project."""

from __future__ import annotations

from elf_automations.registry.unified import InvalidEntityError, UnifiedRegistry
from elf_automations.registry.workflow_events import WorkflowEvents
from elf_automations.registry.workflows import N8NWorkflowRegistry

__all__ = ["InvalidEntityError", "N8NWorkflowRegistry", "UnifiedRegistry", "WorkflowEvents"]
