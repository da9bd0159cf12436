"""The import paths and names of the guide and the design exist and stay."""

from __future__ import annotations

import importlib

import pytest

PUBLIC = {
    "elf_automations": [
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
    ],
    "elf_automations.shared.a2a": [
        "A2AClient",
        "A2AClientWithTelemetry",
        "ServedTeam",
        "TeamNotFoundError",
        "create_a2a_client",
        "serve_team",
    ],
    "elf_automations.shared.telemetry": ["TelemetryClient", "TelemetryTimer", "telemetry_client"],
    "elf_automations.shared.a2a.telemetry_client": ["A2AClientWithTelemetry", "create_a2a_client"],
    "elf_automations.shared.a2a.client": ["A2AClient", "TeamNotFoundError"],
    "elf_automations.registry": [
        "AsyncUnifiedRegistry",
        "HealthReporter",
        "UnifiedRegistry",
        "flush_registry",
        "lifecycle",
    ],
    "elf_automations.instrumentation.mcp": ["MCPInstrumentor"],
    "elf_automations.instrumentation.a2a": ["A2AInstrumentor"],
    "elf_exporters": ["Books", "CommunicationSpanProcessor", "CommunicationTelemetryExporter"],
    "n8n.workflow_registration": ["N8NWebhookHandler", "N8NWorkflowRegistry"],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_module_offers_its_public_names(module):
    loaded = importlib.import_module(module)
    assert set(PUBLIC[module]) <= set(loaded.__all__)
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None
