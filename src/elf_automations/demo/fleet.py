"""The fleet at work: who does what in one round of the demo."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from typing import Any, Final, Self

from a2a.client.errors import A2AClientTimeoutError
from mcp import Client, StdioServerParameters

from elf_automations.demo import workflows
from elf_automations.demo.ledger import Ledger
from elf_automations.demo.serving import served
from elf_automations.demo.teams import SKILLS, TaskRefusedError, TeamExecutor, Work
from elf_automations.demo.tools import NOTES, crm_tools
from elf_automations.instrumentation import acting_as
from elf_automations.registry import UnifiedRegistry, flush_registry
from elf_automations.shared.a2a import serve_team
from elf_automations.shared.a2a.telemetry_client import A2AClientWithTelemetry, create_a2a_client
from n8n.workflow_registration import N8NWebhookHandler, N8NWorkflowRegistry

_LATE: Final = 0.6
_PATIENCE: Final = 0.25
_REGISTRY_SECONDS: Final = 10.0


class Fleet:
    """Three A2A teams, two MCP servers and one n8n workflow on loopback, working against `database_url`."""

    def __init__(self, database_url: str, ledger: Ledger) -> None:
        self._database_url = database_url
        self.ledger = ledger
        self._stack = AsyncExitStack()
        self._registry = UnifiedRegistry(database_url)
        self._teams: dict[str, A2AClientWithTelemetry] = {}
        self._crm: Client
        self._notes: Client
        self._workflows: N8NWebhookHandler

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            crm_url = await stack.enter_async_context(served(lambda _: crm_tools().streamable_http_app()))
            self._crm = await stack.enter_async_context(Client(f"{crm_url}/mcp"))
            self._notes = await stack.enter_async_context(Client(self._notes_server()))
            await self._open_teams(stack)
            self._workflows = N8NWebhookHandler(N8NWorkflowRegistry(self._database_url))
            await workflows.announce(self._workflows)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()
        # What the teams said of themselves belongs to what the demo shows.
        await asyncio.to_thread(flush_registry, _REGISTRY_SECONDS)
        self._registry.close()

    async def round(self, number: int) -> None:
        """Let everybody work once; every call made is in the ledger when this returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._use_tools())
            group.create_task(self._delegate())
            group.create_task(workflows.run_workflow(self._workflows, self.ledger, number))

    async def _open_teams(self, stack: AsyncExitStack) -> None:
        work: dict[str, Work] = {
            "marketing-team": self._market,
            "sales-team": self._sell,
            "support-team": self._support,
        }
        endpoints: dict[str, str] = {}
        for team, skills in SKILLS.items():
            about = f"The {team.replace('-', ' ')} of the demo"
            serving = serve_team(
                team, TeamExecutor(work[team]), skills=skills, description=about, registry=self._registry
            )
            endpoints[team] = (await stack.enter_async_context(serving)).url
        for team in SKILLS:
            client = create_a2a_client(team_id=team, endpoints=endpoints)
            self._teams[team] = client
            stack.push_async_callback(client.close)

    async def _use_tools(self) -> None:
        call, session = self._crm.call_tool, self._crm.session
        with acting_as("marketing-team"):
            for query in ("Ada", "Grace", "Edsger"):
                await self.ledger.tool_call(call("search_customers", {"query": query}))
            await self.ledger.tool_call(call("lookup_price", {"plan": "free lunch"}))
            await self.ledger.tool_call(
                session.call_tool("yearly_report", {"seconds": _LATE}, read_timeout_seconds=_PATIENCE)
            )
            await self._cancelled(call("yearly_report", {"seconds": _LATE}))
        with acting_as("support-team"):
            await self.ledger.tool_call(self._notes.call_tool("write_note", {"title": "todo", "text": "Call back"}))
            await self.ledger.tool_call(self._notes.call_tool("read_note", {"title": "todo"}))
            await self.ledger.tool_call(self._notes.call_tool("read_note", {"title": "lost"}))

    async def _delegate(self) -> None:
        marketing, sales = self._teams["marketing-team"], self._teams["sales-team"]
        await self._task(marketing, "sales-team", "Generate proposal for the fleet plan")
        await self._task(marketing, "support-team", "Translate the manual")
        await self._task(sales, "support-team", "Collect the whole history", deadline_seconds=_PATIENCE)

    async def _task(self, client: A2AClientWithTelemetry, team: str, description: str, **options: Any) -> None:
        try:
            result = await client.send_task(target_team=team, task_description=description, **options)
        except A2AClientTimeoutError:
            self.ledger.note("a2a", "timeout")
        else:
            completed = result["state"] == "TASK_STATE_COMPLETED"
            self.ledger.note("a2a", "success" if completed else "error")

    async def _cancelled(self, call: Any) -> None:
        waiting = asyncio.ensure_future(call)
        await asyncio.sleep(_PATIENCE)
        waiting.cancel()
        try:
            await waiting
        except asyncio.CancelledError:
            self.ledger.note("mcp", "cancelled")

    async def _market(self, _: str) -> str:
        return "the campaign is planned"

    async def _sell(self, _: str) -> str:
        result = await self.ledger.tool_call(self._crm.call_tool("lookup_price", {"plan": "fleet"}))
        await self._task(self._teams["sales-team"], "support-team", "Summarise the customer's history")
        return f"our offer: {result.content[0].text}"

    async def _support(self, task: str) -> str:
        if task.startswith("Translate"):
            message = "nobody here speaks that language"
            raise TaskRefusedError(message)
        if task.startswith("Collect"):
            await asyncio.sleep(_LATE)
        return "one open ticket, two solved"

    def _notes_server(self) -> StdioServerParameters:
        environment = {
            "ELF_DATABASE_URL": self._database_url,
            "ELF_ENTITY_ID": NOTES,
            "ELF_ENTITY_TYPE": "mcp_server",
        }
        return StdioServerParameters(
            command=sys.executable,
            args=["-m", "elf_automations.demo.tools"],
            env={**environment, **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}},
        )
