"""A Jaeger as people run it: the binary of `make jaeger` with collector-config/backends/jaeger.yaml."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from collector_process import CONFIGURATIONS, ROOT, built, free_address
from spans import eventually

JAEGER_CONFIGURATION = CONFIGURATIONS / "backends/jaeger.yaml"


@cache
def jaeger_binary() -> Path:
    """Return the Jaeger of ELF_TEST_JAEGER, else that of `make jaeger`, built when it is not there."""
    return built("ELF_TEST_JAEGER", ROOT / "build/jaeger/jaeger", "jaeger")


@dataclass(frozen=True, slots=True)
class Jaeger:
    """Where it takes spans, and what it knows."""

    grpc: str
    """host:port of OTLP/gRPC."""
    url: str
    """Of its API and pages."""

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """Return the spans of a trace as /api/traces tells them; empty when it does not know the trace."""
        answer = httpx.get(f"{self.url}/api/traces/{trace_id}")
        if answer.status_code == httpx.codes.NOT_FOUND:
            return []
        return answer.raise_for_status().json()["data"][0]["spans"]

    def trace_ids(self, service: str, limit: int = 10_000) -> set[str]:
        """Return the traces in which a service took part."""
        answer = httpx.get(f"{self.url}/api/traces", params={"service": service, "limit": limit, "lookback": "1h"})
        return {trace["traceID"] for trace in answer.raise_for_status().json()["data"] or ()}

    def services(self) -> set[str]:
        return set(httpx.get(f"{self.url}/api/services").raise_for_status().json()["data"] or ())


def tags(span: dict[str, Any]) -> dict[str, Any]:
    """Return a span's attributes as Jaeger's API has them."""
    return {tag["key"]: tag["value"] for tag in span["tags"]}


@contextmanager
def jaeger(log: Path) -> Iterator[Jaeger]:
    """Run a Jaeger for the body; what it prints goes to `log`."""
    grpc, ui, ui_grpc, health = (free_address() for _ in range(4))
    places = {"JAEGER_OTLP_GRPC": grpc, "JAEGER_UI": ui, "JAEGER_UI_GRPC": ui_grpc, "JAEGER_HEALTH": health}
    command = [str(jaeger_binary()), "--config", str(JAEGER_CONFIGURATION)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **places})

    def ready() -> bool:
        ended = process.poll()
        assert ended is None, f"Jaeger ended with {ended}:\n{log.read_text(errors='replace')[-3000:]}"
        try:
            return all(httpx.get(f"http://{at}").status_code == httpx.codes.OK for at in (f"{health}/status", ui))
        except httpx.TransportError:
            return False

    try:
        eventually(ready, within=60)
        yield Jaeger(grpc, f"http://{ui}")
    finally:
        # What it holds is in memory anyway, and a good-bye takes it ten seconds.
        process.kill()
        process.wait(10)
