"""What Agent Cards tell the registry, and which team the registry picks: over Postgres and over Supabase's RPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from a2a_agents import agent, events_of
from a2a_card_server import card_server
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.model import settle
from elf_automations.model.from_sdk import SdkSpans
from elf_automations.registry import UnifiedRegistry, default, flush_registry
from elf_automations.registry.background import background_of
from elf_automations.shared.a2a.client import A2AClient, TeamNotFoundError
from elf_automations.shared.a2a.telemetry_client import create_a2a_client
from elf_automations.storage.writer import PostgresWriter
from postgrest_server import serving
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

TOLD = (
    "entity_name, registered_by, current_state, endpoint_url, capabilities, version, metadata, activity_count, tags, "
    "parent_entity_id, display_name"
)


@pytest.fixture(params=["postgres", "supabase"])
def registry_url(request: pytest.FixtureRequest, database_url: str, monkeypatch) -> Iterator[str]:
    """A database the environment names, by its URL or as a Supabase project."""
    if request.param == "postgres":
        monkeypatch.setenv("ELF_DATABASE_URL", database_url)
        yield database_url
    else:
        with serving(database_url) as api:
            monkeypatch.setenv("SUPABASE_URL", api.url)
            monkeypatch.setenv("SUPABASE_SECRET_KEY", api.key)
            yield database_url
    assert flush_registry(15)
    for registry in default._registries.values():
        registry.close()


async def known(url: str, team: str = "sales-team") -> dict[str, Any] | None:
    """Return the team's row once everything told is in the registry."""
    assert await asyncio.to_thread(flush_registry, 15)
    with psycopg.connect(url, row_factory=dict_row) as connection:
        query = f"select {TOLD} from unified_registry where entity_id = %s and entity_type = 'team'"
        return connection.execute(query, (team,)).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]


@pytest.mark.parametrize("how", ["send_task", "get_capabilities", "discover_teams"])
async def test_a_card_makes_its_team_known_and_a_changed_card_refreshes_it(registry_url, how):
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        provider = {"organization": "ACME", "url": "https://acme.example"}
        cards.serve(sales.card, provider=provider)
        # No telemetry: what is told comes from the card alone.
        async with create_a2a_client(
            "marketing-team", enable_telemetry=False, endpoints={"sales-team": cards.url}
        ) as client:

            async def meet() -> None:
                arguments = {"send_task": ("sales-team", "complete"), "get_capabilities": ("sales-team",)}
                await getattr(client, how)(*arguments.get(how, ()))

            await meet()
            expected = {
                "entity_name": "sales-team",
                "registered_by": "telemetry",
                "current_state": "active",
                "endpoint_url": cards.url,
                "capabilities": ["proposals"],
                "version": "2.1",
                "metadata": {
                    "description": "The sales-team",
                    "provider": "ACME",
                    "provider_url": "https://acme.example",
                },
                "activity_count": 0,
                "tags": [],
                "parent_entity_id": None,
                "display_name": None,
            }
            assert await known(registry_url) == expected
            skills = [{"id": "pricing", "name": "Pricing"}, {"name": "haggling"}]
            cards.serve(sales.card, version="3.0", skills=skills, provider=provider)
            await meet()
            assert await known(registry_url) == {
                **expected,
                "capabilities": ["pricing", "haggling"],
                "version": "3.0",
            }


async def test_what_a_team_says_of_itself_stays_and_only_gaps_are_filled(registry_url):
    with UnifiedRegistry() as registry:
        registry.register_entity(
            "sales-team",
            "team",
            "Sales",
            registered_by="team_factory",
            capabilities=["closing"],
            metadata={"description": "We sell"},
        )
    async with (
        agent("sales-team") as sales,
        A2AClient("marketing-team", endpoints={"sales-team": sales.url}) as client,
    ):
        await client.send_task("sales-team", "complete")
    assert await known(registry_url) == {
        "entity_name": "Sales",
        "registered_by": "team_factory",
        "current_state": "registered",
        "endpoint_url": sales.url,
        "capabilities": ["closing"],
        "version": "2.1",
        "metadata": {"description": "We sell"},
        "activity_count": 0,
        "tags": [],
        "parent_entity_id": None,
        "display_name": None,
    }


async def test_a_team_whose_card_has_another_name_stays_who_it_is_and_a_gateway_is_no_endpoint(registry_url):
    spans = Spans()
    async with agent("Sales Agent") as sales, card_server(sales.card) as cards:
        cards.path = "/sales-team/.well-known/agent-card.json"
        async with create_a2a_client("marketing-team", gateway_url=cards.url, tracer_provider=spans.provider) as client:
            assert (await client.send_task("sales-team", "complete"))["status"] == "success"
    (row,) = spans.counted()
    assert (row.target_id, row.target_type, row.metadata["agent_name"]) == ("sales-team", "team", "Sales Agent")
    settled = spans.settled()
    with closing(PostgresWriter(registry_url)) as writer:
        writer.write(settled.rows, settled.entities, retry=False)
    assert await known(registry_url, "Sales Agent") is None
    found = await known(registry_url)
    assert found is not None
    assert (found["endpoint_url"], found["metadata"]["agent_name"]) == (None, "Sales Agent")


