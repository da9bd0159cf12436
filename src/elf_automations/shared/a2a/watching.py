"""Tells the observation of a call what the client learns while it makes it."""

from __future__ import annotations

import logging
from typing import Final

from a2a.client.base_client import BaseClient
from a2a.client.client import Client, ClientCallContext
from a2a.types.a2a_pb2 import AgentCard, GetTaskRequest, SendMessageRequest, StreamResponse, Task
from opentelemetry.trace import Tracer

from elf_automations.conventions import elf
from elf_automations.instrumentation.a2a.attributes import call_attributes, card_of, team_attributes
from elf_automations.instrumentation.a2a.client_side import carry, describe, send_method
from elf_automations.instrumentation.a2a.methods import CLIENT_METHODS
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.spans import start_client_span
from elf_automations.shared.a2a.endpoints import Location
from elf_automations.shared.a2a.witness import Witness

__all__ = ["Watching"]

logger = logging.getLogger(__name__)

_LOOK_UP: Final = CLIENT_METHODS["get_task"]


class Watching(Witness):
    """Puts what a call shows on its span, and makes a span of each look-up inside it.

    The row's target is the team as it was asked for, which is its id in the registry; a card that names it otherwise
    leaves that name in the metadata.
    """

    def __init__(self, seen: Observation, tracer: Tracer, team: str) -> None:
        self._seen = seen
        self._tracer = tracer
        self._team = team
        self._looked_up = 0
        self._place: str | None = None

    def chosen(self, team: str) -> None:
        """Name the call's target."""
        self._team = team
        self._seen.call.set(self._target())

    def connected(
        self, client: Client, request: SendMessageRequest, context: ClientCallContext, location: Location
    ) -> ClientCallContext | None:
        """Describe the call, and return a context that carries it."""
        try:
            self._place = None if location.behind_gateway else location.url
            if isinstance(client, BaseClient):
                self._seen.become(send_method(client))
                describe(self._seen.call, client, request, self._target())
                self._compare(card_of(client))
        except Exception:
            logger.debug("an A2A call could not be described", exc_info=True)
        return carry(context, self._seen.call)

    def met(self, card: AgentCard, location: Location) -> None:
        """Put what the card says on the span."""
        self._place = None if location.behind_gateway else location.url
        self._seen.call.set({**team_attributes(card), **self._target()})
        self._compare(card)

    def saw(self, event: StreamResponse) -> None:
        """Take note of an event."""
        self._seen.see(event)

    async def looked_up(self, client: Client, request: GetTaskRequest, context: ClientCallContext) -> Task:
        """Look the task up, as a status_update of its own."""
        look = self._look(client, request)
        if look is None:
            return await client.get_task(request, context=context)
        self._looked_up += 1
        self._seen.note("looked_up", self._looked_up)
        try:
            with look.call.active():
                task = await client.get_task(request, context=carry(context, look.call))
        except BaseException as error:
            look.fail(error)
            raise
        look.see(task)
        look.conclude()
        return task

    def _look(self, client: Client, request: GetTaskRequest) -> Observation | None:
        try:
            call = start_client_span(self._tracer, _LOOK_UP.name, call_attributes(_LOOK_UP, "client"))
            describe(call, client, request, self._target())
            return Observation(call, _LOOK_UP)
        except Exception:
            logger.debug("an A2A call could not be traced", exc_info=True)
            return None

    def _target(self) -> dict[str, str | None]:
        return {elf.ELF_TARGET_ID: self._team, elf.ELF_TARGET_TYPE: "team", elf.ELF_TARGET_ENDPOINT: self._place}

    def _compare(self, card: AgentCard) -> None:
        if card.name != self._team:
            self._seen.note("agent_name", card.name)
