"""Spans through the whole pipeline while its parts are killed: what was sent, what is stored, what is there twice.

telemetrygen and our SDK → agent.yaml → gateway.yaml → `elf-telemetry sink` → PostgreSQL, a sample → Jaeger.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from collector_process import ROOT, built, free_address
from collector_tiers import Tier, agent, gateway
from elf_automations.storage.migrate import migrate
from jaeger_process import jaeger
from own_postgres import own_postgres
from sink_process import Sink, sink
from spans import eventually

SENDER = Path(__file__).parent / "loss_sender.py"
WORKERS, SPANS_A_TRACE = 4, 2
PATIENCE = 600.0
"""Seconds the pipeline has to store what waits, once everything is back."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The books of one run."""

    sent: int
    """Spans the senders were told had arrived."""
    stored: int
    """Different spans in the table."""
    lost: int
    doubled: int
    """Rows beyond one a span."""
    calls: int
    """What was called: a client's span and its server's are one call."""
    counted: int
    """Rows that count as calls."""
    rolled_up: int
    """Calls the dashboards show."""
    sink_kills: int
    gateway_kills: int
    database_restarts: int
    in_backend: int
    """Traces the backend keeps of it, a sample."""
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether every call is there once."""
        return (self.lost, self.doubled) == (0, 0) and self.calls == self.counted == self.rolled_up


def run(folder: Path, spans: int, kills: int, *, together: int = 2000, tell: Callable[[str], object] = print) -> Loss:
    """Send `spans` spans, half by telemetrygen and half by our SDK, and kill the sink `kills` times meanwhile.

    Half way the gateway is killed too and the database restarted. `together` is how many spans our SDK exports at once.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        server, url = stack.enter_context(own_postgres())
        migrate(url)
        backend = stack.enter_context(jaeger(folder / "jaeger.log"))
        at = free_address()
        tier = stack.enter_context(gateway(folder, f"http://{at}", backend.grpc, ELF_BACKEND_WAIT="2s"))
        beside = stack.enter_context(agent(folder, tier.http))
        senders = _Senders(beside, spans, together)
        running = _start(url, at, stack)
        stack.callback(senders.end)
        for number in range(1, kills + 1):
            mark = spans * number // (kills + 1)
            eventually(lambda mark=mark: _rows(url) >= mark, within=PATIENCE)
            running.process.kill()
            running.process.wait()
            running = _start(url, at, stack)
            tell(f"  {_rows(url):>7} rows: the sink was killed, {number} of {kills}")
            if number == (kills + 1) // 2:
                server.stop()
                tier.collector.kill()
                tell("          the database was stopped under the sink, and the gateway killed")
                tier.collector.start()
                server.start()
        ids = senders.wait()
        telemetrygen = senders.generated
        sent = len(ids) + telemetrygen
        eventually(lambda: _rows(url) >= sent and beside.waiting == tier.waiting == 0, within=PATIENCE)
        return _books(url, ids, telemetrygen, kills, len(backend.trace_ids("sender")), time.monotonic() - began)


class _Senders:
    """telemetrygen, and our SDK in a process of its own."""

    def __init__(self, to: Tier, spans: int, together: int) -> None:
        traces = spans // 2 // SPANS_A_TRACE // WORKERS
        self.generated = traces * WORKERS * SPANS_A_TRACE
        program = built("ELF_TEST_TELEMETRYGEN", ROOT / "build/telemetrygen/telemetrygen", "telemetrygen")
        told = {
            "--otlp-endpoint": to.grpc,
            "--traces": str(traces),
            "--workers": str(WORKERS),
            "--child-spans": str(SPANS_A_TRACE - 1),
            "--rate": "0",
            "--batch": "false",  # its own queue drops what it has no room for
            "--timeout": "60s",
        }
        attributes = ('mcp.method.name="tools/call"', 'gen_ai.tool.name="search"', 'elf.target.id="search-server"')
        said = [part for each in attributes for part in ("--telemetry-attributes", each)]
        who = [
            part for each in ('id="load-team"', 'type="team"') for part in ("--otlp-attributes", f"elf.entity.{each}")
        ]
        options = [f"{name}={value}" for name, value in told.items()]
        self._generator = subprocess.Popen(
            [str(program), "traces", "--otlp-insecure", *options, *said, *who],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._sdk = subprocess.Popen(
            [sys.executable, str(SENDER), to.http, str(spans - self.generated), str(together)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said: dict[str, Any] = {}
        self._readers = [
            threading.Thread(target=lambda: self._said.update(generator=self._generator.communicate())),
            threading.Thread(target=lambda: self._said.update(sdk=self._sdk.communicate())),
        ]
        for reader in self._readers:
            reader.start()

    def wait(self) -> list[str]:
        """Return the ids of our SDK's spans when both have ended and all they sent was taken."""
        for reader in self._readers:
            reader.join(PATIENCE)
        ids, complaints = self._said["sdk"]
        assert (self._sdk.returncode, complaints) == (0, ""), complaints[-2000:]
        assert self._generator.returncode == 0, self._said["generator"][0][-2000:]
        return ids.split()

    def end(self) -> None:
        for process in (self._generator, self._sdk):
            if process.poll() is None:
                process.kill()
        for reader in self._readers:
            reader.join(30)


def _start(url: str, at: str, stack: ExitStack) -> Sink:
    return stack.enter_context(sink(url, "--http", at, "--grpc", "off"))


def _rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        return connection.execute("select count(*) from communication_telemetry").fetchone()[0]


def _books(url: str, ids: list[str], generated: int, kills: int, in_backend: int, seconds: float) -> Loss:
    with psycopg.connect(url) as connection:
        connection.execute("select maintain_telemetry()")
        found = connection.execute(
            "select count(*), count(distinct (trace_id, span_id)), count(*) filter (where counted), "
            "count(*) filter (where service_name = 'sender' and span_id = any(%s)), "
            "count(distinct (trace_id, span_id)) filter (where service_name = 'telemetrygen') "
            "from communication_telemetry",
            [ids],
        ).fetchone()
        rows, different, counted, ours, theirs = found
        (rolled_up,) = connection.execute("select sum(total_calls) from communication_patterns").fetchone()
    return Loss(
        sent=len(ids) + generated,
        stored=different,
        lost=len(ids) + generated - ours - theirs,
        doubled=rows - different,
        calls=len(ids) + generated // SPANS_A_TRACE,
        counted=counted,
        rolled_up=int(rolled_up),
        sink_kills=kills,
        gateway_kills=1,
        database_restarts=1,
        in_backend=in_backend,
        seconds=seconds,
    )
