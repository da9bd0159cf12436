"""The demo's A2A teams: real a2a-sdk agents that use tools and ask each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater

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

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Work on the task and report its end."""
        if context.message is None:
            return
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

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Report the task as cancelled."""
        task = context.current_task
        if task is not None:
            await TaskUpdater(event_queue, task.id, task.context_id).cancel()
