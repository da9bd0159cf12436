"""MCP instrumentation for the official SDK 1.x and 2.x and for FastMCP: client and server, every transport."""

from __future__ import annotations

from elf_automations.instrumentation.mcp.instrumentor import MCPInstrumentor

__all__ = ["MCPInstrumentor"]
