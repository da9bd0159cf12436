"""`elf-telemetry status`: is everyone alive, what fails, how fast is it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import typer
from rich.console import Console

from elf_automations.cli import tables
from elf_automations.cli.tables import Json, as_json, table
from elf_automations.cli.target import DatabaseUrl, postgres_url
from elf_automations.storage.connection import connect, shown
from elf_automations.storage.queries import fetch

_SECTIONS: Final[Mapping[str, tuple[str, str, Mapping[str, str]]]] = {
    "health": ("system_health", "Last 5 minutes", tables.HEALTH),
    "entities": ("entity_state", "Entities", tables.STATES),
    "alerts": ("active_alerts", "Alerts", tables.ALERTS),
    "gaps": ("registration_gaps", "Registration gaps", tables.GAPS),
}
# The guide's "Key Metrics to Track".
_METRICS: Final = ("request_volume", "error_rates", "latency", "entity_health_share")
_METRICS_MINUTES: Final = 60

Rows = list[dict[str, Any]]


def status(database_url: DatabaseUrl = None, json: Json = False) -> None:
    """Show calls, errors and latency by protocol, the state of the entities, alerts and registration gaps."""
    url = postgres_url(database_url)
    with connect(url) as connection:
        found: dict[str, Rows] = {key: fetch(connection, query) for key, (query, _, _) in _SECTIONS.items()}
        metrics = {name: fetch(connection, name, since=f"{_METRICS_MINUTES} minutes") for name in _METRICS}
    if json:
        typer.echo(as_json({"database_url": shown(url), **found, "metrics": metrics}))
        return
    console = Console()
    console.print(table("Key metrics, last hour", _by_protocol(metrics), tables.METRICS))
    console.print(_health_line(metrics["entity_health_share"][0]), highlight=False)
    for key, (_, title, columns) in _SECTIONS.items():
        console.print(table(title, found[key], columns))


def _by_protocol(metrics: Mapping[str, Rows]) -> Rows:
    """Return volume, error rate and latency as one row a protocol."""
    latency = {row["protocol"]: row for row in metrics["latency"]}
    return [
        {**row, **latency.get(row["protocol"], {}), "per_minute": row["calls"] / _METRICS_MINUTES}
        for row in metrics["error_rates"]
    ]


def _health_line(share: Mapping[str, Any]) -> str:
    if not share["entities"]:
        return "No entities are registered.\n"
    return f"{share['healthy']} of {share['entities']} entities are healthy ({share['healthy_percent']:.0f} %).\n"
