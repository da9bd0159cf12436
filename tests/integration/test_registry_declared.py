"""What a team says of itself by its resource, and what its callers see of it: over Postgres and Supabase's RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from a2a_agents import Agent, agent, events_of
from a2a_card_server import card_server
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.model import Settled, settle
from elf_automations.model.from_sdk import SdkSpans
from elf_automations.registry import default, flush_registry
from elf_automations.shared.a2a.client import A2AClient
from elf_automations.storage.supabase import SupabaseRpc
from elf_automations.storage.supabase_writer import SupabaseWriter
from elf_automations.storage.writer import PostgresWriter
from postgrest_server import serving
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

SALES = {
    "elf.entity.id": "sales-team",
    "elf.entity.type": "team",
    "elf.entity.name": "Sales",
    "elf.entity.endpoint": "http://sales.internal:9101",
    "elf.entity.capabilities": "closing,pricing",
}
Store = Callable[[Settled], dict[str, Any]]


@pytest.fixture(params=["postgres", "supabase"])
def store(request: pytest.FixtureRequest, database_url: str) -> Iterator[Store]:
    """Writes a batch and returns what the registry then knows of sales-team."""

    def through(writer: PostgresWriter | SupabaseWriter, batch: Settled) -> dict[str, Any]:
        with closing(writer):
            assert not writer.write(batch.rows, batch.entities, retry=False).rejected_entities
        told = "select entity_name, endpoint_url, capabilities, version from unified_registry where entity_id = %s"
        with psycopg.connect(database_url, row_factory=dict_row) as connection:
            (found,) = connection.execute(told, ["sales-team"])
        return found

    if request.param == "postgres":
        yield lambda batch: through(PostgresWriter(database_url), batch)
    else:
        with serving(database_url) as api:
            yield lambda batch: through(SupabaseWriter(lambda: SupabaseRpc(api.url, api.key)), batch)


async def batches(sales: Agent, **resource: str) -> tuple[Settled, Settled]:
    """Return one call's batch of the team, whose process has `resource`, and that of a caller."""
    own, caller = Spans(**resource), Spans(**{"elf.entity.id": "marketing-team", "elf.entity.type": "team"})
    with instrumented(A2AInstrumentor(), own):
        client = await sales.client()
        await events_of(client, "complete")
        await client.close()
    with instrumented(A2AInstrumentor(), caller):
        client = await sales.client()
        await events_of(client, "complete")
        await client.close()
    return settled(own, "SERVER"), settled(caller, "CLIENT")


def settled(spans: Spans, kind: str) -> Settled:
    records = SdkSpans()
    return settle([found for span in spans.finished if span.kind.name == kind and (found := records.record(span))])


async def test_what_a_team_declares_stays_whichever_of_both_is_told_first(store):
    async with agent("sales-team") as sales:
        team, caller = await batches(sales, **SALES)
    declared = {
        "entity_name": "Sales",
        "endpoint_url": "http://sales.internal:9101",
        "capabilities": ["closing", "pricing"],
        "version": "2.1",
    }
    seen = store(caller)
    assert (seen["entity_name"], seen["capabilities"]) == ("sales-team", ["proposals"])
    assert store(team) == declared
    assert store(caller) == declared


async def test_the_teams_own_later_word_changes_what_it_declared(store):
    async with agent("sales-team") as sales:
        team, caller = await batches(sales, **SALES)
        moved, _ = await batches(sales, **{**SALES, "elf.entity.endpoint": "http://sales.internal:9102"})
    assert store(team)["endpoint_url"] == "http://sales.internal:9101"
    store(caller)
    assert store(moved)["endpoint_url"] == "http://sales.internal:9102"
    assert store(caller)["endpoint_url"] == "http://sales.internal:9102"


async def test_what_a_team_leaves_open_its_card_tells_and_refreshes(store):
    """A team that only names itself has moved: its callers, who met its new card, know where it is."""
    bare = {name: SALES[name] for name in ("elf.entity.id", "elf.entity.type", "elf.entity.capabilities")}
    async with agent("sales-team") as sales:
        team, caller = await batches(sales, **bare)
        store(team)
        assert store(caller)["endpoint_url"] == f"{sales.url}/rpc"
    async with agent("sales-team") as sales:
        team, caller = await batches(sales, **bare)
        found = store(caller)
        assert (found["endpoint_url"], found["capabilities"]) == (f"{sales.url}/rpc", ["closing", "pricing"])


async def test_a_batch_that_has_both_tells_of_the_declared_and_the_seen(store):
    """A sink receives the spans of both processes at once."""
    async with agent("sales-team") as sales:
        with instrumented(A2AInstrumentor(), Spans(**SALES)) as spans:
            client = await sales.client()
            await events_of(client, "complete")
            await client.close()
    assert store(spans.settled()) == {
        "entity_name": "Sales",
        "endpoint_url": "http://sales.internal:9101",
        "capabilities": ["closing", "pricing"],
        "version": "2.1",
    }


async def test_an_agent_card_that_is_fetched_leaves_what_the_team_declared(store, database_url, monkeypatch):
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        team, _ = await batches(sales, **SALES)
        before = store(team)
        async with A2AClient("marketing-team", endpoints={"sales-team": cards.url}) as client:
            await client.get_capabilities("sales-team")
    assert await asyncio.to_thread(flush_registry, 15)
    assert store(team) == before
    for registry in default._registries.values():
        registry.close()
