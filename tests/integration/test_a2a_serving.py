"""`serve_team`: an agent that is registered, instrumented and healthy while it is served, and says how it ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.utils.errors import A2AError
from psycopg.rows import dict_row

from a2a_agents import BINDINGS, Executor, obey
from a2a_card_server import WELL_KNOWN, card_server, offering
from elf_automations.errors import ConfigurationError
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.instrumentation.identity import current_actor
from elf_automations.registry import default, flush_registry
from elf_automations.shared.a2a import ServedTeam, create_a2a_client, serve_team
from telemetry import fresh_pipeline
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    with fresh_pipeline():
        yield
    assert flush_registry(15)
    for registry in default._registries.values():
        registry.close()


def rows(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


async def told(url: str, query: str) -> list[dict[str, Any]]:
    assert await asyncio.to_thread(flush_registry, 15)
    return rows(url, query)


async def eventually(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not found():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def health(url: str) -> str:
    flush_registry(15)
    found = rows(url, "select health_status from unified_registry where entity_id = 'sales-team'")
    return found[0]["health_status"] if found else "missing"


HISTORY = """
select to_state, transition_reason from registry_state_transitions where entity_id = 'sales-team' order by id
"""
STATE = "select current_state, health_status from unified_registry where entity_id = 'sales-team'"


async def test_five_lines_make_a_team_that_is_found_called_counted_and_told_of(database_url):
    spans = Spans()
    with instrumented(A2AInstrumentor(), spans):
        async with serve_team(
            "sales-team", Executor(obey), skills=["proposals"], provider=("ACME", "http://acme")
        ) as team:
            assert current_actor() is None  # the body is not the team
            await eventually(lambda: health(database_url) == "healthy")
            async with create_a2a_client("marketing-team") as client:
                answer = await client.send_task(None, "complete", required_capabilities=["proposals"])
                card = await client.get_capabilities("sales-team")
            (known,) = await told(database_url, "select * from unified_registry where entity_id = 'sales-team'")
    assert (answer["status"], answer["text"]) == ("success", "proposal ready")
    assert (card["provider"], card["bindings"], card["streaming"]) == ("ACME", ["JSONRPC", "HTTP+JSON"], True)
    expected = {
        "entity_name": "sales-team",
        "registered_by": "team_factory",
        "registration_source": "factory",
        "current_state": "active",
        "health_status": "healthy",
        "endpoint_url": team.url,
        "capabilities": ["proposals"],
        "version": "1.0.0",
    }
    assert {name: known[name] for name in expected} == expected
    served = [row for row in spans.settled().rows if row.operation == "send_task"]
    assert sorted((row.source_id, row.target_id, row.observed_by, row.counted) for row in served) == [
        ("marketing-team", "sales-team", "client", True),
        ("marketing-team", "sales-team", "server", False),
    ]
    assert await told(database_url, STATE) == [{"current_state": "stopped", "health_status": "unknown"}]
    states = await told(database_url, HISTORY)
    assert [row["to_state"] for row in states][-1] == "stopped"
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(team.url)


async def test_what_a_team_says_of_itself_is_registered_before_anybody_calls_it(database_url):
    about: dict[str, Any] = {"description": "We sell", "provider": ("ACME", "http://acme"), "metadata": {"floor": 3}}
    async with serve_team("sales-team", Executor(obey), enable_telemetry=False, **about):
        (known,) = await told(database_url, "select metadata from unified_registry where entity_id = 'sales-team'")
    assert known["metadata"] == {
        "description": "We sell",
        "provider": "ACME",
        "provider_url": "http://acme",
        "floor": 3,
    }


@pytest.mark.parametrize("binding", BINDINGS)
async def test_all_three_bindings_are_served_and_what_the_executor_calls_is_the_teams(binding):
    spans = Spans()

    async def act(request: Any, updater: Any, events: Any) -> None:
        actors.append(current_actor())
        await obey(request, updater, events)

    actors: list[Any] = []
    async with (
        serve_team("sales-team", Executor(act), grpc_port=0, enable_telemetry=False) as team,
        card_server(offering(team.card, binding)) as cards,
        create_a2a_client("m", endpoints={"sales-team": cards.url}, tracer_provider=spans.provider) as client,
    ):
        answer = await client.send_task("sales-team", "complete")
    assert answer["status"] == "success"
    assert [row.metadata["binding"] for row in spans.counted()] == [binding]
    # Over gRPC the instrumentor tells; over HTTP the server's own context does too.
    assert actors[0] is not None or binding == "GRPC"


async def test_a_body_that_raises_leaves_the_cause_in_the_registry(database_url):
    error = RuntimeError("no money left")
    with pytest.raises(RuntimeError) as raised:  # noqa: PT012
        async with serve_team("sales-team", Executor(obey), health=lambda: "degraded", enable_telemetry=False):
            await eventually(lambda: health(database_url) == "degraded")
            raise error
    assert raised.value is error
    states = await told(database_url, HISTORY)
    assert states[-1] == {"to_state": "error", "transition_reason": "RuntimeError: no money left"}


async def test_a_task_under_way_may_end_before_the_team_does_and_one_that_will_not_is_cut_off(database_url):
    working = asyncio.Event()

    async def slow(request: Any, updater: Any, events: Any) -> None:
        working.set()
        await asyncio.sleep(0.5)
        await obey(request, updater, events)

    ends: list[str | None] = []
    for seconds in (5.0, 0.1):
        client = create_a2a_client("marketing-team", enable_telemetry=False)
        async with serve_team("sales-team", Executor(slow), stop_seconds=seconds, enable_telemetry=False):
            await eventually(lambda: health(database_url) == "healthy")
            sending = asyncio.create_task(client.send_task("sales-team", "complete"))
            await eventually(working.is_set)
        try:
            ends.append((await sending)["status"])
        except A2AError:
            ends.append(None)
        working.clear()
        await client.close()
    assert ends == ["success", None]


async def test_an_address_that_is_taken_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised:
            async with serve_team("sales-team", Executor(obey), port=port):
                pytest.fail("it was served")
        assert str(raised.value) == (
            f"team sales-team cannot be served at 127.0.0.1:{port}: Address already in use; "
            "choose another port, or 0 for any free one"
        )
        with pytest.raises(ConfigurationError, match=f"cannot be served over gRPC at 127.0.0.1:{port}"):
            async with serve_team("sales-team", Executor(obey), grpc_port=port):
                pytest.fail("it was served")


@pytest.mark.parametrize("fault", [{"health_interval": 0}, {"provider": (1, 2)}], ids=["health", "card"])
async def test_a_team_that_cannot_be_entered_leaves_no_server_and_no_address_behind(fault):
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, grpc_port = one.getsockname()[1], other.getsockname()[1]
    before = asyncio.all_tasks()
    team = serve_team("sales-team", Executor(obey), port=port, grpc_port=grpc_port, enable_telemetry=False, **fault)
    with pytest.raises((ConfigurationError, TypeError), match=r"interval|bad argument type"):
        await team.__aenter__()
    assert asyncio.all_tasks() == before
    for free in (port, grpc_port):
        socket.create_server(("127.0.0.1", free)).close()


async def test_it_serves_without_a_database_and_ends_when_it_is_told_to(monkeypatch):
    monkeypatch.delenv("ELF_DATABASE_URL")
    async with serve_team("sales-team", Executor(obey), enable_telemetry=False) as team:
        async with httpx.AsyncClient() as http:
            assert (await http.get(team.url + WELL_KNOWN)).json()["name"] == "sales-team"
        team.stop()
        async with asyncio.timeout(10):
            await team.wait()
    assert isinstance(team, ServedTeam)


PROCESS = """
from a2a_agents import Executor, obey
from elf_automations.shared.a2a import serve_team

