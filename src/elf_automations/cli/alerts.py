"""`elf-telemetry alerts`: what is wrong now, and what starts and stops being wrong."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from elf_automations.cli import tables
from elf_automations.cli.alert_watch import AlertWatch, Change
from elf_automations.cli.tables import as_json, table
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.cli.webhook import Message, Webhook, key_of
from elf_automations.errors import ConfigurationError
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.queries import fetch

_SECRET: Final = "ELF_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
_EVERY_S: Final = 15.0
_LAST_CHANCE_S: Final = 3.0
_TERMINATED: Final = 128 + signal.SIGTERM
_TOLD: Final = (
    "id",
    "rule",
    "alert",
    "severity",
    "protocol",
    "entity_id",
    "entity_type",
    "value",
    "peak_value",
    "threshold",
    "since",
    "fired_at",
    "resolved_at",
    "message",
)


def alerts(
    database_url: DatabaseUrl = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show changes as they happen, until Ctrl-C.")] = False,
    every: Annotated[
        float | None, typer.Option("--every", min=1, help="With --watch: seconds between evaluations, by default 15.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option("--webhook", metavar="URL", help="With --watch: post each change there, signed.")
    ] = None,
    secret: Annotated[
        str, typer.Option("--secret", metavar="NAME", help="Environment variable that holds the webhook's secret.")
    ] = _SECRET,
    json: Annotated[bool, typer.Option("--json", help="Print JSON: one object, with --watch one a line.")] = False,
) -> None:
    """Show active alerts; exits 1 when there are any."""
    if webhook is not None and not watch:
        raise ConfigurationError("--webhook posts changes as they happen: add --watch")
    if every is not None and not watch:
        raise ConfigurationError("--every is how often to look for changes: add --watch")
    hook = None if webhook is None else Webhook(webhook, _key(secret), _complain)
    url = postgres_url(database_url)
    if watch:
        _watch(url, every or _EVERY_S, hook, json=json)
        return
    with connect(url) as connection:
        found = fetch(connection, "active_alerts")
    if json:
        typer.echo(as_json({"database_url": shown(url), "alerts": found}))
    else:
        Console().print(table("Alerts", found, tables.ALERTS))
    raise typer.Exit(1 if found else 0)


def _watch(url: str, every: float, hook: Webhook | None, *, json: bool) -> None:
    """Show what fires now and then each change; ends by Ctrl-C or SIGTERM only."""
    signal.signal(signal.SIGTERM, _terminate)
    watch = AlertWatch(url, every, _complain)
    try:
        firing = watch.open()
        if not firing and not json:
            typer.echo("no alerts; waiting for changes")
        _tell(firing, hook, json=json)
        _tell(watch.changes(), hook, json=json)
    finally:
        watch.close()
        left = hook.close(_LAST_CHANCE_S) if hook else 0
        if left:
            _complain(f"{left} changes were not delivered to the webhook")


def _tell(changes: Iterable[Change], hook: Webhook | None, *, json: bool) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for change in changes:
        if hook:
            hook.post(_message(change))
        if json:
            typer.echo(as_json(_event(change)))
        else:
            console.print(_line(change))
        sys.stdout.flush()


def _event(change: Change) -> dict[str, object]:
    """Return a change as the specification of Standard Webhooks shapes events."""
    data = {name: change[name] for name in _TOLD}
    return {"type": f"alert.{change['change']}", "timestamp": change["at"], "data": data}


def _message(change: Change) -> Message:
    # A dot would separate the parts of what is signed.
    return Message(f"alert_{change['id'].hex}_{change['change']}", as_json(_event(change)).encode())


def _line(change: Change) -> Text:
    fired = change["change"] == "fired"
    said = str(change["message"])
    if not fired:
        minutes = (change["resolved_at"] - change["fired_at"]).total_seconds() / 60
        subject = (
            change["protocol"] if change["entity_id"] is None else f"{change['entity_type']} {change['entity_id']}"
        )
        said = f"{subject}: {change['alert']} is over after {minutes:,.0f} minutes, peak {change['peak_value']:,.1f}"
    return Text.assemble(
        change["at"].astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        "  ",
        (f"{change['change']:<8}", "red" if fired else "green"),
        f"  {change['severity']:<8}  {said}",
    )


def _terminate(_number: int, _frame: FrameType | None) -> None:
    sys.exit(_TERMINATED)


def _key(name: str) -> bytes:
    secret = os.environ.get(name)
    if secret is None:
        # The name may be the secret itself, given where everybody can read it.
        named = name if name.isidentifier() and not name.startswith("whsec_") else _SECRET
        raise ConfigurationError(
            f"a webhook needs a secret in the environment variable {named} (--secret names another variable): "
            'make one with echo "whsec_$(openssl rand -base64 32)"'
        )
    return key_of(secret)


def _complain(line: str) -> None:
    Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print(line)
