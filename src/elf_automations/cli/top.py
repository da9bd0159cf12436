"""`elf-telemetry top`: the busiest pairs, what fails between them and what they cost."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer
from rich.console import Console

from elf_automations.cli import tables
from elf_automations.cli.tables import Json, as_json, table
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.queries import fetch

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(rf"(\d{{1,6}})([{''.join(_SECONDS)}])")


def top(
    database_url: DatabaseUrl = None,
    since: Annotated[str, typer.Option("--since", help="How far back: 30m, 24h, 7d; in whole hours or days.")] = "24h",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many pairs.")] = 20,
    json: Json = False,
) -> None:
    """Show who calls whom most: calls, errors, average duration, tokens and cost."""
    span = _SPAN.fullmatch(since.strip().lower())
    if span is None:
        raise typer.BadParameter(f"{since!r} is no time span; write 30m, 24h or 7d", param_hint="--since")
    url = postgres_url(database_url)
    seconds = int(span[1]) * _SECONDS[span[2]]
    with connect(url) as connection:
        pairs = fetch(connection, "top_pairs", since=f"{seconds} seconds", limit=limit)
    if json:
        typer.echo(as_json({"database_url": shown(url), "since": since, "pairs": pairs}))
    else:
        Console().print(table(f"Top pairs, last {since}", pairs, tables.PAIRS))
