"""An OpenTelemetry Collector as people run it: the binary of `make collector`, a process of its own.

at = free_address()
with collector("agent.yaml", health=at, log=tmp_path / "agent.log", ELF_AGENT_HEALTH=at, …) as agent:
    agent.kill()    # kill -9
    agent.start()   # again, same configuration, same folder
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx

from spans import eventually

ROOT = Path(__file__).parents[1]
CONFIGURATIONS = ROOT / "collector-config"
# Read now: every test begins without the variables of this project.
_NAMED = {name: value for name, value in os.environ.items() if name.startswith("ELF_TEST_")}


@cache
def collector_binary() -> Path:
    """Return the Collector of ELF_TEST_COLLECTOR, else that of `make collector`, built when it is not there."""
    return built("ELF_TEST_COLLECTOR", ROOT / "build/collector/otelcol-elf", "collector")


def built(variable: str, program: Path, target: str) -> Path:
    """Return the program `variable` names, else `program`, which `make target` builds where it is missing or old."""
    chosen = _NAMED.get(variable)
    if chosen:
        assert Path(chosen).is_file(), f"{variable}={chosen} is no program"
        return Path(chosen)
    made = subprocess.run(["make", "-C", str(ROOT), target], capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"make {target} failed:\n{made.stdout}{made.stderr}"
    return program


def free_address() -> str:
    """Return a loopback HOST:PORT nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@dataclass(slots=True)
class Collector:
    """A Collector that can be killed and started again; it stays the same Collector on the same ports."""

    config: Path
    health: str
    """host:port of its health_check extension; anything else in `config` comes from `environment`."""
    log: Path
    """What it prints, all its lives one after the other."""
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *, within: float = 60) -> None:
        """Start it and wait until all its pipelines run."""
        assert self.process is None or self.process.poll() is not None, "it is running"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(collector_binary()), "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        eventually(self._healthy, within=within)

    def kill(self) -> None:
        """Let it end without a word (kill -9)."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Let it end in good order (SIGTERM) and return its exit status; it may be started again."""
        return self._end(signal.SIGTERM)

    def said(self) -> str:
        """Return everything it has printed."""
        return self.log.read_text(errors="replace")

    def _end(self, number: int) -> int:
        assert self.process is not None, "it never ran"
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            raise AssertionError(f"the Collector did not end within a minute:\n{self.said()[-2000:]}") from None

    def _healthy(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (
            f"the Collector ended with {self.process.returncode}:\n{self.said()[-3000:]}"
        )
        try:
            return httpx.get(f"http://{self.health}/").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


@contextmanager
def collector(config: str | Path, *, health: str, log: Path, **environment: str) -> Iterator[Collector]:
    """Run a Collector for the body.

    `config` is a path, or the name of a file in collector-config/. `health` is the host:port where its health_check
    extension listens, which `environment` has to tell it by the variable of that configuration.
    """
    running = Collector(CONFIGURATIONS / config, health, log, environment)
    running.start()
    try:
        yield running
    finally:
        if running.process is not None and running.process.poll() is None:
            running.stop()


def validated(config: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Return what `otelcol-elf validate` says of a configuration; exit status 0 when it could run."""
    return subprocess.run(
        [str(collector_binary()), "validate", "--config", str(CONFIGURATIONS / config)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **environment},
    )
