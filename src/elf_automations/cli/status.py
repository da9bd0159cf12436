"""`elf-telemetry status`: is everyone alive, what fails, how fast is it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from elf_automations.cli import tables
from elf_automations.cli.tables import as_json, table
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.queries import fetch

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]

_SECTIONS: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "health": ("system_health", "Last 5 minutes", tables.HEALTH),
    "entities": ("entity_state", "Entities", tables.STATES),
    "alerts": ("active_alerts", "Alerts", tables.ALERTS),
    "gaps": ("registration_gaps", "Registration gaps", tables.GAPS),
}


def status(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Show calls, errors and latency by protocol, the state of the entities, alerts and registration gaps."""
    url = postgres_url(database_url)
    with connect(url) as connection:
        found: dict[str, list[dict[str, Any]]] = {
            key: fetch(connection, query) for key, (query, _, _) in _SECTIONS.items()
        }
    if json:
        typer.echo(as_json({"database_url": shown(url), **found}))
        return
    console = Console()
    for key, (_, title, columns) in _SECTIONS.items():
        console.print(table(title, found[key], columns))
