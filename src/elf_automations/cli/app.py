"""The commands of `elf-telemetry` and what becomes of their errors.

Exit codes: 0 ok, 1 a finding, 2 bad usage or configuration. An error is one line on stderr; `--debug` adds the
traceback.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from elf_automations import __version__
from elf_automations.cli import (
    alerts,
    archive,
    database,
    demo,
    doctor,
    entities,
    gaps,
    import_,
    maintain,
    n8n,
    setup,
    sink,
    status,
    top,
)
from elf_automations.errors import ElfTelemetryError

app = typer.Typer(
    name="elf-telemetry",
    help="Agent telemetry in Postgres: who calls whom, what fails, what it costs, who is alive.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo")(demo.demo)
app.add_typer(database.app, name="db")
app.command("setup")(setup.setup)
app.command("sink")(sink.sink)
app.command("import")(import_.import_files)
app.command("status")(status.status)
app.command("top")(top.top)
app.command("entities")(entities.entities)
app.command("gaps")(gaps.gaps)
app.command("alerts")(alerts.alerts)
app.command("maintain")(maintain.maintain)
app.add_typer(n8n.app, name="n8n")
app.command("archive")(archive.archive)
app.command("doctor")(doctor.doctor)

_debug = False
# The root of click's usage errors; typer has it only as the base of the one it exports.
_UsageError: Any = typer.BadParameter.__base__


def _version(value: bool) -> None:
    if value:
        typer.echo(f"elf-telemetry {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    global _debug  # noqa: PLW0603
    _debug = debug


def main(arguments: list[str] | None = None) -> None:
    """Run `elf-telemetry` with `arguments` (default: those of the process) and exit with its code."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except _UsageError as error:
        command = error.ctx.command_path if error.ctx else "elf-telemetry"
        if error.format_message():  # without arguments the help was shown instead
            _complain(f"{error.format_message().rstrip('.')}; see `{command} --help`")
        sys.exit(error.exit_code)
    except ElfTelemetryError as error:
        if _debug:
            raise
        _complain(str(error))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text.assemble(("error: ", "red"), line))
