"""Everything around n8n: three databases, a sink, two webhooks, a service, an A2A team, a team that acts.

One n8n serves all sources of executions at once, so the very same executions are compared: its OTLP goes into the
database `otlp`, its hooks' events into `events` (and, for the registry alone, into the other two), its API into `api`.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from psycopg.rows import dict_row
from service import fan_out, obedient

from command import COMMAND, running
from elf_automations import inject_context
from elf_automations.storage.migrate import migrate
from elf_exporters import CommunicationSpanProcessor, CommunicationTelemetryExporter
from sink_process import sink

SOURCES = ("otlp", "events", "api")
TEAM, ACTING = "proposal-team", "ops-team"

_ROWS = """
select operation, workflow_id, workflow_name, workflow_node, source_type, source_id, target_type, target_id, status,
    error_message, error_code, timestamp, duration_ms, counted, trace_id, metadata ->> 'execution_id' as execution_id,
    metadata ->> 'execution_mode' as execution_mode, metadata ->> 'project_id' as project_id,
    metadata ->> 'node_type' as node_type,
    metadata ->> 'retry_of' as retry_of, metadata ->> 'parent_execution_id' as parent_execution_id,
    metadata -> 'soft_error' is not null as soft_error
from communication_telemetry where protocol = 'n8n' and counted order by timestamp, operation
"""


@dataclass(frozen=True, slots=True)
class World:
    databases: Mapping[str, str]
    otlp: str
    """Where n8n exports its spans."""
    hook: str
    """Where n8n's hooks post."""
    service: str
    teams: TracerProvider
    """Makes the spans of the A2A team."""
    tracer: trace.Tracer
    """Of the acting team."""

    def rows(self, source: str) -> list[dict[str, Any]]:
        """The counted n8n rows of one source, with what comes late settled."""
        with psycopg.connect(self.databases[source], autocommit=True, row_factory=dict_row) as connection:
            connection.execute("select settle_communications_if_due(true)")
            return connection.execute(_ROWS).fetchall()

    def team_calls(self, source: str, trace_id: str) -> list[dict[str, Any]]:
        """The A2A rows of a trace, whoever counts."""
        query = "select * from communication_telemetry where protocol = 'a2a' and trace_id = %s"
        with psycopg.connect(self.databases[source], autocommit=True, row_factory=dict_row) as connection:
            return connection.execute(query, [trace_id]).fetchall()

    def registry(self, source: str) -> dict[str, dict[str, Any]]:
        with psycopg.connect(self.databases[source], autocommit=True, row_factory=dict_row) as connection:
            found = connection.execute("select * from unified_registry where entity_type = 'n8n_workflow'").fetchall()
        return {row["entity_id"]: row for row in found}

    def as_acting_team(self) -> tuple[dict[str, str], str]:
        """The headers of a call that the acting team makes, and its trace id as hex."""
        with self.tracer.start_as_current_span("decides") as span:
            return inject_context({}), f"{span.get_span_context().trace_id:032x}"


def sync(world: World, n8n_url: str, key: str, *options: str) -> None:
    """Fetch what n8n's API knows into the database `api`."""
    done = subprocess.run(
        [COMMAND, "n8n", "sync", "--url", n8n_url, "--database-url", world.databases["api"], *options],
        env={**_plain_environment(), "ELF_N8N_API_KEY": key, "ELF_N8N_EXECUTIONS": "api"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"n8n sync: {done.stdout[-1000:]}{done.stderr[-2000:]}"


def can_sync() -> bool:
    return subprocess.run([COMMAND, "n8n", "sync", "--help"], capture_output=True, check=False).returncode == 0


@contextmanager
def around_n8n(server: str) -> Iterator[World]:
    """Run all of it before the PostgreSQL at `server`."""
    with ExitStack() as stack:
        databases = {source: _database(server, f"e2e_{source}") for source in SOURCES}
        receiver = stack.enter_context(sink(databases["otlp"], "--grpc", "off"))
        hooks = [stack.enter_context(_webhook(databases[source], source)) for source in SOURCES]
        teams = _provider(TEAM)
        for url in databases.values():
            exporter = CommunicationTelemetryExporter(database_url=url, linger_seconds=0.2)
            teams.add_span_processor(CommunicationSpanProcessor(exporter))
        stack.callback(teams.shutdown)
        yield World(
            databases,
            receiver.url,
            stack.enter_context(fan_out(*hooks)),
            stack.enter_context(obedient()),
            teams,
            _provider(ACTING).get_tracer("e2e"),
        )


@contextmanager
def _webhook(url: str, source: str) -> Iterator[str]:
    with running(url, "n8n", "webhook", "--port", "0", ELF_N8N_EXECUTIONS=source) as (process, _out, err):
        while True:
            assert process.poll() is None, "\n".join(err)
            for line in list(err):
                if found := re.match(r"n8n events on (\S+)", line):
                    yield found[1]
                    process.terminate()
                    process.wait(20)
                    return


def _provider(team: str) -> TracerProvider:
    return TracerProvider(resource=Resource({"service.name": team, "elf.entity.id": team, "elf.entity.type": "team"}))


def _database(server: str, name: str) -> str:
    from psycopg.conninfo import conninfo_to_dict

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    had = conninfo_to_dict(server)
    url = f"postgresql://{had['user']}@/{name}?host={had['host']}&port={had.get('port', 5432)}"
    migrate(url)
    return url


def _plain_environment() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith(("ELF_", "OTEL_", "SUPABASE_"))}
