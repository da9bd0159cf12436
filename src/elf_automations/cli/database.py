"""`elf-telemetry db`: an embedded PostgreSQL to try things with, no server and no Docker needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from elf_automations.errors import ElfTelemetryError
from elf_automations.storage.embedded import EmbeddedPostgres

app = typer.Typer(help="Start, stop and find the embedded PostgreSQL.", no_args_is_help=True)

DataDirectory = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the database lives (default: your state folder).")
]


def default_data_directory() -> Path:
    """Return where the database lives unless told: the user's state folder, for root the system's.

    Root's home is closed to the system user that has to run the server for it.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/elf-telemetry/postgres")
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "elf-telemetry" / "postgres"


def _server(data_dir: Path | None) -> EmbeddedPostgres:
    return EmbeddedPostgres(data_dir or default_data_directory())


@app.command()
def start(data_dir: DataDirectory = None) -> None:
    """Start the embedded PostgreSQL and print its URL; one that runs already is left alone."""
    typer.echo(_server(data_dir).start())


@app.command()
def stop(data_dir: DataDirectory = None) -> None:
    """Stop the embedded PostgreSQL; its data stays."""
    server = _server(data_dir)
    if not server.running:
        typer.echo("not running")
        return
    server.stop()
    typer.echo("stopped")


@app.command()
def url(data_dir: DataDirectory = None) -> None:
    """Print the URL of the running embedded PostgreSQL."""
    found = _server(data_dir).url()
    if found is None:
        message = "the embedded PostgreSQL is not running: start it with `elf-telemetry db start`"
        raise ElfTelemetryError(message)
    typer.echo(found)
