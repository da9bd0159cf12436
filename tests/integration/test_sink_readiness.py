"""`/readyz`: a balancer sends nothing to a sink whose database takes no data, and comes back when it does."""

from __future__ import annotations

import httpx
import pytest

from elf_automations.storage.migrate import migrate
from otlp import request_of
from own_postgres import own_postgres
from postgrest_server import KEY, serving
from sink_process import Sink, sink
from spans import eventually, tool_call

_PROTOBUF = {"content-type": "application/x-protobuf"}


def _sent(running: Sink) -> int:
    body = request_of([tool_call(1)]).SerializeToString()
    return httpx.post(running.traces, content=body, headers=_PROTOBUF, timeout=30).status_code


def _ready(running: Sink) -> tuple[int, str]:
    answer = httpx.get(f"{running.url}/readyz")
    return answer.status_code, answer.json()["status"]


def test_a_sink_is_ready_again_without_a_request_when_its_database_is_back() -> None:
    with own_postgres(fsync="off") as (server, url):
        migrate(url)
        with sink(url, "--grpc", "off") as running:
            assert (_sent(running), _ready(running)) == (200, (200, "ok"))
            server.stop()
            assert _sent(running) == 503
            # Anybody may ask: who the user is and where the database is, is not said.
            assert _ready(running) == (503, "the database takes no data")
            server.start()
            eventually(lambda: _ready(running) == (200, "ok"))


def test_a_sink_says_what_its_database_lacks_before_any_request(
    empty_database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with sink(empty_database_url, "--grpc", "off") as running:
        eventually(lambda: _ready(running) == (503, "the database takes no data"))
        assert _sent(running) == 503
    said = [line for line in capfd.readouterr().err.splitlines() if "takes no data" in line]
    assert len(said) == 1
    assert "elf-telemetry setup" in said[0]


def test_a_sink_is_ready_again_when_its_schema_is_there(empty_database_url: str) -> None:
    with sink(empty_database_url, "--grpc", "off") as running:
        assert _sent(running) == 503
        assert _ready(running) == (503, "the database takes no data")
        migrate(empty_database_url)
        eventually(lambda: _ready(running) == (200, "ok"))


def test_a_sink_before_supabase_asks_it_too(database_url: str) -> None:
    with serving(database_url) as api:
        environment = {"SUPABASE_URL": api.url, "SUPABASE_SECRET_KEY": KEY}
        with sink("", "--grpc", "off", environment=environment) as running:
            for _ in range(3):  # the first may be for its look at the start
                api.answer_next(503)
            assert _sent(running) == 503
            assert _ready(running) == (503, "the database takes no data")
            eventually(lambda: _ready(running) == (200, "ok"))
