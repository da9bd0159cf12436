"""The guide's troubleshooting as checks: what works, what does not, and how to mend it."""

from __future__ import annotations

from elf_automations.doctor.checks import Check, Verdict, exit_code
from elf_automations.doctor.examination import examine

__all__ = ["Check", "Verdict", "examine", "exit_code"]
