"""`elf-telemetry n8n`: what connects an n8n to the registry and the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from elf_automations.cli import n8n_sync
from elf_automations.cli.target import DatabaseUrl, storage_target
from elf_automations.errors import ConfigurationError
from elf_automations.n8n import hooks_file
from elf_automations.pipeline import configure
from elf_automations.settings import load_settings
from n8n.workflow_registration import N8NWebhookHandler, N8NWorkflowRegistry

if TYPE_CHECKING:
    from elf_automations.sink import Address

app = typer.Typer(help="Workflows and executions of an n8n: its hooks, its webhook events, its public API.")
app.command("sync")(n8n_sync.sync)


@app.command("hooks-file")
def print_hooks_file() -> None:
    """Print the path of the external-hooks file to mount: EXTERNAL_HOOK_FILES=$(elf-telemetry n8n hooks-file)."""
    typer.echo(hooks_file())


@app.command("webhook")
def webhook(
    host: Annotated[str, typer.Option("--host", help="Where to listen; beyond this machine only with a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any free one.")] = 4319,
    database_url: DatabaseUrl = None,
) -> None:
    """Take the events that n8n's hooks post, at /n8n/webhook, into the registry.

    ELF_N8N_WEBHOOK_TOKEN asks for `Authorization: Bearer …`; with ELF_N8N_EXECUTIONS=events executions become rows.
    """
    try:
        from elf_automations import sink as sinks  # noqa: PLC0415 - the extra may not be installed
        from elf_automations.n8n.serving import serve  # noqa: PLC0415
        from elf_automations.n8n.webhook import PATH, EventReceiver  # noqa: PLC0415
        from elf_automations.sink.bearer import Token  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the webhook needs {error.name}, which is not installed: pip install 'elf-automations[sink]'"
        ) from None
    settings = load_settings()
    where = sinks.Address(host, port)
    if not where.is_loopback and settings.n8n_webhook_token is None:
        raise ConfigurationError(
            f"anybody who reaches {where} could write to the registry: set ELF_N8N_WEBHOOK_TOKEN, or use 127.0.0.1"
        )
    target = storage_target(database_url)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

    def listening(at: Address) -> None:
        console.print(f"n8n events on http://{at}{PATH}")

    rows = settings.n8n_executions == "events"
    telemetry = configure(instrument=False, database_url=database_url) if rows else None
    registry = N8NWorkflowRegistry.over(target)
    try:
        receiver = EventReceiver(N8NWebhookHandler(registry).handle_workflow_event, Token(settings.n8n_webhook_token))
        serve(receiver, where, listening)
    finally:
        registry.close()
        if telemetry:
            telemetry.shutdown()
