"""`elf-telemetry maintain`: partitions, retention, rollups, counts and alerts, once or for good."""

from __future__ import annotations

import queue
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console

from elf_automations.cli.ending import told_to_end
from elf_automations.cli.tables import Json, as_json
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.errors import StorageUnavailableError
from elf_automations.storage.connection import connect
from elf_automations.storage.queries import fetch


def maintain(
    database_url: DatabaseUrl = None,
    every: Annotated[
        float | None, typer.Option("--every", min=1, help="Seconds between passes, until SIGTERM; default: one pass.")
    ] = None,
    json: Json = False,
) -> None:
    """Do the upkeep of the database: one pass, or with --every one after the other; any number may run at once."""
    url = postgres_url(database_url)
    if every is None:
        _show(_pass(url), json=json)
        return
    ends = told_to_end()
    while True:
        try:
            _show(_pass(url), json=json)
        except StorageUnavailableError as error:
            Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(str(error))
        try:
            ends.get(timeout=every)
        except queue.Empty:
            continue
        return


def _pass(url: str) -> Mapping[str, Any]:
    with connect(url) as connection:
        return fetch(connection, "maintain")[0]["done"]


def _show(done: Mapping[str, Any], *, json: bool) -> None:
    at = datetime.now(UTC)
    if json:
        typer.echo(as_json({"at": at, **done}))
    else:
        did = ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in done.items() if value)
        typer.echo(f"{at.astimezone():%Y-%m-%d %H:%M:%S}  {did or 'nothing to do'}")
    sys.stdout.flush()
