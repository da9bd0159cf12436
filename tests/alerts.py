"""The few statements tests of alerts speak in."""

from __future__ import annotations

from typing import Any

import psycopg

_CALLS = """
insert into communication_telemetry
    (timestamp, protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms)
select
    now() - %s::interval, %s, %s, 'team', %s, 'mcp', 'tool_call', case when n <= %s then 'error' else 'success' end, %s
from generate_series(1, %s) as call (n)
"""

UNHEALTHY = """
insert into unified_registry
    (entity_id, entity_type, entity_name, current_state, health_status, health_since, last_activity)
values (%s, 'mcp_server', %s, 'active', 'unhealthy', now() - %s * interval '1 minute', now())
"""


class Db:
    """One connection and the few statements these tests speak in."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection

    def run(self, statement: str, *parameters: object) -> None:
        self.connection.execute(statement.encode(), parameters or None)

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), parameters or None).fetchall()

    def calls(
        self, count: int, errors: int = 0, *, ms: float = 10, ago: str = "1 minute", protocol: str = "mcp",
        source: str = "sales", target: str = "crm",
    ) -> None:  # fmt: skip
        self.run(_CALLS, ago, protocol, source, target, errors, ms, count)

    def rule(self, name: str, alert: str, threshold: float, **scope: object) -> None:
        columns = {"name": name, "alert": alert, "threshold": threshold, "resolve_threshold": threshold, **scope}
        self.run(
            f"insert into alert_rules ({', '.join(columns)}) values ({', '.join(['%s'] * len(columns))})",
            *columns.values(),
        )

    def active(self) -> set[tuple[Any, ...]]:
        return set(self.rows("select alert, protocol, entity_id, value, threshold from active_alerts()"))

    def changed(self) -> list[tuple[str, str, str | None]]:
        found = self.rows("select alert, resolved_at, coalesce(entity_id, protocol) from evaluate_alerts()")
        return [(alert, "fired" if resolved is None else "resolved", subject) for alert, resolved, subject in found]
