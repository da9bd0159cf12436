"""`Witness`: what a client tells about a call while it makes it; this one takes no note."""

from __future__ import annotations

from a2a.client.client import Client, ClientCallContext
from a2a.types.a2a_pb2 import AgentCard, GetTaskRequest, SendMessageRequest, StreamResponse, Task

from elf_automations.shared.a2a.endpoints import Location

__all__ = ["Witness"]


class Witness:
    """Looks on while a call is made; this one sees nothing."""

    def chosen(self, team: str) -> None:
        """Learn which team gets the task that named none."""

    def connected(
        self, client: Client, request: SendMessageRequest, context: ClientCallContext, location: Location
    ) -> ClientCallContext | None:
        """Learn which client and request serve the call; return the SDK's call context to use."""
        del client, request, location
        return context

    def met(self, card: AgentCard, location: Location) -> None:
        """Learn the Agent Card of the called team."""

    def saw(self, event: StreamResponse) -> None:
        """Learn an event of the task."""

    async def looked_up(self, client: Client, request: GetTaskRequest, context: ClientCallContext) -> Task:
        """Look a task up: a call of its own, inside the one that sent it."""
        return await client.get_task(request, context=context)
