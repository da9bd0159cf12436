"""`elf-telemetry import`: OTLP files into rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from elf_automations.cli.database import default_data_directory
from elf_automations.cli.tables import Json, as_json
from elf_automations.cli.target import DatabaseUrl, storage_target
from elf_automations.errors import ConfigurationError
from elf_automations.settings import load_settings
from elf_automations.storage.opening import open_writer


def import_files(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="OTLP trace requests, JSON or protobuf, plain or gzip.")
    ],
    database_url: DatabaseUrl = None,
    json: Json = False,
) -> int:
    """Store the spans of OTLP files, such as the Collector's file exporter writes; importing again changes nothing.

    An interrupted import goes on where it stopped. What cannot be read is named and skipped, and makes the exit code 1.
    """
    try:
        from elf_automations.sink import importing  # noqa: PLC0415 - the extra may not be installed
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"import needs {error.name}, which is not installed: pip install 'elf-automations[sink]'"
        ) from None
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ConfigurationError(f"there is no file {missing[0]}")
    target = storage_target(database_url)
    settings = load_settings()
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    writer = open_writer(target)
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task("", total=sum(file.stat().st_size for file in files))
        done = 0
        work = importing.Import(
            writer,
            state_folder=default_data_directory().parent / "imports",
            place=target.url,
            limit=settings.sink_max_bytes,
            n8n_nodes=settings.n8n_nodes,
            n8n_exports=settings.n8n_exports,
            complain=errors.print,
            progress=lambda read: progress.update(task, completed=done + read),
        )
        unreadable: list[ConfigurationError] = []
        for file in files:
            progress.update(task, description=file.name)
            try:
                work.file(file)
            except ConfigurationError as error:
                unreadable.append(error)
            done += file.stat().st_size
            progress.update(task, completed=done)
        work.settle()
    writer.close()
    result = work.result
    if json:
        fields = ("spans", "stored", "duplicate", "ignored", "refused", "problems")
        typer.echo(as_json({name: getattr(result, name) for name in fields}))
    else:
        typer.echo(
            f"{result.spans:,} spans: {result.stored:,} stored, {result.duplicate:,} already there, "
            f"{result.ignored:,} no calls" + (f", {result.refused:,} refused" if result.refused else "")
        )
    if unreadable:
        raise ConfigurationError("; ".join(map(str, unreadable)))
    return 1 if result.problems or result.refused else 0
