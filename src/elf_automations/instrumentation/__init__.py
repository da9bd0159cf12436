"""Instrumentation on the OpenTelemetry API: spans for MCP and A2A calls, by hand or automatically."""

from __future__ import annotations

from elf_automations.instrumentation.identity import acting_as

__all__ = ["acting_as"]
