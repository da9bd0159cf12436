"""`A2AClient`: sends tasks to other teams over the real A2A protocol, without telemetry of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import Client, ClientCallContext, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.client.errors import A2AClientError, A2AClientTimeoutError, AgentCardResolutionError
from a2a.types.a2a_pb2 import AgentCard, SendMessageRequest, StreamResponse
from a2a.utils.constants import TransportProtocol

from elf_automations.instrumentation.identity import acting_as
from elf_automations.shared.a2a.answers import Answer, offers, team_of
from elf_automations.shared.a2a.endpoints import Endpoints, TeamNotFoundError
from elf_automations.shared.a2a.requests import TaskOrder

__all__ = ["A2AClient", "TeamNotFoundError", "Witness"]

_BINDINGS: Final = [TransportProtocol.JSONRPC.value, TransportProtocol.HTTP_JSON.value]
_CARD_SECONDS: Final = 10.0
_DEEPEST_PATH: Final = 8
_NO_CARD_HERE: Final = frozenset({404, 405})


class Witness:
    """Looks on while a call is made; this one sees nothing."""

    def connected(
        self, client: Client, request: SendMessageRequest, context: ClientCallContext
    ) -> ClientCallContext | None:
        """Learn which client and request serve the call; return the SDK's call context to use."""
        del client, request
        return context

    def met(self, card: AgentCard) -> None:
        """Learn the Agent Card of the called team."""

    def saw(self, event: StreamResponse) -> None:
        """Learn an event of the task."""


class A2AClient:
    """A team's client for other teams.

    `team_id` is who calls, `team_endpoint` where that team itself is served; `timeout` is in seconds and bounds
    each wait for the called team. Teams are found by `endpoints` (team id → base URL), ELF_A2A_ENDPOINTS
    (`team=url,…`), the registry, then the gateway (`gateway_url` or A2A_GATEWAY_URL). Cards and connections are
    fetched on first use and kept; `close()` or `async with` lets go of them.
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
        self._clients: dict[str, Client] = {}
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def send_task(
        self,
        target_team: str,
        task_description: str,
        context: Mapping[str, Any] | None = None,
        deadline_seconds: float = 3600,
        required_capabilities: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Send a task and wait for its end.

        Returns a dict of task_id, context_id, state (`TASK_STATE_*`), text, status_text and artifacts; a task that
        failed or was rejected is an answer too. Raises TeamNotFoundError before any request, A2AClientTimeoutError
        when the team is silent for `timeout` or not done within `deadline_seconds`, and the SDK's own exceptions.
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

        Raises TeamNotFoundError and the SDK's AgentCardResolutionError.
        """
        return await self._capabilities(target_team, Witness())

    async def close(self) -> None:
        """Close the connections; the client may be used again."""
        self._clients.clear()
        http, self._http = self._http, None
        if http is not None and self._loop is asyncio.get_running_loop():
            await http.aclose()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self.close()

    async def _send(self, order: TaskOrder, witness: Witness) -> dict[str, Any]:
        answer = Answer()
        patience = min(self.timeout, order.deadline_seconds)
        team = order.target_team
        deadline = asyncio.timeout(order.deadline_seconds)
        try:
            # An instrumentor, where one is on, learns from this who calls.
            with acting_as(self.team_id):
                async with deadline:
                    client = await self._connect(team, patience)
                    request = order.request(self.team_id)
                    context = witness.connected(client, request, ClientCallContext(timeout=patience))
                    async for event in client.send_message(request, context=context):
                        witness.saw(event)
                        answer.add(event)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            message = f"team {team} did not finish the task within {order.deadline_seconds} s"
            raise A2AClientTimeoutError(message) from error
        except A2AClientError:
            self._clients.pop(team, None)  # the team may have moved: look it up again next time
            raise
        return answer.as_dict()

    async def _connect(self, team: str, patience: float) -> Client:
        http = self._connections()
        known = self._clients.get(team)
        if known is not None:
            return known
        card = await self._card(await self._endpoints.locate(team), patience)
        config = ClientConfig(httpx_client=http, supported_protocol_bindings=_BINDINGS)
        return self._clients.setdefault(team, ClientFactory(config).create(card))

    async def _card(self, endpoint: str, patience: float) -> AgentCard:
        """Fetch the card below `endpoint` or, when that is the RPC address itself, below the folders above it."""
        parts = urlsplit(endpoint)
        folders = [folder for folder in parts.path.split("/") if folder][:_DEEPEST_PATH]
        base, limits = f"{parts.scheme}://{parts.netloc}", {"timeout": httpx.Timeout(patience)}
        for depth in range(len(folders), -1, -1):
            place = "/".join((base, *folders[:depth]))
            try:
                return await A2ACardResolver(self._connections(), place).get_agent_card(http_kwargs=limits)
            except AgentCardResolutionError as error:
                if error.status_code not in _NO_CARD_HERE or depth == 0:
                    raise
        raise AssertionError(endpoint)  # the loop returns or raises

    async def _capabilities(self, target_team: str | None, witness: Witness) -> dict[str, Any]:
        endpoint = self.team_endpoint if target_team is None else await self._endpoints.locate(target_team)
        card = await self._card(endpoint, min(self.timeout, _CARD_SECONDS))
        witness.met(card)
        return team_of(card, endpoint)

    async def _discover(self, capability: str | None) -> list[dict[str, Any]]:
        places = await self._endpoints.known()
        patience = min(self.timeout, _CARD_SECONDS)
        cards = await asyncio.gather(
            *(self._card(endpoint, patience) for endpoint in places.values()), return_exceptions=True
        )
        found: list[dict[str, Any]] = []
        for (team, endpoint), card in zip(places.items(), cards, strict=True):
            if isinstance(card, AgentCard):
                if capability is None or offers(card, capability):
                    found.append(team_of(card, endpoint))
            elif not isinstance(card, Exception):
                raise card
            elif capability is None:
                found.append({"team_id": team, "endpoint": endpoint, "error": str(card)})
        return found

    def _connections(self) -> httpx.AsyncClient:
        """Return the connection pool of the running loop; one of a loop that is over cannot be used or closed."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._clients.clear()
            self._http = httpx.AsyncClient(timeout=self.timeout)
            self._loop = loop
        return self._http
