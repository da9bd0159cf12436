"""How an entity is, looked at now and then: what each kind of answer means, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import uvicorn
from psycopg.rows import dict_row
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from elf_automations import HealthReporter, UnifiedRegistry, lifecycle
from elf_automations.errors import ConfigurationError
from elf_automations.registry import default, flush_registry
from spans import eventually


@pytest.fixture(autouse=True)
def _configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    yield
    assert flush_registry(15)
    for registry in default._registries.values():
        registry.close()


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port where connections are refused: taken, and not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def rows(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def history(url: str, entity_id: str = "sales-team") -> list[tuple[str, str, str | None]]:
    """Return the entity's changes as (state, health, reason) once everything said is in the registry."""
    assert flush_registry(15)
    query = f"select * from registry_state_transitions where entity_id = '{entity_id}' order by id"
    return [(row["to_state"], row["health_status"], row["transition_reason"]) for row in rows(url, query)]


def health(url: str) -> tuple[str, str | None]:
    """Return the entity's health and why it last changed."""
    known = rows(url, "select health_status from unified_registry")
    changes = rows(url, "select transition_reason from registry_state_transitions order by id desc limit 1")
    return (known[0]["health_status"] if known else "", changes[0]["transition_reason"] if changes else None)


def _raises() -> bool:
    message = "disk of password=hunter22 is full"
    raise OSError(message)


async def _hangs() -> bool:
    await asyncio.sleep(3600)
    return True


async def _well() -> str:
    return "healthy"


@pytest.mark.parametrize(
    ("probe", "seen"),
    [
        (lambda: True, ("healthy", None)),
        (lambda: False, ("unhealthy", "the probe answered False")),
        (lambda: "degraded", ("degraded", None)),
        (lambda: time.sleep(0.25) or True, ("degraded", "the answer took more than 0.2 s")),
        (_raises, ("unhealthy", "OSError: disk of password=[REDACTED] is full")),
        (_well, ("healthy", None)),
        (_hangs, ("unhealthy", "no answer within 0.5 s")),
    ],
)
def test_a_callback_says_how_the_entity_is(
    database_url: str, probe: Callable[[], Any], seen: tuple[str, str | None]
) -> None:
    with UnifiedRegistry(database_url) as registry:
        registry.register_entity("sales-team", "team")
        with HealthReporter("sales-team", "team", probe=probe, timeout=0.5, slow=0.2, registry=registry):
            eventually(lambda: health(database_url) == seen)
        assert flush_registry(5)


def test_an_answer_of_no_known_word_says_nothing(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with UnifiedRegistry(database_url) as registry:
        registry.register_entity("sales-team", "team")
        registry.update_state("sales-team", "team", None, health_status="healthy")
        reporter = HealthReporter("sales-team", "team", probe=lambda: "fine", registry=registry)
        reporter.start()
        eventually(lambda: health(database_url) == ("unknown", "the probe answered 'fine'"))
        reporter.stop()
        assert flush_registry(5)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict[str, Any]]]:
    """A health endpoint, and what it answers: `status`, after `event` when there is one."""
    answer: dict[str, Any] = {"status": 200, "event": None}

    def respond(_request: object) -> Response:
        if answer["event"]:
            answer["event"].wait(10)
        return Response(status_code=answer["status"])

    config = uvicorn.Config(
        Starlette(routes=[Route("/health", respond)]), port=0, log_level="error", lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    eventually(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/health", answer
    server.should_exit = True
    thread.join(10)


def test_an_endpoint_is_followed_through_its_troubles(database_url: str, endpoint: tuple[str, dict[str, Any]]) -> None:
    url, answer = endpoint
    with UnifiedRegistry(database_url) as registry:
        registry.register_entity("sales-team", "team")
        with HealthReporter("sales-team", "team", probe=url, interval=0.05, timeout=0.5, registry=registry):
            for status, seen in (
                (204, ("healthy", None)),
                (503, ("unhealthy", "HTTP 503")),
                (404, ("degraded", "HTTP 404")),
                (200, ("healthy", None)),
            ):
                answer["status"] = status
                eventually(lambda seen=seen: health(database_url) == seen)
            answer["event"] = threading.Event()
            eventually(lambda: health(database_url) == ("unhealthy", "no answer within 0.5 s"))
            answer["event"].set()
        assert flush_registry(5)


def test_an_endpoint_where_nobody_answers_is_unhealthy(database_url: str, dead_port: int) -> None:
    with lifecycle("sales-team", "team", health=f"http://127.0.0.1:{dead_port}/"):
        eventually(lambda: health(database_url)[0] == "unhealthy")
        assert (health(database_url)[1] or "").startswith("ConnectError: ")


@pytest.mark.anyio
async def test_an_async_callback_runs_on_the_loop_that_started_it(database_url: str) -> None:
    mine, seen = asyncio.get_running_loop(), asyncio.Event()

    async def probe() -> bool:
        assert asyncio.get_running_loop() is mine
        seen.set()
        return True

    async with lifecycle("sales-team", "team", health=probe):
        await seen.wait()
        await asyncio.to_thread(eventually, lambda: health(database_url) == ("healthy", None))
    assert (await asyncio.to_thread(history, database_url))[-1] == ("stopped", "unknown", None)


def test_nothing_is_reported_after_the_end(database_url: str) -> None:
    looking, let_go = threading.Event(), threading.Event()

    def probe() -> bool:
        looking.set()
        let_go.wait(10)
        return False

    with lifecycle("sales-team", "team", health=HealthReporter("sales-team", "team", probe=probe, interval=0.01)):
        assert looking.wait(10)
    let_go.set()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "elf-health"])
    assert history(database_url)[-1] == ("stopped", "unknown", None)


def test_a_reporter_that_cannot_work_says_so() -> None:
    with pytest.raises(ConfigurationError, match="more than 0 seconds"):
        HealthReporter("sales-team", "team", probe=lambda: True, interval=0)
