"""`elf-telemetry setup`: bring the database to this release."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.storage.connection import shown
from elf_automations.storage.migrate import migrate, pending


def setup(
    database_url: DatabaseUrl = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 while migrations are due.")] = False,
) -> None:
    """Create or update tables, views and functions; safe to run any number of times."""
    url = postgres_url(database_url)
    console = Console(highlight=False, soft_wrap=True)
    if check:
        due = pending(url)
        for name in due:
            console.print(f"due      {name}")
        console.print(f"{len(due)} migrations are due on {shown(url)}" if due else f"{shown(url)} is up to date")
        raise typer.Exit(1 if due else 0)
    report = migrate(
        url,
        on_applied=lambda name: console.print(f"applied  {name}"),
        on_warning=lambda line: console.print(f"warning  {line}", markup=False),
    )
    done = f"applied {len(report.applied)} migrations" if report.applied else "nothing to do"
    console.print(f"{done}; {shown(url)} is up to date")
