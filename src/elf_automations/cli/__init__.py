"""The command line: `elf-telemetry`."""

from __future__ import annotations

from elf_automations.cli.app import main

__all__ = ["main"]
