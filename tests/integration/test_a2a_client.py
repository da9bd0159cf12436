"""The guide's A2A client against real agents: its answers, its one row a call, and how it finds a team."""

from __future__ import annotations

import asyncio
import datetime as dt
import subprocess
import sys
from typing import Any

import pytest
from a2a.client.errors import A2AClientTimeoutError

from a2a_agents import BINDINGS, agent, obey
from a2a_card_server import card_server, offering
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.shared.a2a.client import A2AClient
from elf_automations.shared.a2a.telemetry_client import A2AClientWithTelemetry, create_a2a_client
from tracing import Spans, instrumented

pytestmark = pytest.mark.anyio

NOWHERE = "http://127.0.0.1:9"


async def test_the_guides_first_option_runs_as_written(monkeypatch):
    async with agent("sales-team") as sales:
        monkeypatch.setenv("ELF_A2A_ENDPOINTS", f"sales-team={sales.url}")
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            # Creates client with telemetry enabled by default
            client = create_a2a_client(
                team_id="marketing-team",
                enable_telemetry=True,  # Default
            )

            # All operations are automatically tracked
            result = await client.send_task(target_team="sales-team", task_description="Generate proposal")
            await client.close()
    assert (result["state"], result["text"]) == ("TASK_STATE_COMPLETED", "proposal ready")
    (row,) = spans.counted()
    assert (row.source_id, row.target_id, row.operation) == ("marketing-team", "sales-team", "send_task")
    assert (row.status, row.task_description) == ("success", "Generate proposal")


async def test_the_guides_second_option_is_a_change_of_the_import(monkeypatch):
    results: list[Any] = []
    async with agent("sales-team") as sales:
        monkeypatch.setenv("ELF_A2A_ENDPOINTS", f"sales-team={sales.url}")
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            # Old:
            from elf_automations.shared.a2a.client import A2AClient as Old

            # New:
            from elf_automations.shared.a2a.telemetry_client import A2AClientWithTelemetry as New

            for kind in (Old, New):
                async with kind("marketing-team") as client:
                    result = await client.send_task("sales-team", "Generate proposal")
                    results.append({**result, "task_id": None, "context_id": None, "artifacts": None})
    old, new = results
    assert old == new
    assert [(row.source_id, row.task_description) for row in spans.counted()] == [
        ("marketing-team", None),
        ("marketing-team", "Generate proposal"),
    ]


@pytest.mark.parametrize("automatic", [False, True], ids=["by hand", "instrumented"])
async def test_one_task_is_one_row_with_all_that_is_known_of_it(automatic):
    spans = Spans()
    async with agent("sales-team") as sales:

        async def send() -> dict[str, Any]:
            async with create_a2a_client(
                "marketing-team", endpoints={"sales-team": sales.url}, tracer_provider=spans.provider
            ) as client:
                return await client.send_task(
                    "sales-team",
                    "Write to bob with password=hunter22",
                    context={"customer": "ACME", "due": dt.date(2026, 3, 1)},
                    required_capabilities=["proposals"],
                )

        if automatic:
            with instrumented(A2AInstrumentor(), spans):
                result = await send()
        else:
            result = await send()

    (row,) = spans.counted()
    assert [span.name for span in spans.finished if span.kind.name == "CLIENT"] == ["SendStreamingMessage"]
    assert (row.source_id, row.source_type, row.target_id, row.target_type) == (
        "marketing-team",
        "team",
        "sales-team",
        "team",
    )
    assert (row.protocol, row.operation, row.message_type, row.status) == (
        "a2a",
        "send_task",
        "task_request",
        "success",
    )
    assert row.task_description == "Write to bob with password=[REDACTED]"
    assert row.capabilities_required == ["proposals"]
    assert row.metadata["task_id"] == result["task_id"]
    assert row.metadata["context_id"] == result["context_id"]
    assert row.metadata["task_state"] == result["state"] == "TASK_STATE_COMPLETED"
    assert [artifact["name"] for artifact in result["artifacts"]] == ["proposal"]
    (team,) = [entity for entity in spans.settled().entities if entity.entity_id == "sales-team"]
    assert (team.entity_type, team.observed, team.version, team.capabilities) == ("team", True, "2.1", ("proposals",))
    assert (team.metadata, team.calls) == ({"description": "The sales-team"}, 1)


async def test_an_answer_is_no_exception_and_the_row_tells_how_the_task_ended():
    spans = Spans()
    orders = ("complete", "fail", "reject", "authenticate", "ask", "cancel", "greet")
    async with (
        agent("sales-team") as sales,
        create_a2a_client(
            "marketing-team", endpoints={"sales-team": sales.url}, tracer_provider=spans.provider
        ) as client,
    ):
        answers = [await client.send_task("sales-team", order) for order in orders]
    assert [(answer["state"], answer["text"]) for answer in answers] == [
        ("TASK_STATE_COMPLETED", "proposal ready"),
        ("TASK_STATE_FAILED", "I fail"),
        ("TASK_STATE_REJECTED", "I reject"),
        ("TASK_STATE_AUTH_REQUIRED", "I authenticate"),
        ("TASK_STATE_INPUT_REQUIRED", "I ask"),
        ("TASK_STATE_CANCELED", "I cancel"),
        (None, "hello"),
    ]
    assert [(row.status, row.error_message) for row in spans.counted()] == [
        ("success", None),
        ("error", "I fail"),
        ("error", "I reject"),
        ("error", "I authenticate"),
        ("success", None),
        ("cancelled", "I cancel"),
        ("success", None),
    ]


