"""`elf-telemetry demo`: a small fleet works for real, and its calls are shown as rows."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from elf_automations.cli import tables
from elf_automations.cli.tables import as_json, table
from elf_automations.errors import ElfTelemetryError
from elf_automations.storage.connection import connect
from elf_automations.storage.embedded import EmbeddedPostgres
from elf_automations.storage.migrate import migrate
from elf_automations.storage.queries import fetch

Rows = list[dict[str, Any]]
_PREPARATIONS = 2


def demo(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="How often the fleet works.")] = 3,
    json: Annotated[bool, typer.Option("--json", help="End with one JSON object.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the database running.")] = False,
) -> None:
    """Run real MCP servers, A2A teams and n8n events on an embedded PostgreSQL and show what became of each call."""
    # A socket's path must stay short, so the folder is made in the system's temporary folder and named briefly.
    directory = Path(tempfile.mkdtemp(prefix="elf-demo-"))
    server = EmbeddedPostgres(directory / "db")
    console = Console(stderr=json)
    kept = False
    try:
        summary, seen = _work(server, rounds, console)
        kept = keep
    finally:
        if not kept:
            server.stop()
            shutil.rmtree(directory, ignore_errors=True)
    if not json:
        _show(console, seen)
    agree = summary["calls"] == summary["rows"] and summary["calls_by_status"] == summary["rows_by_status"]
    if agree:
        calls, rows = (sum(summary[name].values()) for name in ("calls", "rows"))
        console.print(f"[green]Every call is there:[/green] {calls} calls, {rows} counted rows.")
    _tell(console, summary["database_url"], directory / "db", kept=kept)
    if json:
        typer.echo(as_json(summary))
    if not agree:
        called = {name: summary[name] for name in ("calls", "calls_by_status")}
        counted = {name: summary[name] for name in ("rows", "rows_by_status")}
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"the rows are not what was called: {called} against {counted}"
        )
        raise typer.Exit(1)


def _work(server: EmbeddedPostgres, rounds: int, console: Console) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Let the fleet work and return the summary of `--json` and what the tables show."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("starting PostgreSQL", total=rounds + _PREPARATIONS)
        url = server.start()
        progress.update(bar, advance=1, description="applying migrations")
        migrate(url)
        progress.update(bar, advance=1, description="the fleet is at work")
        calls, statuses = _run(url, rounds, lambda: progress.advance(bar))
    with connect(url) as connection:
        connection.execute("SELECT maintain_telemetry()")
        counts = fetch(connection, "counts_by_protocol_and_status")
        summary = {
            "calls": calls,
            "calls_by_status": statuses,
            "rows": _sum(counts, "protocol", calls),
            "rows_by_status": _sum(counts, "status", statuses),
            "entities": fetch(connection, "entity_count")[0]["n"],
            "database_url": url,
        }
        return summary, _read(connection)


def _run(url: str, rounds: int, on_round: Callable[[], object]) -> tuple[dict[str, int], dict[str, int]]:
    try:
        from elf_automations.demo.fleet import Fleet  # noqa: PLC0415  (needs the demo extra)
        from elf_automations.demo.ledger import Ledger  # noqa: PLC0415
        from elf_automations.demo.tools import quiet  # noqa: PLC0415
    except ImportError as error:
        message = f"the demo needs {error.name}: install it with pip install 'elf-automations[demo]'"
        raise ElfTelemetryError(message) from None
    from elf_automations.pipeline import configure  # noqa: PLC0415

    telemetry = configure(database_url=url, entity_id="demo-fleet", entity_name="Demo fleet")
    ledger = Ledger()

    async def work() -> None:
        async with Fleet(url, ledger) as fleet:
            quiet()
            for number in range(1, rounds + 1):
                await fleet.round(number)
                on_round()

    asyncio.run(work())
    if not telemetry.flush(30):
        message = "the last calls could not be stored within 30 s: is the machine overloaded?"
        raise ElfTelemetryError(message)
    telemetry.shutdown()
    return ledger.by_protocol(), ledger.by_status()


def _read(connection: Any) -> dict[str, Rows]:
    return {
        "matrix": fetch(connection, "communication_matrix", since="1 hour"),
        "rows": fetch(connection, "recent_communications", limit=12),
        "registry": fetch(connection, "registry_overview"),
        "alerts": fetch(connection, "active_alerts"),
    }


def _sum(counts: Rows, column: str, names: Iterable[str]) -> dict[str, int]:
    return {name: sum(int(row["n"]) for row in counts if row[column] == name) for name in names}


def _show(console: Console, seen: dict[str, Rows]) -> None:
    console.print(table("Who calls whom", seen["matrix"], tables.MATRIX))
    console.print(table("The last calls", tables.with_what(seen["rows"]), tables.CALLS))
    console.print(table("Registry", seen["registry"], tables.REGISTRY))
    console.print(table("Alerts", seen["alerts"], tables.ALERTS))


def _tell(console: Console, url: str, data_directory: Path, *, kept: bool) -> None:
    if kept:
        console.print("The database is still running. Look around, and stop it when you are done:", highlight=False)
        console.print(f"  psql '{url}'", highlight=False, soft_wrap=True)
        console.print(f"  elf-telemetry status --database-url '{url}'", highlight=False, soft_wrap=True)
        console.print(f"  elf-telemetry db stop --data-dir {data_directory}", highlight=False, soft_wrap=True)
    else:
        console.print(
            "The database is gone again. To look around with psql, keep it: [bold]elf-telemetry demo --keep",
            highlight=False,
        )