@pytest.mark.parametrize("side", ["CLIENT", "SERVER"])
async def test_an_instrumentor_tells_all_that_the_card_says_of_a_team(registry_url, side):
    """Neither end uses a client of ours: what the registry knows comes from the spans alone."""
    async with agent("sales-team") as sales:
        sales.card.provider.organization = "ACME"
        sales.card.provider.url = "https://bob:secret-word@acme.example"
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            client = await sales.client()
            for _ in range(2):
                await events_of(client, "complete")
            await client.close()
    records = SdkSpans()
    settled = settle([found for span in spans.finished if span.kind.name == side and (found := records.record(span))])
    with closing(PostgresWriter(registry_url)) as writer:
        writer.write(settled.rows, settled.entities, retry=False)
    found = await known(registry_url)
    assert found is not None
    assert (found["endpoint_url"], found["capabilities"], found["version"]) == (
        f"{sales.url}/rpc",
        ["proposals"],
        "2.1",
    )
    assert found["metadata"] == {
        "description": "The sales-team",
        "provider": "ACME",
        "provider_url": "https://[REDACTED]:[REDACTED]@acme.example",
    }


def _register(team: str, *capabilities: str, url: str | None = "http://127.0.0.1:9", **state: Any) -> None:
    with UnifiedRegistry() as registry:
        registry.register_entity(team, "team", capabilities=capabilities, endpoint_url=url)
        if state:
            registry.update_state(team, "team", state.get("state", "active"), health_status=state.get("health"))
        for _ in range(state.get("calls", 0)):
            registry.record_activity(team, "team")


async def test_a_task_without_a_team_goes_to_a_healthy_and_lately_active_one(registry_url):
    spans = Spans()
    async with agent("sales-team") as sales:
        _register("a-team", "proposals", "pricing", health="unhealthy")
        _register("b-team", "proposals", "pricing", health="unknown", calls=1)
        _register("c-team", "proposals", "pricing", health="degraded", calls=1)
        _register("d-team", "proposals", "pricing", health="healthy")
        _register("e-team", "proposals", health="healthy", calls=1)
        _register("f-team", "proposals", "pricing", state="stopped", health="healthy", calls=1)
        _register("marketing-team", "proposals", "pricing", health="healthy", calls=1)
        _register("g-team", "proposals", "pricing", url=None, health="healthy", calls=1)
        _register("sales-team", "pricing", "proposals", url=sales.url, health="healthy", calls=1)
        async with create_a2a_client("marketing-team", tracer_provider=spans.provider) as client:
            for _ in range(2):
                answer = await client.send_task(None, "complete", required_capabilities=["proposals", "pricing"])
                assert answer["status"] == "success"
    rows = spans.counted()
    assert [(row.source_id, row.target_id, row.target_type, row.capabilities_required) for row in rows] == [
        ("marketing-team", "sales-team", "team", ["proposals", "pricing"])
    ] * 2


async def test_when_no_team_fits_the_error_and_the_row_name_what_was_missing(registry_url):
    spans = Spans()
    _register("a-team", "proposals", "pricing", health="unhealthy")
    _register("e-team", "proposals", health="healthy")
    asked = {
        ("proposals", "juggling", "flying"): "no healthy team offers 'proposals', 'juggling', 'flying': "
        "no team has 'flying', 'juggling'",
        ("proposals", "pricing"): "no healthy team offers 'proposals', 'pricing': "
        "a-team is unhealthy, e-team lacks 'pricing'",
        (): "a task needs somebody to go to: name a target_team, or required_capabilities",
    }
    async with create_a2a_client("marketing-team", tracer_provider=spans.provider) as client:
        for needed, said in asked.items():
            with pytest.raises(TeamNotFoundError) as raised:
                await client.send_task(None, "complete", required_capabilities=needed)
            assert str(raised.value) == said
    assert [(row.target_id, row.target_type, row.status, row.error_message) for row in spans.counted()] == [
        ("unknown", "external", "error", said) for said in asked.values()
    ]
    assert await known(registry_url, "unknown") is None


async def test_teams_that_only_the_caller_knows_are_asked_by_their_cards():
    async with agent("sales-team") as sales:
        places = {"sales-team": sales.url, "away-team": "http://127.0.0.1:9"}
        async with create_a2a_client("marketing-team", endpoints=places, enable_telemetry=False) as client:
            answer = await client.send_task(None, "complete", required_capabilities=["proposals"])
            assert answer["status"] == "success"
            with pytest.raises(TeamNotFoundError) as raised:
                await client.send_task(None, "complete", required_capabilities=["juggling"])
    assert str(raised.value) == (
        "no healthy team offers 'juggling': no registry is configured; nor does the Agent Card of away-team, sales-team"
    )


async def test_a_registry_that_is_away_is_passed_over_and_named_when_it_mattered(monkeypatch):
    monkeypatch.setenv("ELF_DATABASE_URL", "postgresql://127.0.0.1:1/nowhere")
    async with agent("sales-team") as sales:
        async with create_a2a_client(
            "marketing-team", enable_telemetry=False, gateway_url=sales.url + "/{team}"
        ) as client:
            assert (await client.send_task("sales-team", "complete"))["status"] == "success"
        async with create_a2a_client("marketing-team", enable_telemetry=False) as client:
            with pytest.raises(TeamNotFoundError, match=r"or the registry \(which could not be asked: .*127\.0\.0\.1"):
                await client.send_task("sales-team", "complete")
            with pytest.raises(TeamNotFoundError, match=r"offers 'x': the registry could not be asked: "):
                await client.send_task(None, "complete", required_capabilities=["x"])
    for registry in default._registries.values():
        background_of(registry).start_over()  # what waits for that database would wait for the end of the tests
