"""Agents that talk to agents: the guide's A2A clients, with telemetry (`telemetry_client`) and without (`client`)."""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("a2a") is None:
    message = "elf_automations.shared.a2a needs the A2A SDK: pip install 'elf-automations[a2a]'"
    raise ModuleNotFoundError(message, name="a2a")

from elf_automations.shared.a2a.client import A2AClient, TeamNotFoundError
from elf_automations.shared.a2a.telemetry_client import A2AClientWithTelemetry, create_a2a_client

__all__ = ["A2AClient", "A2AClientWithTelemetry", "TeamNotFoundError", "create_a2a_client"]
