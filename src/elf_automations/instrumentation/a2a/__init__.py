"""A2A instrumentation for the official SDK 1.x: client and server, JSON-RPC, REST and gRPC."""

from __future__ import annotations

from elf_automations.instrumentation.a2a.instrumentor import A2AInstrumentor

__all__ = ["A2AInstrumentor"]
