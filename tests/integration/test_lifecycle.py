"""What a factory puts around its creation: the registry follows, and the factory never notices the registry."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from elf_automations import UnifiedRegistry, lifecycle
from elf_automations.instrumentation.identity import current_actor
from elf_automations.model import EntityRef
from elf_automations.registry import background, default, flush_registry
from elf_automations.storage.migrate import migrate
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


def test_a_body_is_registered_active_and_then_stopped(database_url: str) -> None:
    with lifecycle(
        "sales-team", "team", entity_name="Sales", capabilities=["pricing"], endpoint_url="http://127.0.0.1:9101",
        parent_entity_id="board", metadata={"llm": "x", "key": "password=hunter22"}, registered_by="team_factory",
    ):  # fmt: skip
        assert current_actor() == EntityRef("sales-team", "team")
    assert current_actor() is None
    assert history(database_url) == [("active", "unknown", None), ("stopped", "unknown", None)]
    (known,) = rows(database_url, "select * from unified_registry")
    expected = {
        "entity_id": "sales-team", "entity_type": "team", "entity_name": "Sales", "registered_by": "team_factory",
        "registration_source": "factory", "current_state": "stopped", "health_status": "unknown",
        "capabilities": ["pricing"], "endpoint_url": "http://127.0.0.1:9101", "parent_entity_id": "board",
        "metadata": {"llm": "x", "key": "password=[REDACTED]"}, "activity_count": 0, "last_activity": None,
    }  # fmt: skip
    assert {name: known[name] for name in expected} == expected
    audit = rows(database_url, "select action, action_by from registration_audit")
    assert audit == [{"action": "registered", "action_by": "team_factory"}]


def test_a_failure_is_kept_with_its_cause_without_secrets_and_passes_as_it_is(database_url: str) -> None:
    error = RuntimeError("login with password=hunter22 failed")
    with pytest.raises(RuntimeError) as raised, lifecycle("sales-team", "team"):
        raise error
    assert raised.value is error
    assert history(database_url)[-1] == (
        "error", "unhealthy", "RuntimeError: login with password=[REDACTED] failed",
    )  # fmt: skip
    with lifecycle("sales-team", "team"):
        pass
    assert history(database_url)[-2:] == [("active", "unknown", None), ("stopped", "unknown", None)]


class _UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("raised", "ending"),
    [
        (KeyboardInterrupt(), ("stopped", "unknown", "KeyboardInterrupt")),
        (asyncio.CancelledError(), ("stopped", "unknown", "CancelledError")),
        (GeneratorExit(), ("stopped", "unknown", "GeneratorExit")),
        (SystemExit(0), ("stopped", "unknown", "SystemExit")),
        (SystemExit(3), ("error", "unhealthy", "SystemExit: 3")),
        (_UnspeakableError(), ("error", "unhealthy", "_UnspeakableError")),
    ],
)
def test_what_is_ended_from_outside_did_not_fail(
    database_url: str, raised: BaseException, ending: tuple[str, str, str]
) -> None:
    caught: BaseException | None = None
    try:
        with lifecycle("sales-team", "team"):
            raise raised
    except BaseException as error:
        caught = error
    assert caught is raised
    assert history(database_url)[-1] == ending


@pytest.mark.anyio
async def test_functions_keep_their_answers_names_and_kinds(database_url: str) -> None:
    @lifecycle("sales-team", "team")
    def made(number: int, *, more: int = 0) -> int:
        """Make."""
        assert current_actor() == EntityRef("sales-team", "team")
        return number + more

    @lifecycle("wf_1", "n8n_workflow")
    async def awaited(number: int) -> int:
        await asyncio.sleep(0)
        assert current_actor() == EntityRef("wf_1", "workflow")
        return number

    assert (made(1, more=2), made.__name__, made.__doc__) == (3, "made", "Make.")
    assert asyncio.iscoroutinefunction(awaited)
    assert await awaited(5) == 5
    async with lifecycle("sales-mcp", "mcp_server"):
        assert current_actor() == EntityRef("sales-mcp", "mcp")
    found = await asyncio.to_thread(
        lambda: [[state for state, _, _ in history(database_url, name)] for name in ("sales-team", "wf_1", "sales-mcp")]
    )
    assert found == [["active", "stopped"]] * 3


def test_a_generator_is_refused_because_its_body_would_run_outside() -> None:
    def items() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="inside it"):
        lifecycle("sales-team", "team")(items)


@pytest.mark.anyio
async def test_an_entity_entered_by_several_tasks_ends_with_the_last(database_url: str) -> None:
    life = lifecycle("sales-team", "team")
    inside, leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with life:
            inside.set()
            await leave.wait()
            assert current_actor() == EntityRef("sales-team", "team")
        assert current_actor() is None

    task = asyncio.create_task(first())
    await inside.wait()
    async with life:
        pass
    assert current_actor() is None
    during = await asyncio.to_thread(history, database_url)
    leave.set()
    await task
    after = await asyncio.to_thread(history, database_url)
    assert [state for state, _, _ in during] == ["active"]
    assert [state for state, _, _ in after] == ["active", "stopped"]


def test_updates_of_one_entity_keep_their_order(database_url: str) -> None:
    for number in range(20):
        with contextlib.suppress(ValueError), lifecycle("sales-team", "team"):
            if number % 2:
                raise ValueError(number)
    states = [state for state, _, _ in history(database_url)]
    assert states == ["active", "stopped", "active", "error"] * 10


def test_a_database_that_was_not_ready_gets_everything_later_and_in_order(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "_FIRST_PAUSE_SECONDS", 0.01)
    with UnifiedRegistry(empty_database_url) as registry:
        with lifecycle("sales-team", "team", registry=registry):
            pass
        assert not background.background_of(registry).flush(10)
        migrate(empty_database_url)
        eventually(lambda: background.background_of(registry).waiting == 0)
        assert [state for state, _, _ in history(empty_database_url)] == ["active", "stopped"]


def test_a_dead_database_costs_nothing_but_one_line(dead_port: int, caplog: pytest.LogCaptureFixture) -> None:
    registry = UnifiedRegistry(f"postgresql://me:secret@127.0.0.1:{dead_port}/elf")
    queue = background.background_of(registry)
    with caplog.at_level(logging.INFO, "elf_automations"):
        for number in range(600):
            with lifecycle(f"team-{number}", "team", registry=registry):
                pass
        assert queue.waiting <= background.CAPACITY
        assert not queue.flush(5)
    lines = [record.getMessage() for record in caplog.records]
    assert sorted(line.partition(" ")[0] for line in lines) == ["1", "the"]
    assert "registry updates were dropped: 1000 wait" in min(lines)
    assert "the registry is not updated now" in max(lines)
    assert "secret" not in "".join(lines)
    queue.start_over()


def test_a_database_that_hangs_delays_neither_the_body_nor_the_exit() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)  # accepts, and never says a word
        registry = UnifiedRegistry(f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/elf?connect_timeout=3")
        started = time.monotonic()
        with lifecycle("sales-team", "team", registry=registry):
            pass
        assert time.monotonic() - started < 0.5
        queue = background.background_of(registry)
        assert not queue.flush(0.2)
        assert time.monotonic() - started < 1.5
        queue.start_over()
    eventually(lambda: "waits" in queue._said)  # the attempt that was under way has ended with this test


def test_without_a_database_there_is_one_info_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("ELF_DATABASE_URL")
    monkeypatch.setattr(default, "_said", set())
    with caplog.at_level(logging.DEBUG, "elf_automations"):
        for _ in range(3):
            with lifecycle("sales-team", "team", health=lambda: True):
                pass
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "entities are not registered: no database is configured (set ELF_DATABASE_URL)")
    ]


@pytest.mark.parametrize(
    "setting", ["ELF_TELEMETRY_ENABLED=false", "OTEL_SDK_DISABLED=true", "ELF_DATABASE_URL=nowhere"]
)
def test_what_switches_telemetry_off_switches_this_off(
    database_url: str, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    with lifecycle("sales-team", "team"):
        pass
    assert flush_registry(5)
    assert rows(database_url, "select from unified_registry") == []


def test_a_wrong_word_is_a_line_in_the_log_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with lifecycle("sales-team", "robot"):
        pass
    assert flush_registry(5)
    assert "entity_type 'robot' is unknown" in caplog.text


SCRIPT = """
import os, sys
from elf_automations import lifecycle

