"""`elf-telemetry archive`: old days as Parquet files, before retention drops them."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from elf_automations.cli.tables import Json, as_json
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.storage.archive import ArchivedDay, archive_day, days_before, today


def archive(
    to: Annotated[Path, typer.Option("--to", help="Folder for the files, one for each day.", file_okay=False)],
    older_than: Annotated[
        int | None, typer.Option("--older-than", min=0, help="All days that ended more than this many days ago.")
    ] = None,
    day: Annotated[
        datetime | None, typer.Option("--day", formats=["%Y-%m-%d"], help="One day (UTC), such as 2026-01-31.")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop each day once its file was read back.")] = False,
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Write whole days of calls to Parquet files; what is archived already is left as it is."""
    if (older_than is None) == (day is None):
        message = "pass either --older-than or --day"
        raise typer.BadParameter(message)
    url = postgres_url(database_url)
    if day is not None:
        days: tuple[date, ...] = (day.date(),)
    else:
        days = days_before(url, today() - timedelta(days=older_than or 0))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    done: list[ArchivedDay] = []
    for each in days:
        archived = archive_day(url, each, to, drop=drop)
        if archived:
            done.append(archived)
            if not json:
                console.print(_line(archived))
    if json:
        typer.echo(as_json([{**_fields(each), "day": each.day, "file": str(each.file)} for each in done]))
    elif not done:
        console.print(f"nothing to archive: no calls {f'on {days[0]}' if days else f'older than {older_than} days'}")


def _fields(archived: ArchivedDay) -> dict[str, object]:
    return {"rows": archived.rows, "written": archived.written, "dropped": archived.dropped}


def _line(archived: ArchivedDay) -> str:
    did = (
        "written"
        if archived.written
        else "archived before, nothing to do"
        if not archived.dropped
        else "archived before"
    )
    dropped = ", dropped from the database" if archived.dropped else ""
    return f"{archived.day}  {archived.rows} calls  {archived.file}  {did}{dropped}"
