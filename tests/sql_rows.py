"""Rows as a client sends them to the SQL functions: one call of one trace, all but its span as given or as usual."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import psycopg
from psycopg.types.json import Jsonb

from asking import value

_TRACE = "0af7651916cd43dd8448eb211c80319c"


def sql_row(span: str, **columns: object) -> dict[str, object]:
    return {
        "timestamp": columns.pop("timestamp", datetime.now(UTC).isoformat()),
        "protocol": "mcp",
        "source_id": "sales",
        "source_type": "team",
        "target_id": "crm",
        "target_type": "mcp",
        "operation": "tool_call",
        "status": "success",
        "tool_name": "find",
        "trace_id": _TRACE,
        "span_id": span * 16,
        "observed_by": "client",
        **columns,
    }


def ingest(connection: psycopg.Connection[Any], *rows: object) -> dict[str, Any]:
    answer = value(connection, "select ingest_communication_telemetry(p_batch => %s)", Jsonb(list(rows)))
    return cast("dict[str, Any]", answer)
