"""Bring the database to the telemetry schema; the same as `elf-telemetry setup`."""

from __future__ import annotations

import sys

from elf_automations.cli import main

if __name__ == "__main__":
    main(["setup", *sys.argv[1:]])
