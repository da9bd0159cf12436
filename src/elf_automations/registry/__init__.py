"""The unified registry: who there is, in what state and health; over Postgres or a Supabase project."""

from __future__ import annotations

from elf_automations.registry.asynchronous import AsyncUnifiedRegistry
from elf_automations.registry.background import flush_registry
from elf_automations.registry.health import HealthReporter
from elf_automations.registry.lifecycle import Lifecycle, lifecycle
from elf_automations.registry.unified import InvalidEntityError, UnifiedRegistry
from elf_automations.registry.workflow_events import WorkflowEvents
from elf_automations.registry.workflows import N8NWorkflowRegistry

__all__ = [
    "AsyncUnifiedRegistry",
    "HealthReporter",
    "InvalidEntityError",
    "Lifecycle",
    "N8NWorkflowRegistry",
    "UnifiedRegistry",
    "WorkflowEvents",
    "flush_registry",
    "lifecycle",
]
