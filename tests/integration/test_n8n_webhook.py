"""`elf-telemetry n8n webhook`: the events of n8n over HTTP, as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from n8n_webhook_process import COMMAND, webhook
from postgrest_server import serving

EVENTS = json.loads((Path(__file__).parents[1] / "fixtures" / "n8n" / "events.json").read_text())["events"]
TOKEN = "not-a-secret"


def entities(database_url: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "select entity_id, entity_name, current_state, activity_count, error_count from unified_registry "
            "where entity_type = 'n8n_workflow' order by 1"
        ).fetchall()


EXPECTED = [
    ("UdJNdcvN0qWi08nT", "H3 guide v2", "deleted", 1, 0),
    ("h3ErrHandler0001", "H3 error handler", "active", 1, 0),
    ("h3Failure0000001", "H3 billing (fails)", "active", 1, 1),
]


def test_the_events_of_a_real_n8n_reach_the_registry(database_url: str) -> None:
    with webhook(environment={"ELF_DATABASE_URL": database_url, "ELF_N8N_WEBHOOK_TOKEN": TOKEN}) as running:
        answers = [running.post(event, TOKEN) for event in EVENTS]
        assert {answer.status_code for answer in answers} == {200}
        assert answers[0].json()["action"] == "registered"
        assert entities(database_url) == EXPECTED
        # Told again, as after a lost answer: nothing is counted twice.
        for event in EVENTS:
            running.post(event, TOKEN)
        assert entities(database_url) == EXPECTED
        assert httpx.get(running.url.replace("/n8n/webhook", "/healthz")).json() == {"status": "ok"}
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0


def test_over_a_supabase_project_too(database_url: str) -> None:
    with serving(database_url) as api:
        environment = {"SUPABASE_URL": api.url, "SUPABASE_ANON_KEY": api.key}
        with webhook(environment=environment) as running:
            assert {running.post(event).status_code for event in EVENTS} == {200}
    assert entities(database_url) == EXPECTED


@pytest.mark.parametrize("token", [None, "wrong", TOKEN + "x", "ü"])
def test_without_the_token_nothing_is_taken(database_url: str, token: str | None) -> None:
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_WEBHOOK_TOKEN": TOKEN}
    with webhook(environment=environment) as running:
        headers = {"authorization": f"Bearer {token}".encode()} if token else {}
        answer = httpx.post(running.url, json=EVENTS[0], headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert entities(database_url) == []


def test_what_is_no_event_is_refused_and_says_why(database_url: str) -> None:
    large = b'"' + b"x" * (16 * 1024 * 1024) + b'"'
    with webhook(environment={"ELF_DATABASE_URL": database_url}) as running:
        answers = [
            httpx.post(running.url, content=b"{not json"),
            running.post({"event": "workflow.exploded", "workflow": {"id": "1"}}),
            running.post([]),
            httpx.post(running.url, content=large, timeout=60),
            httpx.post(running.url, content=iter([large]), timeout=60),  # chunked: no length is told
            httpx.get(running.url),
        ]
    assert [answer.status_code for answer in answers] == [400, 400, 400, 413, 413, 405]
    assert "not JSON" in answers[0].json()["error"]
    assert "workflow.exploded" in answers[1].json()["error"]
    assert "larger than" in answers[3].json()["error"]


def test_a_registry_that_is_away_is_told_as_503() -> None:
    with webhook(environment={"ELF_DATABASE_URL": "postgresql://me:hidden@127.0.0.1:1/elf"}) as running:
        answer = running.post(EVENTS[0])
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "hidden" not in answer.text


def test_it_listens_beyond_this_machine_only_with_a_token(database_url: str) -> None:
    done = _failing("--host", "0.0.0.0", environment={"ELF_DATABASE_URL": database_url})
    assert (done.returncode, "ELF_N8N_WEBHOOK_TOKEN" in done.stderr) == (2, True)
    environment = {"ELF_DATABASE_URL": database_url, "ELF_N8N_WEBHOOK_TOKEN": TOKEN}
    with webhook("--host", "0.0.0.0", environment=environment) as running:
        answer = httpx.post(running.url.replace("0.0.0.0", "127.0.0.1"), json=EVENTS[0])
    assert answer.status_code == 401


def test_a_port_that_is_taken_is_one_line(database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = _failing("--port", port, environment={"ELF_DATABASE_URL": database_url})
    assert done.returncode == 2
    assert "choose another --host or --port" in done.stderr
    assert done.stderr.count("\n") == 1


def _failing(*options: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "n8n", "webhook", *options],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
