"""The processes of one sink end with the one that watches over them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx

from sink_process import sink
from spans import eventually


def test_workers_end_when_the_process_that_watches_over_them_is_killed(database_url: str) -> None:
    """Otherwise they would go on with nobody to end or replace them, beside those of the next start."""
    with sink(database_url, "--grpc", "off", "--workers", "2") as running:
        found = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(running.process.pid)], capture_output=True, text=True, check=True
        )
        children = [Path(f"/proc/{line.strip()}") for line in found.stdout.splitlines()]
        assert httpx.get(f"{running.url}/healthz").status_code == 200
        running.process.kill()
        running.process.wait()
        eventually(lambda: not any(child.exists() for child in children), within=30)
