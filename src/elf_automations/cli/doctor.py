"""`elf-telemetry doctor`: why is there nothing to see, and how is it mended."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from elf_automations.cli.tables import as_json
from elf_automations.cli.target import DatabaseUrl
from elf_automations.doctor import Check, Verdict, examine, exit_code

_MARKS: Final[dict[Verdict, tuple[str, str]]] = {
    "ok": ("ok", "green"),
    "note": ("note", "cyan"),
    "finding": ("finding", "yellow"),
    "misconfigured": ("wrong", "red"),
}


def doctor(
    database_url: DatabaseUrl = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Check settings, database, schema, writing, upkeep and the SDKs; send one span and look for its row."""
    checks = examine(database_url)
    code = exit_code(checks)
    if json:
        typer.echo(as_json({"ok": code == 0, "checks": [asdict(check) for check in checks]}))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for check in checks:
            console.print(_line(check))
    raise typer.Exit(code)


def _line(check: Check) -> Text:
    mark, style = _MARKS[check.verdict]
    line = Text.assemble((f"{mark:<8}", style), f"{check.name:<11}{check.says}")
    if check.mend:
        line.append(f"\n{'':<8}{'':<11}mend: {check.mend}", style="bold")
    return line
