"""An agent executor that knows when nothing is being worked on, so that its server can stop without breaking a task."""

from __future__ import annotations

import asyncio

from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue

__all__ = ["DrainingExecutor"]


class DrainingExecutor(AgentExecutor):
    """Runs another executor, unchanged, and counts what it is working on."""

    def __init__(self, executor: AgentExecutor) -> None:
        self._executor = executor
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Work on the task."""
        self._running += 1
        self._idle.clear()
        try:
            await self._executor.execute(context, event_queue)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Cancel the task."""
        await self._executor.cancel(context, event_queue)

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing is being worked on, at most `seconds`; return whether that came."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True
