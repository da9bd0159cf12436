"""Agent Cards: read once however many ask, read again when they changed, and a clear word when there is none."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from a2a.client.errors import A2AClientError, A2AClientTimeoutError, AgentCardResolutionError

from a2a_agents import agent, obey
from a2a_card_server import WELL_KNOWN, card_server, offering
from elf_automations.shared.a2a.telemetry_client import create_a2a_client
from tracing import Spans

pytestmark = pytest.mark.anyio


async def test_many_first_tasks_at_once_read_the_card_once_and_share_one_client():
    spans = Spans()
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        cards.seconds = 0.1
        async with create_a2a_client(
            "marketing-team", endpoints={"sales-team": cards.url}, tracer_provider=spans.provider
        ) as client:
            answers = await asyncio.gather(*(client.send_task("sales-team", "complete") for _ in range(20)))
            assert len(client._connections._known) == 1
        assert cards.asked == [(WELL_KNOWN, 200)]
    assert {answer["status"] for answer in answers} == {"success"}
    assert len({answer["task_id"] for answer in answers}) == 20
    assert len(spans.counted()) == 20


async def test_one_that_gives_up_does_not_take_the_card_from_the_others():
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        cards.seconds = 0.4
        async with create_a2a_client("marketing-team", endpoints={"sales-team": cards.url}) as client:
            hasty = asyncio.create_task(client.send_task("sales-team", "complete", deadline_seconds=0.1))
            patient = asyncio.create_task(client.send_task("sales-team", "complete"))
            with pytest.raises(A2AClientTimeoutError, match=r"team sales-team did not finish the task within 0\.1 s"):
                await hasty
            assert (await patient)["status"] == "success"
        assert cards.asked == [(WELL_KNOWN, 200)]


async def test_who_waits_for_a_card_when_the_client_is_closed_is_told_so_and_a_cancel_stays_a_cancel():
    spans = Spans()
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        cards.seconds = 0.5
        client = create_a2a_client(
            "marketing-team", endpoints={"sales-team": cards.url}, tracer_provider=spans.provider
        )
        waiting, leaving = (asyncio.create_task(client.send_task("sales-team", "complete")) for _ in range(2))
        await asyncio.sleep(0.1)
        leaving.cancel()
        await client.close()
        with pytest.raises(A2AClientError, match="the client was closed while it looked for team 'sales-team'"):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert (await client.send_task("sales-team", "complete"))["status"] == "success"
        await client.close()
    assert sorted(row.status for row in spans.counted()) == ["cancelled", "error", "success"]


async def test_a_card_that_changed_is_picked_up_by_its_etag_and_kept_while_it_did_not():
    async with agent("sales-team") as old, agent("sales-team") as new, card_server(old.card) as cards:
        async with create_a2a_client("marketing-team", endpoints={"sales-team": cards.url}) as client:
            for _ in range(2):
                await client.send_task("sales-team", "complete")
            assert await _answering(client) == old.card
            cards.serve(new.card)
            await client.send_task("sales-team", "complete")
            assert await _answering(client) == new.card
            assert (await client.get_capabilities("sales-team"))["version"] == "2.1"
        assert [status for _, status in cards.asked] == [200, 304, 200, 200]


async def _answering(client: Any) -> Any:
    return client._connections._known["sales-team"].found.card


async def test_cache_control_says_for_how_long_nobody_asks_again():
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        cards.headers["Cache-Control"] = "public, max-age=3600"
        async with create_a2a_client("marketing-team", endpoints={"sales-team": cards.url}) as client:
            for _ in range(3):
                await client.send_task("sales-team", "complete")
        assert [status for _, status in cards.asked] == [200]
        cards.asked.clear()
        cards.headers["Cache-Control"] = "no-store"
        cards.etag = False
        async with create_a2a_client("marketing-team", endpoints={"sales-team": cards.url}) as client:
            for _ in range(3):
                await client.send_task("sales-team", "complete")
        assert [status for _, status in cards.asked] == [200, 200, 200]


async def test_a_card_server_that_is_away_does_not_stop_a_team_that_is_known():
    async with agent("sales-team") as sales:
        async with card_server(sales.card) as cards:
            client = create_a2a_client("marketing-team", endpoints={"sales-team": cards.url})
            await client.send_task("sales-team", "complete")
        assert (await client.send_task("sales-team", "complete"))["status"] == "success"
        await client.close()


async def test_the_place_of_older_cards_and_a_cards_own_url_are_found():
    async with agent("sales-team") as sales, card_server(sales.card) as cards:
        cards.path = "/teams/sales/.well-known/agent.json"
        places = [f"{cards.url}/teams/sales", f"{cards.url}/teams/sales/rpc", cards.url + cards.path]
        for place in places:
            async with create_a2a_client("marketing-team", endpoints={"sales-team": place}) as client:
                assert (await client.send_task("sales-team", "complete"))["status"] == "success"


BROKEN = [
    ({"body": b"<html>"}, r"the Agent Card at http://\S+/agent-card.json is no JSON: "),
    ({"body": b'["sales-team"]'}, r"the Agent Card at \S+ is no valid card: Agent card must be a JSON object"),
    ({"body": b'{"name": 5}'}, r"the Agent Card at \S+ is no valid card: "),
    ({"body": b'{"name": "x", "skills": [3]}'}, r"the Agent Card at \S+ is no valid card: "),
    ({"path": "/elsewhere"}, r"the Agent Card at \S+/agent-card.json is not served: HTTP 404"),
]


@pytest.mark.parametrize(("fault", "said"), BROKEN, ids=["html", "list", "name", "skill", "nowhere"])
async def test_a_card_that_cannot_be_read_is_one_exception_and_one_row_that_say_so(fault, said):
    spans = Spans()
    async with card_server() as cards:
        for name, value in fault.items():
            setattr(cards, name, value)
        async with create_a2a_client(
            "marketing-team", endpoints={"sales-team": cards.url}, tracer_provider=spans.provider
        ) as client:
            with pytest.raises(AgentCardResolutionError, match=said) as raised:
                await client.send_task("sales-team", "complete")
    (row,) = spans.counted()
    assert (row.operation, row.target_id, row.status, row.error_message, row.error_code) == (
        "send_task",
        "sales-team",
        "error",
        str(raised.value),
        "AgentCardResolutionError",
    )


async def test_a_dead_endpoint_and_a_silent_one_are_named_with_their_cause():
    spans = Spans()
    async with card_server() as cards:
        cards.seconds = 5
        places = {"away-team": "http://127.0.0.1:9", "mute-team": cards.url, "odd-team": "mailto:sales"}
        async with create_a2a_client(
            "marketing-team", timeout=0.3, endpoints=places, tracer_provider=spans.provider
        ) as client:
            with pytest.raises(AgentCardResolutionError, match=r"http://127\.0\.0\.1:9/\S+ cannot be reached: "):
                await client.send_task("away-team", "complete")
            with pytest.raises(A2AClientTimeoutError, match=r"the Agent Card at \S+ did not come within 0\.3 s"):
                await client.send_task("mute-team", "complete")
            with pytest.raises(AgentCardResolutionError, match="'mailto:sales' is no http:// or https:// URL"):
                await client.send_task("odd-team", "complete")
            began = time.monotonic()
            with pytest.raises(A2AClientTimeoutError, match=r"mute-team did not finish the task within 0\.1 s"):
                await client.send_task("mute-team", "complete", deadline_seconds=0.1)
            assert time.monotonic() - began < 2
    rows = spans.counted()
    assert [(row.target_id, row.status) for row in rows] == [
        ("away-team", "error"),
        ("mute-team", "timeout"),
        ("odd-team", "error"),
        ("mute-team", "timeout"),
    ]
    assert all(row.error_message for row in rows)


async def test_a_team_that_speaks_no_binding_of_ours_is_named_with_those_it_offers():
    spans = Spans()
    async with agent("sales-team") as sales, card_server(offering(sales.card)) as cards:
        cards.serve(sales.card, supportedInterfaces=[{"url": "x://y", "protocolBinding": "CARRIER-PIGEON"}])
        async with create_a2a_client(
            "marketing-team", endpoints={"sales-team": cards.url}, tracer_provider=spans.provider
        ) as client:
            with pytest.raises(
                AgentCardResolutionError, match="offers the bindings CARRIER-PIGEON, this process speaks"
            ):
                await client.send_task("sales-team", "complete")
    (row,) = spans.counted()
    assert (row.status, row.target_id) == ("error", "sales-team")
    assert "CARRIER-PIGEON" in (row.error_message or "")


async def test_a_card_that_changes_during_a_call_does_not_break_the_call():
    async def slow(request: Any, updater: Any, events: Any) -> None:
        if request.get_user_input() == "slow":
            working.set()
            await asyncio.sleep(0.5)
        await obey(request, updater, events)

    working = asyncio.Event()
    async with agent("sales-team", slow) as old, agent("sales-team") as new, card_server() as cards:
        cards.serve(offering(old.card, "GRPC"))
        async with create_a2a_client("marketing-team", endpoints={"sales-team": cards.url}) as client:
            first = asyncio.create_task(client.send_task("sales-team", "slow"))
            await working.wait()
            replaced = client._connections._known["sales-team"]
            cards.serve(offering(new.card, "GRPC"))
            assert (await client.send_task("sales-team", "complete"))["status"] == "success"
            assert not first.done()
            assert (await first)["status"] == "success"
            assert (replaced.retired, replaced.users) == (True, 0)
