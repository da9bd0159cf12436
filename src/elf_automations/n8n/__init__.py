"""n8n from outside: what its hooks post, and what its public API tells."""

from __future__ import annotations

from elf_automations.n8n.hooks_file import hooks_file

__all__ = ["hooks_file"]
