"""Query results as tables for people, or as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final, cast

import orjson
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]

_WIDTH: Final = 80
_STYLES: Final[Mapping[str, str]] = {
    "success": "green",
    "healthy": "green",
    "error": "red",
    "unhealthy": "red",
    "timeout": "yellow",
    "degraded": "yellow",
    "cancelled": "magenta",
}

MATRIX: Final = {
    "source_id": "source",
    "target_id": "target",
    "protocol": "protocol",
    "calls": "calls",
    "avg_ms": "avg ms",
    "errors": "errors",
}
CALLS: Final = {
    "timestamp": "at",
    "source_id": "source",
    "target_id": "target",
    "what": "what",
    "status": "status",
    "duration_ms": "ms",
}
REGISTRY: Final = {
    "entity_type": "type",
    "entity_id": "entity",
    "current_state": "state",
    "health_status": "health",
    "activity_count": "calls",
    "error_count": "errors",
    "last_activity": "last",
}
ALERTS: Final = {"severity": "severity", "alert": "alert", "message": "message"}
HEALTH: Final = {
    "protocol": "protocol",
    "total_requests_5min": "calls",
    "errors_5min": "errors",
    "error_rate": "error %",
    "p50": "p50 ms",
    "p95": "p95 ms",
    "p99": "p99 ms",
}
STATES: Final = {"entity_type": "type", "current_state": "state", "health_status": "health", "count": "entities"}
GAPS: Final = {"gap_type": "gap", "entity_identifier": "entity"}
PAIRS: Final = {
    "source_id": "source",
    "target_id": "target",
    "protocol": "protocol",
    "calls": "calls",
    "errors": "errors",
    "avg_ms": "avg ms",
    "tokens": "tokens",
    "cost": "cost $",
}
ENTITIES: Final = {
    "entity_type": "type",
    "entity_name": "entity",
    "current_state": "state",
    "health_status": "health",
    "last_heard": "last heard of",
}
METRICS: Final = {
    "protocol": "protocol",
    "calls": "calls",
    "per_minute": "calls/min",
    "error_rate": "error %",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
}
_AGES: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def table(title: str, rows: Sequence[Row], columns: Mapping[str, str]) -> Table | Text:
    """Return `rows` as a table of the `columns` (name → heading), or a line that says there are none."""
    if not rows:
        return Text.assemble((title, "bold"), "\n  none\n")
    drawn = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    for name, heading in columns.items():
        numeric = any(isinstance(row.get(name), int | float | Decimal) for row in rows)
        drawn.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(row.get(name)) for name in columns))
    return drawn


def with_what(rows: Sequence[Row]) -> list[Row]:
    """Return calls with a column `what`: the tool, the workflow's node, else the operation."""
    return [{**row, "what": row["tool_name"] or row["workflow_node"] or row["operation"]} for row in rows]


def with_ages(rows: Sequence[Row]) -> list[Row]:
    """Return entities with a column `last_heard`: how long ago the last activity was, as "3 h ago"."""
    return [{**row, "last_heard": _age(row["seconds_since_activity"])} for row in rows]


def as_json(value: object) -> str:
    """Return `value` as one line of JSON; numbers of the database keep their value, times are ISO 8601."""
    return orjson.dumps(value, default=_plain).decode()


def _age(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    unit, size = next((entry for entry in _AGES if seconds >= entry[1]), _AGES[-1])
    return f"{max(seconds, 0) / size:.0f} {unit} ago"


def _cell(value: object) -> Text:
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%H:%M:%S"))
    if isinstance(value, Decimal):
        return Text(f"{value:,.4f}")
    if isinstance(value, float):
        return Text(f"{value:,.1f}")
    if isinstance(value, list):
        return Text(", ".join(str(item) for item in cast("list[object]", value)))
    text = str(value)
    return Text(text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…", style=_STYLES.get(text, ""))


def _plain(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else str(value)