serve_team("sales-team", Executor(obey), skills=["proposals"]).run()
"""


async def test_a_process_that_is_a_team_serves_until_sigterm_and_its_rows_are_kept(database_url, tmp_path):
    script = tmp_path / "team.py"
    script.write_text(PROCESS)
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "ELF_DATABASE_URL": database_url}
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, str(script)], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        await eventually(lambda: health(database_url) == "healthy")
        async with create_a2a_client("marketing-team", enable_telemetry=False) as client:
            assert (await client.send_task("sales-team", "complete"))["status"] == "success"
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, None, 30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said) == (0, "")
    assert rows(database_url, HISTORY)[-1]["to_state"] == "stopped"
    # The caller tells nothing, so the team's own side of the call is what counts.
    found = rows(database_url, "select operation, target_id, status, observed_by, counted from communication_telemetry")
    assert found == [
        {
            "operation": "send_task",
            "target_id": "sales-team",
            "status": "success",
            "observed_by": "server",
            "counted": True,
        }
    ]


class _Never(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Do nothing."""

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Do nothing."""


async def test_the_health_of_a_team_whose_loop_is_stuck_is_not_healthy(database_url):
    async with serve_team("sales-team", _Never(), health_interval=0.05, enable_telemetry=False):
        await eventually(lambda: health(database_url) == "healthy")
        time.sleep(1.6)  # noqa: ASYNC251  (the mishap itself: nothing else runs on this loop meanwhile)
        await eventually(lambda: any(row["transition_reason"] for row in rows(database_url, HISTORY)))
    assert any("answer took more than" in (row["transition_reason"] or "") for row in rows(database_url, HISTORY))