with lifecycle("sales-team", "team"):
    if os.fork() == 0:
        raise SystemExit(0)
    os.wait()
print("made")
"""


def test_a_process_that_ends_at_once_still_says_so_and_its_forked_child_does_not(
    tmp_path: Path, database_url: str
) -> None:
    script = tmp_path / "factory.py"
    script.write_text(SCRIPT, encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    ended = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True,
        env={**kept, "HOME": str(tmp_path), "ELF_DATABASE_URL": database_url},
    )  # fmt: skip
    assert (ended.stdout, ended.stderr) == ("made\n", "")
    assert history(database_url) == [("active", "unknown", None), ("stopped", "unknown", None)]


def test_heartbeats_that_wait_are_one_and_never_pass_a_change_of_state() -> None:
    queue = background.Background()
    queue._running = True  # nobody works, everything waits
    registry, did = UnifiedRegistry(), list[str]()
    for kind, what in (
        ("state", "active"), ("heartbeat", "1"), ("heartbeat", "2"), ("state", "stopped"), ("heartbeat", "3"),
    ):  # fmt: skip
        queue.submit(registry, ("sales-team", "team"), kind, lambda _, what=what: did.append(what))
    queue._running = queue._started()
    assert queue.flush(5)
    assert did == ["active", "2", "stopped", "3"]
