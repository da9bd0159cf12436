"""`elf-telemetry gaps`: what the registry misses."""

from __future__ import annotations

import typer
from rich.console import Console

from elf_automations.cli import tables
from elf_automations.cli.tables import Json, as_json, table
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.queries import fetch


def gaps(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Show who calls or is called without being registered, and who was not heard of; exits 1 when there are any."""
    url = postgres_url(database_url)
    with connect(url) as connection:
        found = fetch(connection, "registration_gaps")
    if json:
        typer.echo(as_json({"database_url": shown(url), "gaps": found}))
    else:
        Console().print(table("Registration gaps", found, tables.GAPS))
    raise typer.Exit(1 if found else 0)
