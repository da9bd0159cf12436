"""Polling that is cut off anywhere, while executions end and begin, loses nothing and tells nothing in two ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from elf_automations.model import Communication, Entity
from elf_automations.n8n.api import N8NApi
from elf_automations.n8n.execution_sync import ExecutionSync, Reading
from elf_automations.n8n.progress import Progress
from elf_automations.storage.contract import WriteResult
from n8n_api_server import KEY, Instance, serving
from n8n_captures import document


class CutOffError(Exception):
    """The process was killed here."""


class World:
    """An n8n that goes on by a step with each question, a database, and a process that dies at its `dies_at`th act."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.rows: dict[Any, Communication] = {}
        self.kept: dict[str, Any] = {}
        self.acts = 0
        self.dies_at: int | None = None
        self._story = iter(story(instance))
        instance.before = lambda _path: next(self._story, None)

    def act(self, done: Callable[[], Any] = lambda: None) -> Any:
        """Die before or after what is done here, or do it."""
        before, after = self.acts, self.acts + 1
        self.acts += 2
        if self.dies_at == before:
            raise CutOffError
        result = done()
        if self.dies_at == after:
            raise CutOffError
        return result

    # What a sync writes to.
    def write(self, rows: Sequence[Communication], entities: Sequence[Entity], *, retry: bool) -> WriteResult:
        def store() -> WriteResult:
            for row in rows:
                assert self.rows.setdefault((row.timestamp, row.id), row) == row
            return WriteResult(stored=len(rows))

        return self.act(store)

    def settle(self, *_: Any, **__: Any) -> bool:
        return True

    def close(self) -> None: ...

    def save(self, state: Any) -> None:
        self.act(lambda: self.kept.update(state))

    def sync(self, api: N8NApi) -> None:
        ExecutionSync(
            api, self, self, Progress.read(self.kept), Reading(instance="here", since=0, page=3),
            projects={}, complain=pytest.fail, advanced=lambda _result: None,
        ).once()  # fmt: skip


def execution(number: int, status: str) -> dict[str, Any]:
    told = document("success")
    ended = status not in {"running", "waiting"}
    stopped = f"2026-11-22T07:{number:02}:01.000Z" if ended else None
    return {**told, "id": str(number), "status": status, "startedAt": f"2026-11-22T07:{number:02}:00.000Z",
            "stoppedAt": stopped}  # fmt: skip


def story(instance: Instance) -> Iterator[None]:
    """What happens in n8n from one question to the next."""
    changes = [
        (2, "success"), (9, "success"), (5, "running"), (10, "running"), (4, "error"), (5, "waiting"), (11, "success"),
        (5, "running"), (10, "waiting"), (5, "canceled"), (10, "running"), (12, "success"), (10, "success"),
    ]  # fmt: skip
    for number, status in changes:
        instance.executions = [each for each in instance.executions if each["id"] != str(number)]
        instance.executions.append(execution(number, status))
        yield
        yield


BEGIN = ("success", "running", "success", "running", "waiting", "error", "success", "success")


@pytest.mark.parametrize("kills", [1, 2])
def test_wherever_it_is_killed_every_execution_is_told_once(kills: int) -> None:
    steps, instance = 0, Instance()
    with serving(instance) as url:
        api = N8NApi(url, KEY, rate=100_000)
        for first in range(0, 48, kills):
            instance.executions = [execution(number, status) for number, status in enumerate(BEGIN, 1)]
            world = World(instance)
            for kill in range(kills):
                world.acts, world.dies_at = 0, first // (kill + 1)
                try:
                    world.sync(api)
                except CutOffError:
                    steps = max(steps, first)
            world.dies_at = None
            for _ in range(6):
                world.sync(api)
            ended = sorted(
                int(row.metadata["execution_id"]) for row in world.rows.values() if row.workflow_node is None
            )
            assert ended == list(range(1, 13)), f"killed at act {first}"
            assert Progress.read(world.kept).pending == {}
        api.close()
    assert 8 < steps < 46
