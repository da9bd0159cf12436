"""`opentelemetry-instrument` alone, without a line of code, makes rows; without a database it changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from elf_automations.storage.connection import connect

TESTS = Path(__file__).parents[1]
APPLICATION = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from mcp import Client
from mcp_server import weather_tools

async def main():
    async with Client(weather_tools(), mode="legacy") as client:
        print((await client.call_tool("get_weather", {{"city": "Oslo"}})).content[0].text)
        print((await client.call_tool("broken", {{"city": "Oslo"}})).is_error)

asyncio.run(main())
"""
ANSWER = "sunny in Oslo\nTrue\n"


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    scrubbed = {
        name: value for name, value in os.environ.items() if not name.startswith(("ELF_", "OTEL_", "SUPABASE_", "PG"))
    }
    return subprocess.run(
        [*arguments, "-c", APPLICATION.format(tests=str(TESTS))],
        env={**scrubbed, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


AUTO = [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable]
EXPORT = {
    "OTEL_TRACES_EXPORTER": "communication_telemetry",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,elf_entity",
}


def test_an_unchanged_application_becomes_rows(database_url):
    done = run(AUTO, **EXPORT, ELF_DATABASE_URL=database_url, ELF_ENTITY_ID="planner", ELF_ENTITY_TYPE="team")
    assert (done.stdout, done.stderr) == (ANSWER, "")
    with connect(database_url) as connection:
        rows = connection.execute(
            "SELECT source_id, source_type, target_id, tool_name, status, observed_by "
            "FROM communication_telemetry WHERE counted ORDER BY timestamp"
        ).fetchall()
        entities = connection.execute(
            "SELECT entity_id, entity_type, activity_count, error_count FROM unified_registry ORDER BY entity_id"
        ).fetchall()
    assert rows == [
        ("planner", "team", "weather-tools", "get_weather", "success", "client"),
        ("planner", "team", "weather-tools", "broken", "error", "client"),
    ]
    assert entities == [("planner", "team", 2, 1), ("weather-tools", "mcp_server", 2, 1)]


@pytest.mark.parametrize(
    "environment",
    [{}, {"ELF_TELEMETRY_ENABLED": "false", "ELF_DATABASE_URL": "postgresql://127.0.0.1:1/x"}],
    ids=["no database", "switched off"],
)
def test_without_a_database_the_application_prints_what_it_always_printed(environment):
    plain = run([sys.executable])
    done = run(AUTO, **EXPORT, **environment)
    assert (done.stdout, done.stderr) == (plain.stdout, plain.stderr) == (ANSWER, "")
