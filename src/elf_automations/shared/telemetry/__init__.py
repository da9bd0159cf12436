"""The guide's telemetry client: `from elf_automations.shared.telemetry import telemetry_client`."""

from __future__ import annotations

from elf_automations.shared.telemetry.client import TelemetryClient, TelemetryTimer, telemetry_client

__all__ = ["TelemetryClient", "TelemetryTimer", "telemetry_client"]