async def test_silence_and_an_overrun_deadline_are_timeouts():
    async def chatter(request: Any, updater: Any, events: Any) -> None:
        for _ in range(100):
            await updater.start_work()
            await asyncio.sleep(0.05)

    spans = Spans()
    async with agent("sales-team") as sales, agent("chatty-team", chatter) as chatty:
        places = {"sales-team": sales.url, "chatty-team": chatty.url}
        async with create_a2a_client(
            "marketing-team", timeout=0.4, endpoints=places, tracer_provider=spans.provider
        ) as client:
            with pytest.raises(A2AClientTimeoutError, match="Client Request timed out"):
                await client.send_task("sales-team", "hang")
            with pytest.raises(A2AClientTimeoutError, match=r"chatty-team did not finish the task within 0.6 s"):
                await client.send_task("chatty-team", "talk", deadline_seconds=0.6)
    assert [(row.target_id, row.status, row.error_code) for row in spans.counted()] == [
        ("sales-team", "timeout", "timeout"),
        ("chatty-team", "timeout", "timeout"),
    ]


@pytest.mark.parametrize("streaming", [True, False], ids=["stream", "one answer"])
@pytest.mark.parametrize("binding", BINDINGS)
async def test_an_instrumentor_tells_the_plain_clients_overrun_deadline_from_a_cancel(binding, streaming):
    async def chatter(request: Any, updater: Any, events: Any) -> None:
        for _ in range(60):
            await updater.start_work()
            await asyncio.sleep(0.05)

    async with agent("chatty-team", chatter) as chatty, card_server() as cards:
        cards.serve(offering(chatty.card, binding, streaming=streaming))
        with instrumented(A2AInstrumentor(), Spans()) as spans:
            async with A2AClient("marketing-team", endpoints={"chatty-team": cards.url}) as client:
                with pytest.raises(A2AClientTimeoutError, match=r"did not finish the task within 0\.4 s"):
                    await client.send_task("chatty-team", "talk", deadline_seconds=0.4)
                sending = asyncio.create_task(client.send_task("chatty-team", "talk", deadline_seconds=30))
                await asyncio.sleep(0.3)
                sending.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await sending
    assert [(row.observed_by, row.operation, row.status, row.error_code) for row in spans.counted()] == [
        ("client", "send_task", "timeout", "timeout"),
        ("client", "send_task", "cancelled", None),
    ]


async def test_cards_and_teams_that_are_asked_for_are_rows():
    spans = Spans()
    async with agent("sales-team") as sales:
        places = {"sales-team": sales.url, "away-team": NOWHERE}
        async with A2AClientWithTelemetry("marketing-team", endpoints=places, tracer_provider=spans.provider) as client:
            card = await client.get_capabilities("sales-team")
            every = await client.discover_teams()
            selling = await client.discover_teams(capability="sales")
    assert (card["team_id"], card["version"], card["capabilities"]) == ("sales-team", "2.1", ["proposals"])
    assert [team["team_id"] for team in selling] == ["sales-team"]
    assert sorted((team["team_id"], "error" in team) for team in every) == [("away-team", True), ("sales-team", False)]
    assert [(r.operation, r.source_id, r.target_id, r.status, r.capabilities_required) for r in spans.counted()] == [
        ("get_capabilities", "marketing-team", "sales-team", "success", None),
        ("discover_teams", "marketing-team", "unified_registry", "success", None),
        ("discover_teams", "marketing-team", "unified_registry", "success", ["sales"]),
    ]


async def test_switched_off_it_is_the_plain_client():
    spans = Spans()
    async with (
        agent("sales-team") as sales,
        create_a2a_client(
            "marketing-team",
            enable_telemetry=False,
            endpoints={"sales-team": sales.url},
            tracer_provider=spans.provider,
        ) as client,
    ):
        result = await client.send_task("sales-team", "complete")
    assert result["state"] == "TASK_STATE_COMPLETED"
    assert spans.finished == ()


async def test_a_team_that_asks_another_is_the_source_of_what_it_asks():
    spans = Spans()
    async with agent("finance-team") as finance:

        async def ask_finance(request: Any, updater: Any, events: Any) -> None:
            async with create_a2a_client("sales-team", endpoints={"finance-team": finance.url}) as client:
                await client.send_task("finance-team", "complete")
            await obey(request, updater, events)

        async with agent("sales-team", ask_finance) as sales:
            with instrumented(A2AInstrumentor(), spans):
                async with create_a2a_client("marketing-team", endpoints={"sales-team": sales.url}) as client:
                    await client.send_task("sales-team", "complete")
    assert [(row.source_id, row.target_id) for row in spans.counted()] == [
        ("marketing-team", "sales-team"),
        ("sales-team", "finance-team"),
    ]
    assert len({row.trace_id for row in spans.settled().rows}) == 1


def test_without_the_sdk_or_with_an_old_one_the_missing_extra_is_named_in_one_line():
    for missing in ("a2a", "a2a.types"):
        program = f"import sys; sys.modules[{missing!r}] = None; import elf_automations.shared.a2a.client"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr.splitlines()[-1] == (
            "ModuleNotFoundError: elf_automations.shared.a2a needs the A2A SDK, 1.3 or newer: "
            "pip install 'elf-automations[a2a]'"
        )
