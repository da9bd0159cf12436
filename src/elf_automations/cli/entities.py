"""`elf-telemetry entities`: the entity health dashboard of the guide."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from elf_automations.cli import tables
from elf_automations.cli.tables import Json, as_json, table
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.settings import EntityType
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.queries import fetch


def entities(
    database_url: DatabaseUrl = None,
    entity_type: Annotated[EntityType | None, typer.Option("--type", help="Only entities of this type.")] = None,
    state: Annotated[str | None, typer.Option("--state", help="Only entities in this state, such as active.")] = None,
    json: Json = False,
) -> None:
    """Show every entity that is not deleted with its state, its health and when it was last heard of."""
    url = postgres_url(database_url)
    with connect(url) as connection:
        found = [
            row
            for row in fetch(connection, "entity_health")
            if entity_type in {None, row["entity_type"]} and state in {None, row["current_state"]}
        ]
    if json:
        typer.echo(as_json({"database_url": shown(url), "entities": found}))
    else:
        Console().print(table("Entities", tables.with_ages(found), tables.ENTITIES))
