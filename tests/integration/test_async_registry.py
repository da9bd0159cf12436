"""The registry for coroutines, and the rest of an entity's life: heartbeats and deregistration, both ways to it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import postgrest_server
from elf_automations import AsyncUnifiedRegistry, UnifiedRegistry
from elf_automations.errors import ConfigurationError, StorageUnavailableError
from elf_automations.registry import InvalidEntityError


@pytest.fixture(params=["postgres", "supabase"])
def configured(
    request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[postgrest_server.Api | None]:
    if request.param == "postgres":
        monkeypatch.setenv("ELF_DATABASE_URL", database_url)
        yield None
        return
    with postgrest_server.serving(database_url) as api:
        monkeypatch.setenv("SUPABASE_URL", api.url)
        monkeypatch.setenv("SUPABASE_SECRET_KEY", api.key)
        yield api


@pytest.fixture
async def registry(configured: object, anyio_backend: str) -> AsyncIterator[AsyncUnifiedRegistry]:
    async with AsyncUnifiedRegistry() as opened:
        yield opened


def rows(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query.encode()).fetchall()


def test_both_registries_have_the_same_words() -> None:
    def signatures(kind: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(method) for name, method in inspect.getmembers(kind, callable) if name[0] != "_"
        }

    sync = signatures(UnifiedRegistry)
    del sync["over"]  # a way to make one
    assert signatures(AsyncUnifiedRegistry) == sync
    assert all(inspect.iscoroutinefunction(getattr(AsyncUnifiedRegistry, name)) for name in sync)


@pytest.mark.anyio
async def test_an_entitys_whole_life(registry: AsyncUnifiedRegistry) -> None:
    await registry.register_entity("sales-team", "team", "Sales", endpoint_url="http://127.0.0.1:9101", tags=["x"])
    assert await registry.update_state("sales-team", "team", "active", health_status="healthy")
    assert await registry.record_activity("sales-team", "team")
    assert await registry.heartbeat("sales-team", "team", "degraded", reason="slow")
    found = await registry.get("sales-team", "team")
    assert found is not None
    assert (found["current_state"], found["health_status"], found["activity_count"]) == ("active", "degraded", 1)
    assert [entity["entity_id"] for entity in await registry.list(tags=["x"])] == ["sales-team"]
    assert await registry.resolve_endpoint("sales-team") == "http://127.0.0.1:9101"
    assert await registry.gaps() == []
    assert await registry.deregister("sales-team", "team")
    assert await registry.list() == []
    assert await registry.resolve_endpoint("sales-team") is None


@pytest.mark.anyio
async def test_many_tasks_share_one_registry(registry: AsyncUnifiedRegistry, database_url: str) -> None:
    await asyncio.gather(*(registry.register_entity("sales-team", "team") for _ in range(20)))
    await asyncio.gather(*(registry.record_activity("sales-team", "team") for _ in range(20)))
    found = await registry.get("sales-team", "team")
    assert found is not None
    assert found["activity_count"] == 20
    assert rows(database_url, "select count(*) as n from registration_audit where action = 'registered'") == [{"n": 1}]


@pytest.mark.anyio
async def test_errors_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = AsyncUnifiedRegistry()
    with pytest.raises(ConfigurationError, match="ELF_DATABASE_URL"):
        await registry.list()
    with pytest.raises(InvalidEntityError, match="health_status 'fine'"):
        await registry.heartbeat("sales-team", "team", "fine")


@pytest.mark.anyio
async def test_a_heartbeat_is_no_call_and_no_change(registry: AsyncUnifiedRegistry, database_url: str) -> None:
    assert not await registry.heartbeat("sales-team", "team")
    await registry.register_entity("sales-team", "team")
    kept = "last_activity, last_updated, state_updated_at, health_since, activity_count"
    for expected in (1, 1):
        assert await registry.heartbeat("sales-team", "team", reason="probed")
        changes = rows(
            database_url, "select health_status, transitioned_by, transition_reason from registry_state_transitions"
        )
        assert changes == [{"health_status": "healthy", "transitioned_by": "heartbeat", "transition_reason": "probed"}]
        assert len(changes) == expected
    before = rows(database_url, f"select {kept}, last_health_check from unified_registry")
    assert await registry.heartbeat("sales-team", "team")
    after = rows(database_url, f"select {kept}, last_health_check from unified_registry")
    assert after[0].pop("last_health_check") > before[0].pop("last_health_check")
    assert after == before


@pytest.mark.anyio
async def test_deregistering_keeps_the_row_and_says_so_once(registry: AsyncUnifiedRegistry, database_url: str) -> None:
    assert not await registry.deregister("sales-team", "team")
    await registry.register_entity("sales-team", "team", registered_by="factory")
    await registry.update_state("sales-team", "team", "active")
    for _ in range(2):
        assert await registry.deregister("sales-team", "team", deregistered_by="me", reason="sold")
    assert not await registry.heartbeat("sales-team", "team")
    assert rows(database_url, "select action, action_by, details from registration_audit order by id") == [
        {"action": "registered", "action_by": "factory", "details": {"entity_name": ""}},
        {"action": "deregistered", "action_by": "me", "details": {"reason": "sold", "state_before": "active"}},
    ]
    changes = rows(database_url, "select to_state, transitioned_by from registry_state_transitions order by id")
    assert changes[-1] == {"to_state": "deleted", "transitioned_by": "me"}
    assert len(changes) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_gateway_that_is_busy_for_a_moment_is_asked_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with postgrest_server.serving(database_url) as api:
        monkeypatch.setenv("SUPABASE_URL", api.url)
        monkeypatch.setenv("SUPABASE_SECRET_KEY", api.key)
        with UnifiedRegistry() as registry:
            api.answer_next(status)
            api.answer_next(500, {"code": "40P01", "message": "deadlock detected"})
            registry.register_entity("sales-team", "team")
            assert len(api.requests) == 3
            api.answer_next(status)
            assert registry.list()[0]["entity_id"] == "sales-team"
            for _ in range(3):
                api.answer_next(status)
            with pytest.raises(StorageUnavailableError, match=str(status)):
                registry.update_state("sales-team", "team", "active")
            # It may have been counted behind a gateway that gave up: once is better than twice.
            api.answer_next(status)
            with pytest.raises(StorageUnavailableError, match=str(status)):
                registry.record_activity("sales-team", "team")
            api.answer_next(429, headers={"Retry-After": "60"})
            with pytest.raises(StorageUnavailableError):
                registry.list()
            assert len(api.requests) == 3 + 2 + 3 + 1 + 1
