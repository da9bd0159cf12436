"""Attribute names, a leaf that imports nothing: `otel`, `a2a_draft`, `n8n` (foreign) and `elf` (ours)."""

from __future__ import annotations

from elf_automations.conventions import a2a_draft, elf, n8n, otel

__all__ = ["a2a_draft", "elf", "n8n", "otel"]
