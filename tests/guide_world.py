"""Known calls and entities, and one transaction over them: what the SQL of the guide is tried on."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import dict_row

CALLS = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation,
    duration_ms, status, tokens_used, estimated_cost, observed_by, counted
)
select
    now() - ago::interval, protocol, source_id, source_type, target_id, target_type, operation,
    duration_ms, status, tokens_used, estimated_cost, observed_by, counted
from (values
    ('1 minute', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 10, 'success', 5, 0.25, 'client', true),
    ('1 minute', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 9, 'success', null, null, 'server', false),
    ('2 minutes', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 20, 'error', 7, 0.5, 'client', true),
    ('3 minutes', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 30, 'timeout', null, null, 'client', true),
    ('4 minutes', 'mcp', 'support', 'team', 'crm', 'mcp', 'tool_call', 100, 'cancelled', null, null, 'client', true),
    ('10 minutes', 'a2a', 'sales', 'team', 'support', 'team', 'send_task', null, 'success', null, null, 'client', true),
    ('3 hours', 'n8n', 'wf_001', 'workflow', 'mail', 'external', 'step', 40, 'success', null, null, 'client', true),
    ('30 hours', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 50, 'success', null, null, 'client', true),
    ('8 days', 'mcp', 'sales', 'team', 'crm', 'mcp', 'tool_call', 9999, 'success', null, null, 'client', true)
) as call (
    ago, protocol, source_id, source_type, target_id, target_type, operation,
    duration_ms, status, tokens_used, estimated_cost, observed_by, counted
)
"""

ENTITIES = """
insert into unified_registry (
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status,
    last_activity, last_health_check, registered_at, last_updated
)
select
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status,
    now() - active_ago::interval, now() - checked_ago::interval, now() - interval '30 days',
    now() - updated_ago::interval
from (values
    ('board', 'team', 'Board', null, 'head', 'active', 'healthy', '2 minutes', '1 hour', '1 hour'),
    ('sales', 'team', 'Sales', 'board', 'front', 'active', 'healthy', '1 minute', '1 hour', '1 hour'),
    ('crm', 'mcp_server', 'CRM', 'sales', null, 'active', 'unhealthy', '1 minute', '25 hours', '1 hour'),
    ('left', 'service', 'Left', 'right', null, 'active', 'unknown', '9 days', null, '8 days'),
    ('right', 'service', 'Right', 'left', null, 'deleted', 'unknown', null, null, '8 days')
) as entity (
    entity_id, entity_type, entity_name, parent_entity_id, department, current_state, health_status,
    active_ago, checked_ago, updated_ago
)
"""


class World:
    """One transaction over known rows."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self._cursor = connection.cursor(row_factory=dict_row)
        self.now = self.rows("select now() as now")[0]["now"]

    def rows(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        return self._cursor.execute(statement.encode(), parameters or None).fetchall()

    def run(self, statements: str) -> None:
        self._cursor.execute(statements.encode())

    def ago(self, span: str) -> datetime:
        found = self.rows("select now() - %s::interval as at", span)[0]["at"]
        assert isinstance(found, datetime)
        return found
