"""A sink as people run it: `elf-telemetry sink`, a process of its own on ports of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sink:
    """Where it listens, and its process."""

    url: str
    """Of OTLP/HTTP, up to the path."""
    grpc: str
    """host:port of OTLP/gRPC."""
    process: subprocess.Popen[str]

    @property
    def traces(self) -> str:
        return f"{self.url}/v1/traces"

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@contextmanager
def sink(database_url: str, *options: str, environment: Mapping[str, str] | None = None) -> Iterator[Sink]:
    """Run a sink before `database_url` for the body; its log is on the test's stderr."""
    ports = {"--http": "127.0.0.1:0", "--grpc": "127.0.0.1:0"}
    for name in ports:
        if name in options:
            ports[name] = options[options.index(name) + 1]
    command = [str(Path(sys.executable).with_name("elf-telemetry")), "sink", "--database-url", database_url, *options]
    for name, at in ports.items():
        if name not in options:
            command += [name, at]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})})
    try:
        assert process.stderr
        found = {}
        while len(found) < sum(at != "off" for at in ports.values()):
            line = process.stderr.readline()
            assert line, f"the sink ended with {process.wait(5)}"
            if match := re.match(r"OTLP/HTTP on (\S+)/v1/traces", line):
                found["http"] = match[1]
            elif match := re.match(r"OTLP/gRPC on (\S+)", line):
                found["grpc"] = match[1]
        yield Sink(found.get("http", ""), found.get("grpc", ""), process)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        if process.stderr:
            sys.stderr.write(process.stderr.read())
            process.stderr.close()
