"""`A2AClient`: sends tasks to other teams over the real A2A protocol, without telemetry of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from a2a.client.base_client import BaseClient
from a2a.client.client import Client
from a2a.client.errors import A2AClientTimeoutError
from a2a.types.a2a_pb2 import AgentCard
from a2a.utils.constants import TransportProtocol
from google.protobuf.json_format import MessageToDict

from elf_automations.instrumentation.a2a.attributes import binding_of, streams
from elf_automations.instrumentation.a2a.deadline import within_deadline
from elf_automations.instrumentation.identity import acting_as
from elf_automations.registry.agent_cards import CardsSeen
from elf_automations.shared.a2a.answers import Answer, offers, team_of
from elf_automations.shared.a2a.cards import FoundCard
from elf_automations.shared.a2a.choosing import choose_team, why_none_fits
from elf_automations.shared.a2a.connections import Connections
from elf_automations.shared.a2a.endpoints import Endpoints, Location, TeamNotFoundError
from elf_automations.shared.a2a.following import Limits, follow
from elf_automations.shared.a2a.requests import TaskOrder
from elf_automations.shared.a2a.witness import Witness

__all__ = ["A2AClient", "TeamNotFoundError"]

_CARDS_AT_ONCE: Final = 16
# A limit of the transport that was set to what was left of the deadline ends the call just before our own does.
_SAME_MOMENT_SECONDS: Final = 0.05


class A2AClient:
    """A team's client for other teams, over JSON-RPC, HTTP+JSON and, with the extra `grpc`, gRPC.

    `team_id` is who calls, `team_endpoint` where that team itself is served; `timeout` is in seconds and bounds
    each wait for the called team (over gRPC a stream is bound by the deadline alone). Teams are found by `endpoints`
    (team id → base URL), ELF_A2A_ENDPOINTS (`team=url,…`), the registry, then the gateway (`gateway_url` or
    A2A_GATEWAY_URL). Cards and connections are fetched on first use and kept; a card is asked for again as its server
    says (Cache-Control, else ETag), and what it says goes into the registry. `close()` or `async with` lets go of all.
    """

    def __init__(
        self,
        team_id: str,
        team_endpoint: str = "http://localhost:8090",
        timeout: float = 300,
        gateway_url: str | None = None,
        use_gateway: bool = True,
        *,
        endpoints: Mapping[str, str] | None = None,
    ) -> None:
        self.team_id = team_id
        self.team_endpoint = team_endpoint
        self.timeout = timeout
        self._endpoints = Endpoints(endpoints, gateway_url, use_gateway=use_gateway)
        self._connections = Connections(self._endpoints, timeout, self._met)
        self._cards_seen = CardsSeen()

    async def send_task(
        self,
        target_team: str | None,
        task_description: str,
        context: Mapping[str, Any] | None = None,
        deadline_seconds: float = 3600,
        required_capabilities: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Send a task and wait for its end: by its stream or, where the team cannot stream, by looking it up.

        With `target_team` None a healthy team that has all of `required_capabilities` gets it, found in the registry.
        Returns a dict of status (success, error, cancelled), task_id, context_id, state (`TASK_STATE_*`), text,
        status_text and artifacts; a task that failed or was rejected is an answer too. Raises TeamNotFoundError before
        any request, A2AClientTimeoutError when the team is silent for `timeout` or all of it, finding the team
        included, takes more than `deadline_seconds`, and the SDK's own exceptions.
        """
        order = TaskOrder(
            target_team=target_team,
            description=task_description,
            context=context,
            deadline_seconds=deadline_seconds,
            required_capabilities=required_capabilities,
        )
        return await self._send(order, Witness())

    async def discover_teams(self, capability: str | None = None) -> list[dict[str, Any]]:
        """Return the teams that `endpoints`, ELF_A2A_ENDPOINTS and the registry name, with what their cards say.

        With `capability` only teams with a skill of that id, name or tag. A team that cannot be reached is
        listed with `error` when no capability is asked for.
        """
        return await self._discover(capability)

    async def get_capabilities(self, target_team: str | None = None) -> dict[str, Any]:
        """Return what the Agent Card of a team says now; without `target_team` that of this client's own team.

        Raises TeamNotFoundError, and the SDK's AgentCardResolutionError and A2AClientTimeoutError.
        """
        return await self._capabilities(target_team, Witness())

    async def close(self) -> None:
        """Close the connections; the client may be used again."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _send(self, order: TaskOrder, witness: Witness) -> dict[str, Any]:
        limits = Limits(self.timeout, time.monotonic() + order.deadline_seconds)
        deadline = asyncio.timeout(order.deadline_seconds)
        try:
            # An instrumentor, where one is on, learns from this who calls, and what ended a call that was cut off.
            with acting_as(self.team_id), within_deadline(deadline.expired):
                async with deadline:
                    return await self._sent(order, limits, witness)
        except (TimeoutError, A2AClientTimeoutError) as error:
            ended = deadline.expired() or limits.end - time.monotonic() < _SAME_MOMENT_SECONDS
            if not ended:
                raise
            team = f"team {order.target_team}" if order.target_team else "a team with the capabilities"
            message = f"{team} did not finish the task within {order.deadline_seconds} s"
            raise A2AClientTimeoutError(message) from error

    async def _sent(self, order: TaskOrder, limits: Limits, witness: Witness) -> dict[str, Any]:
        team = order.target_team
        if team is None:
            team = await self._choose(tuple(map(str, order.required_capabilities or ())))
            witness.chosen(team)
        answer = Answer()
        async with self._connections.to(team) as connection:
            client = connection.client
            # A deadline beyond one wait: the team answers at once and is asked again, unless it tells by itself.
            at_once = not _streams(client) and order.deadline_seconds > self.timeout
            request = order.request(self.team_id, at_once=at_once)
            context = limits.context(whole=_bounds_whole_calls(client))
            sent = witness.connected(client, request, context, connection.location)
            async for event in client.send_message(request, context=sent):
                witness.saw(event)
                answer.add(event)
            await follow(client, answer, limits, witness)
        return answer.as_dict()

    async def _choose(self, needed: tuple[str, ...]) -> str:
        if not needed:
            message = "a task needs somebody to go to: name a target_team, or required_capabilities"
            raise TeamNotFoundError(message)
        rows, trouble = await self._endpoints.registered()
        rows = [row for row in rows if row["entity_id"] != self.team_id]
        best = choose_team(rows, needed)
        if best is not None:
            return best
        taken = {self.team_id, *(row["entity_id"] for row in rows)}
        others = {team: url for team, url in self._endpoints.stated().items() if team not in taken}
        found = await self._cards(others)
        able = sorted(team for team, each in found.items() if isinstance(each, FoundCard) and offers(each.card, needed))
        if able:
            return able[0]
        reason = trouble or why_none_fits(rows, needed)
        wanted = ", ".join(map(repr, needed))
        asked = f"; nor does the Agent Card of {', '.join(sorted(others))}" if others else ""
        message = f"no healthy team offers {wanted}: {reason}{asked}"
        raise TeamNotFoundError(message)

    async def _capabilities(self, target_team: str | None, witness: Witness) -> dict[str, Any]:
        team = self.team_id if target_team is None else target_team
        location = Location(self.team_endpoint) if target_team is None else await self._endpoints.locate(team)
        found = await self._connections.card(team, location)
        witness.met(found.card, location)
        return team_of(team, found.card, location.url)

    async def _discover(self, capability: str | None) -> list[dict[str, Any]]:
        places = await self._endpoints.known()
        listed: list[dict[str, Any]] = []
        for team, found in (await self._cards(places)).items():
            if isinstance(found, FoundCard):
                if capability is None or offers(found.card, (capability,)):
                    listed.append(team_of(team, found.card, places[team]))
            elif capability is None:
                listed.append({"team_id": team, "endpoint": places[team], "error": str(found)})
        return listed

    async def _cards(self, places: Mapping[str, str]) -> dict[str, FoundCard | Exception]:
        """Return the card of each team, or what kept it away."""
        few = asyncio.Semaphore(_CARDS_AT_ONCE)

        async def card(team: str) -> FoundCard | Exception:
            async with few:
                try:
                    return await self._connections.card(team, Location(places[team]))
                except Exception as error:
                    return error

        return dict(zip(places, await asyncio.gather(*map(card, places)), strict=True))

    def _met(self, team: str, card: AgentCard, location: Location) -> None:
        self._cards_seen.tell(team, MessageToDict(card), None if location.behind_gateway else location.url)


def _streams(client: Client) -> bool:
    return isinstance(client, BaseClient) and streams(client)


def _bounds_whole_calls(client: Client) -> bool:
    """Whether the limit of a call is one for all of a stream, as a gRPC deadline is, not for each wait."""
    return isinstance(client, BaseClient) and _streams(client) and binding_of(client) == TransportProtocol.GRPC.value
