"""A database of the guide's original system, with rows that are hard to take over."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from elf_automations.storage.migrate import migrate

_FIXTURE = Path(__file__).parent / "fixtures" / "sql" / "original_schema.sql"
OLD = datetime(2020, 5, 17, 13, 45, 12, 345678, tzinfo=UTC)
ROW = UUID("11111111-1111-4111-8111-111111111111")
ENTITY = UUID("22222222-2222-4222-8222-222222222222")
LINE = UUID("33333333-3333-4333-8333-333333333333")
WORKFLOW = UUID("44444444-4444-4444-8444-444444444444")
BASE = "protocol, source_id, source_type, target_id, target_type, operation, status"
CALL = "'mcp', 'planner', 'team', 'files', 'mcp', 'tool_call', 'success'"

DATA = f"""
create table teams (id uuid primary key default gen_random_uuid(), name varchar(100));
create table mcps (id uuid primary key default gen_random_uuid(), name varchar(100));
insert into teams (name) values ('planner'), ('writer');
insert into mcps (name) values ('files');
create table notes (id int primary key, text text);
insert into notes values (1, 'mine');

insert into communication_telemetry values (
    '{ROW}', '{OLD}', 'n8n', 'planner', 'team', 'files', 'mcp', 'tool_call', 1234, 'timeout', 'read', 'io',
    repeat('a long task ', 20000), array['search', 'sum'], 'task_request', '{WORKFLOW}', 'Onboarding', 'HTTP Request',
    4096, 'gone', 'E42', 'corr-1', 'corr-0', 77, 1.2345, '{{"k": [1, {{"n": null}}]}}', '{OLD}'
);
insert into communication_telemetry ({BASE}, timestamp)
select {CALL}, now() - days * interval '1 day' from generate_series(0, 59) as days;
insert into communication_telemetry ({BASE}, timestamp) select {CALL}, now() + interval '90 days';
"""

HISTORY = f"""
insert into unified_registry values (
    '{ENTITY}', 'planner', 'team', 'Planner', 'The planner', '{OLD}', 'team_factory', 'factory', 'active', '{OLD}',
    'Critical', '{OLD}', 'http://planner:8080', 'prod', 'k8s', array['plan'], array['core'], '{{"llm": "gpt"}}', '1.2',
    '{OLD}', 'board', 'strategy', '{OLD}', 41, 3
);
insert into unified_registry (entity_id, entity_type, entity_name, registered_by, health_status, metadata)
values ('files', 'mcp_server', 'Files', 'mcp_factory', 'none', '{{}}'), ('n1', 'n8n_workflow', 'N', 'n8n', null, null),
    ('ok', 'service', 'OK', 'manual', 'Healthy', null);
insert into registry_state_transitions values
    ('{LINE}', 'planner', 'team', null, 'registered', null, 'born', 'factory', '{OLD}', '{{"a": 1}}');
insert into registry_state_transitions
    (entity_id, entity_type, from_state, to_state, health_status, transitioned_by, transitioned_at)
values ('planner', 'team', 'registered', 'active', 'healthy', 'factory', '{OLD}'::timestamptz + interval '1 day');
insert into registration_audit values
    ('{LINE}', 'planner', 'team', 'register', 'factory', '{OLD}', '{{"b": 2}}', false, 'refused'),
    (default, 'planner', 'team', 'decommissioned', 'ops', '{OLD}'::timestamptz + interval '1 day', null, true, null);
"""


def make(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in (_FIXTURE.read_text(encoding="utf-8"), *statements):
            connection.execute(statement.encode())


def rows_of(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def adopt(url: str) -> list[str]:
    told: list[str] = []
    migrate(url, on_warning=told.append)
    return told
