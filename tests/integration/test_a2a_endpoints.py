"""Where the A2A client finds a team, and what it says when nobody knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from a2a.client.errors import AgentCardResolutionError

from a2a_agents import agent
from elf_automations.errors import ConfigurationError
from elf_automations.registry import UnifiedRegistry
from elf_automations.shared.a2a.client import A2AClient, TeamNotFoundError
from elf_automations.shared.a2a.telemetry_client import create_a2a_client
from tracing import Spans

pytestmark = pytest.mark.anyio

NOWHERE = "http://127.0.0.1:9"


async def test_a_team_nobody_knows_is_said_before_any_request_and_counted_but_never_registered():
    spans = Spans()
    async with create_a2a_client("marketing-team", tracer_provider=spans.provider) as client:
        with pytest.raises(TeamNotFoundError) as caught:
            await client.send_task("ghost-team", "Generate proposal")
    assert str(caught.value) == (
        "no A2A endpoint is known for team 'ghost-team': it is not in endpoints=, ELF_A2A_ENDPOINTS or the registry, "
        "and no gateway is set; register the team with its endpoint_url, or set "
        "ELF_A2A_ENDPOINTS=ghost-team=http://host:port"
    )
    (row,) = spans.counted()
    assert (row.target_id, row.target_type, row.status, row.error_code) == (
        "ghost-team",
        "team",
        "error",
        "TeamNotFoundError",
    )
    assert [entity.observed for entity in spans.settled().entities if entity.entity_id == "ghost-team"] == [False]


async def test_a_team_that_is_down_raises_the_sdks_own_error_and_may_come_back_elsewhere(monkeypatch):
    spans = Spans()
    async with create_a2a_client("marketing-team", tracer_provider=spans.provider) as client:
        monkeypatch.setenv("ELF_A2A_ENDPOINTS", f"sales-team={NOWHERE}")
        with pytest.raises(AgentCardResolutionError):
            await client.send_task("sales-team", "complete")
        for _ in range(2):
            async with agent("sales-team") as sales:
                monkeypatch.setenv("ELF_A2A_ENDPOINTS", f"sales-team={sales.url}")
                async with asyncio.timeout(10):
                    while (await _state_or_error(client)) != "TASK_STATE_COMPLETED":
                        pass
    assert {row.status for row in spans.counted()} == {"error", "success"}


async def _state_or_error(client: A2AClient) -> Any:
    try:
        return (await client.send_task("sales-team", "complete"))["state"]
    except Exception as error:
        return error


async def test_where_a_team_is_comes_from_the_nearest_source(monkeypatch, database_url):
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    async with agent("sales-team") as sales:
        with UnifiedRegistry() as registry:
            registry.register_entity("sales-team", "team", "Sales", endpoint_url=f"{sales.url}/rpc")
        # From the registry, which knows the RPC address: the card is at the root of its host.
        async with A2AClient("marketing-team", gateway_url=NOWHERE) as client:
            assert (await client.send_task("sales-team", "complete"))["state"] == "TASK_STATE_COMPLETED"
            assert [team["team_id"] for team in await client.discover_teams("sales")] == ["sales-team"]
        monkeypatch.setenv("ELF_A2A_ENDPOINTS", f"sales-team={NOWHERE}")
        async with A2AClient("marketing-team", gateway_url=NOWHERE) as client:
            with pytest.raises(AgentCardResolutionError):
                await client.send_task("sales-team", "complete")
        async with A2AClient("marketing-team", endpoints={"sales-team": sales.url}) as client:
            assert (await client.send_task("sales-team", "complete"))["state"] == "TASK_STATE_COMPLETED"
        # Last the gateway, here one whose address has a place for the team's name.
        monkeypatch.setenv("ELF_A2A_ENDPOINTS", "")
        monkeypatch.setenv("A2A_GATEWAY_URL", f"{sales.url}/teams/{{team}}")
        async with A2AClient("marketing-team") as client:
            assert (await client.send_task("other-team", "complete"))["state"] == "TASK_STATE_COMPLETED"
        async with A2AClient("marketing-team", use_gateway=False) as client:
            with pytest.raises(TeamNotFoundError, match="the gateway is switched off"):
                await client.send_task("other-team", "complete")


async def test_a_malformed_endpoint_setting_is_named(monkeypatch):
    monkeypatch.setenv("ELF_A2A_ENDPOINTS", "sales-team:9001")
    with pytest.raises(ConfigurationError, match=r"ELF_A2A_ENDPOINTS holds 'sales-team:9001': every entry is team=url"):
        await A2AClient("marketing-team").send_task("sales-team", "complete")


def test_one_client_serves_one_event_loop_after_the_other(monkeypatch):
    spans = Spans()
    client = create_a2a_client("marketing-team", tracer_provider=spans.provider)

    async def once() -> str:
        async with agent("sales-team") as sales:
            monkeypatch.setenv("ELF_A2A_ENDPOINTS", f"sales-team={sales.url}")
            result = await client.send_task("sales-team", "complete")
            await client.close()
            return result["state"]

    assert [asyncio.run(once()) for _ in range(2)] == ["TASK_STATE_COMPLETED"] * 2
