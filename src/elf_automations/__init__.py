"""ElfAutomations telemetry: every MCP, A2A and n8n call as one OpenTelemetry span and one true row.

from elf_automations import configure
configure()          # reads ELF_DATABASE_URL and ELF_ENTITY_ID, instruments the MCP and A2A SDKs
"""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from elf_automations.errors import ConfigurationError, ElfTelemetryError
from elf_automations.instrumentation import acting_as

if TYPE_CHECKING:
    from elf_automations.instrumentation.a2a import A2AInstrumentor
    from elf_automations.instrumentation.mcp import MCPInstrumentor
    from elf_automations.instrumentation.trace_state import inject_context
    from elf_automations.pipeline import Telemetry, configure
    from elf_automations.registry import AsyncUnifiedRegistry, HealthReporter, UnifiedRegistry, lifecycle
    from elf_automations.shared.a2a.serving import serve_team

__all__ = [
    "A2AInstrumentor",
    "AsyncUnifiedRegistry",
    "ConfigurationError",
    "ElfTelemetryError",
    "HealthReporter",
    "MCPInstrumentor",
    "Telemetry",
    "UnifiedRegistry",
    "__version__",
    "acting_as",
    "configure",
    "inject_context",
    "lifecycle",
    "serve_team",
]

__version__ = _version("elf-automations")

# Loaded at first use: the SDKs are optional, and a process that only exports needs neither registry nor pipeline.
_LAZY = {
    "A2AInstrumentor": "elf_automations.instrumentation.a2a",
    "AsyncUnifiedRegistry": "elf_automations.registry",
    "HealthReporter": "elf_automations.registry",
    "MCPInstrumentor": "elf_automations.instrumentation.mcp",
    "Telemetry": "elf_automations.pipeline",
    "UnifiedRegistry": "elf_automations.registry",
    "configure": "elf_automations.pipeline",
    "inject_context": "elf_automations.instrumentation.trace_state",
    "lifecycle": "elf_automations.registry",
    "serve_team": "elf_automations.shared.a2a",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module  # noqa: PLC0415

    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_LAZY[name]), name)
