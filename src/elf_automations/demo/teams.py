"""The demo's A2A teams: real a2a-sdk agents that use tools and ask each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from a2a.utils.constants import TransportProtocol
from starlette.applications import Starlette

Work: TypeAlias = Callable[[str], Awaitable[str]]

SKILLS: Final[Mapping[str, tuple[str, ...]]] = {
    "marketing-team": ("campaigns", "copywriting"),
    "sales-team": ("proposals", "pricing"),
    "support-team": ("triage", "customer-history"),
}


class TaskRefusedError(Exception):
    """The team cannot do the task; the message says why."""


class TeamExecutor(AgentExecutor):
    """Does a team's work; a `TaskRefusedError` makes the task fail, as a real agent reports failure."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Work on the task and report its end."""
        if context.message is None:
            return
        self._running += 1
        self._idle.clear()
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        try:
            await updater.start_work()
            answer = await self._work(context.get_user_input())
            await updater.add_artifact([new_text_part(answer)], name="answer")
            await updater.complete()
        except TaskRefusedError as refusal:
            await updater.failed(new_text_message(str(refusal)))
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Report the task as cancelled."""
        task = context.current_task
        if task is not None:
            await TaskUpdater(event_queue, task.id, task.context_id).cancel()

    async def idle(self) -> None:
        """Wait until nothing is being worked on, as after a caller gave up on a slow task."""
        await self._idle.wait()


def team_card(team: str, url: str) -> AgentCard:
    """Return the Agent Card of a team served at `url`."""
    return AgentCard(
        name=team,
        description=f"The {team.replace('-', ' ')} of the demo",
        version="1.0.0",
        supported_interfaces=[AgentInterface(url=f"{url}/", protocol_binding=TransportProtocol.JSONRPC)],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id=skill, name=skill, description=skill, tags=[skill]) for skill in SKILLS[team]],
    )


def team_application(team: str, executor: TeamExecutor) -> Callable[[str], Starlette]:
    """Return what makes the web application of a team once its URL is known."""

    def application(url: str) -> Starlette:
        card = team_card(team, url)
        handler = DefaultRequestHandler(agent_executor=executor, task_store=InMemoryTaskStore(), agent_card=card)
        return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])

    return application
