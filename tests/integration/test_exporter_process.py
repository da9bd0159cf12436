"""Whole processes: zero-code start-up, exit without a flush, and no trace at all without a database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

SCRIPT = """
from opentelemetry import trace

tracer = trace.get_tracer("my-agent")
with tracer.start_as_current_span(
    "tools/call add", kind=trace.SpanKind.CLIENT,
    attributes={"mcp.method.name": "tools/call", "gen_ai.tool.name": "add", "elf.target.id": "calculator"},
):
    print("3")
"""


def run(tmp_path: Path, *, instrumented: bool = True, **settings: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "agent.py"
    script.write_text(SCRIPT, encoding="utf-8")
    start = [str(Path(sys.executable).with_name("opentelemetry-instrument"))] if instrumented else []
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environ = {**kept, "HOME": str(tmp_path), **settings}
    return subprocess.run(
        [*start, sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
        env=environ,
    )


ZERO_CODE = {
    "OTEL_TRACES_EXPORTER": "communication_telemetry",
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_SERVICE_NAME": "my-agent",
    # Only the exporter is under test here.
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*",
}


def test_zero_code_start_up_stores_the_row_at_exit(tmp_path: Path, database_url: str) -> None:
    ended = run(tmp_path, ELF_DATABASE_URL=database_url, **ZERO_CODE)
    assert (ended.stdout, ended.stderr) == ("3\n", "")
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT source_id, target_id, tool_name FROM communication_telemetry").fetchall()
    assert found == [("my-agent", "calculator", "add")]


def test_without_a_database_the_program_is_as_it_was(tmp_path: Path) -> None:
    plain = run(tmp_path, instrumented=False)
    ours = run(tmp_path, **ZERO_CODE)
    assert (ours.stdout, ours.stderr) == (plain.stdout, plain.stderr) == ("3\n", "")


@pytest.mark.parametrize("setting", ["ELF_TELEMETRY_ENABLED=false", "OTEL_SDK_DISABLED=true"])
def test_switched_off_it_is_silent_and_stores_nothing(tmp_path: Path, database_url: str, setting: str) -> None:
    name, _, value = setting.partition("=")
    ended = run(tmp_path, ELF_DATABASE_URL=database_url, **ZERO_CODE, **{name: value})
    assert (ended.stdout, ended.stderr) == ("3\n", "")
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM communication_telemetry").fetchone() == (0,)


def test_a_malformed_url_is_one_clear_line_and_the_program_runs(tmp_path: Path) -> None:
    ended = run(tmp_path, ELF_DATABASE_URL="mysql://u:hunter2@h/db", **ZERO_CODE)
    assert ended.stdout == "3\n"
    (line,) = ended.stderr.splitlines()
    assert "ELF_DATABASE_URL is not a Postgres URL" in line
    assert "hunter2" not in line


def test_an_unreachable_database_delays_the_exit_no_longer_than_its_bound(tmp_path: Path) -> None:
    ended = run(tmp_path, ELF_DATABASE_URL="postgresql://u@127.0.0.1:1/db", **ZERO_CODE)
    assert ended.stdout == "3\n"
    assert len(ended.stderr.splitlines()) <= 2
    assert "Traceback" not in ended.stderr
