"""tests/pipeline/application.py as people start it, and what became of it in the database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

APPLICATION = Path(__file__).parent / "pipeline/application.py"


def application(rounds: int, *, complaint: str = "", **environment: str) -> dict[str, dict[str, int]]:
    """Let it work under `opentelemetry-instrument`, in a process of its own, and return what it saw of its calls.

    `complaint` is what it is to say on stderr.
    """
    said = {
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "otel,elf_entity",
        "ELF_ENTITY_ID": "planning-team",
        "ELF_ENTITY_TYPE": "team",
        "OTEL_SERVICE_NAME": "planner",
    }
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("opentelemetry-instrument")),
            sys.executable,
            str(APPLICATION),
            str(rounds),
        ],
        env={**os.environ, **said, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, complaint), done.stderr
    return json.loads(done.stdout)


def stored(url: str) -> list[dict[str, Any]]:
    """Return all rows by time."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute("select * from communication_telemetry order by timestamp").fetchall()
