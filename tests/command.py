"""`elf-telemetry` as a process, and a registry for its commands to show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

COMMAND = str(Path(sys.executable).with_name("elf-telemetry"))

ENTITIES = """
insert into unified_registry (entity_id, entity_type, entity_name, current_state, health_status, last_activity)
values
    ('sales', 'team', 'Sales', 'active', 'healthy', now() - interval '1 minute'),
    ('support', 'team', 'Support', 'inactive', 'healthy', now() - interval '3 hours'),
    ('crm', 'mcp_server', 'CRM', 'active', 'degraded', null),
    ('old', 'service', 'Old', 'deleted', 'unknown', null)
"""

UNHEALTHY = """
update unified_registry set health_status = 'unhealthy', health_since = now() - interval '1 hour'
where entity_id = 'crm'
"""

HEALTHY = "update unified_registry set health_status = 'healthy' where entity_id = 'crm'"


def run(url: str, *arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [COMMAND, *arguments, "--database-url", url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environ},
    )
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    return done


def answer(url: str, *arguments: str, code: int = 0) -> dict[str, Any]:
    return json.loads(run(url, *arguments, "--json", code=code).stdout)


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def eventually(check: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def running(url: str, *arguments: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], list[str], list[str]]]:
    """A command that goes on: its process, and its lines on stdout and stderr as they come."""
    process = subprocess.Popen(
        [COMMAND, *arguments, "--database-url", url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
    out: list[str] = []
    err: list[str] = []
    readers = [
        threading.Thread(target=lambda stream=stream, lines=lines: lines.extend(iter(stream.readline, "")))
        for stream, lines in ((process.stdout, out), (process.stderr, err))
    ]
    for reader in readers:
        reader.start()
    try:
        yield process, out, err
    finally:
        process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        process.stderr.close()
