"""The same execution by two sources: every column of its rows, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

# What an execution is, whoever tells of it; ids and traces of spans are n8n's own in OTLP, derived elsewhere.
_SAME = (
    "operation", "workflow_id", "workflow_name", "workflow_node", "source_type", "source_id", "target_type",
    "target_id", "status", "error_message", "error_code", "execution_id", "execution_mode", "retry_of",
    "parent_execution_id", "project_id", "node_type",
)  # fmt: skip
_FREE_MS = 1000.0
"""How far times may be apart: n8n begins and ends its spans elsewhere than its records, far apart on a busy machine."""


def differences(
    otlp: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], *, excused: frozenset[str]
) -> list[str]:
    """One line for each column that differs in a row that both have, but the `excused` columns."""
    lines: list[str] = []
    mine = {_key(row): row for row in other}
    for row in otlp:
        same = mine.get(_key(row))
        if same is None:
            continue
        what = row["workflow_node"] or "execution"
        lines += [
            f"{what}: {column} {row[column]!r} in OTLP, {same[column]!r} here"
            for column in _SAME
            if column not in excused and row[column] != same[column]
        ]
        lines += [
            f"{what}: {column} is {apart:.0f} ms apart"
            for column, apart in (("timestamp", _apart(row, same)), ("duration_ms", _longer(row, same)))
            if column not in excused and apart > _FREE_MS
        ]
    return lines


def _key(row: Mapping[str, Any]) -> tuple[str, str | None]:
    return row["execution_id"], row["workflow_node"]


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    began, other_began = one["timestamp"], other["timestamp"]
    assert isinstance(began, datetime)
    return abs((began - other_began).total_seconds()) * 1000


def _longer(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return abs((one["duration_ms"] or 0) - (other["duration_ms"] or 0))
