"""`elf-telemetry n8n webhook` as people run it, on a port of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

COMMAND = str(Path(sys.executable).with_name("elf-telemetry"))


@dataclass(frozen=True, slots=True)
class Webhook:
    url: str
    process: subprocess.Popen[str]

    def post(self, told: Any, token: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.post(self.url, json=told, headers=headers, timeout=30, **more)


@contextmanager
def webhook(*options: str, environment: Mapping[str, str]) -> Iterator[Webhook]:
    port = () if "--port" in options else ("--port", "0")
    process = subprocess.Popen(
        [COMMAND, "n8n", "webhook", *port, *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stderr
        line = process.stderr.readline()
        found = re.match(r"n8n events on (\S+)", line)
        assert found, line + process.stderr.read()
        yield Webhook(found[1], process)
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()
