"""One SDK client per team, made from its Agent Card at first use and made again when the card changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import httpx
from a2a.client.client import Client, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.client.errors import A2AClientError, A2AClientTimeoutError, AgentCardResolutionError
from a2a.types.a2a_pb2 import AgentCard

from elf_automations.shared.a2a.cards import FoundCard, fetch_card, refresh_card
from elf_automations.shared.a2a.channels import bindings, open_channel
from elf_automations.shared.a2a.endpoints import Endpoints, Location

__all__ = ["CARD_SECONDS", "Connection", "Connections"]

CARD_SECONDS: Final = 10.0


@dataclass(eq=False, slots=True)
class Connection:
    """The SDK's client of one team; it closes when it was replaced and its last user left."""

    location: Location
    found: FoundCard
    client: Client
    users: int = 0
    retired: bool = False

    async def close_when_unused(self) -> None:
        """Close the client unless somebody uses it still."""
        if self.retired and not self.users:
            with suppress(Exception):  # what is given up anyway must not cost a call
                await self.client.close()


class Connections:
    """The connections of one A2A client; those of an event loop that is over are forgotten.

    However many tasks ask for a team at once, its card is fetched once. `met` is told of each new card: the team's
    id, the card, where it is.
    """

    def __init__(self, endpoints: Endpoints, seconds: float, met: Callable[[str, AgentCard, Location], object]) -> None:
        self._endpoints = endpoints
        self._seconds = min(seconds, CARD_SECONDS)
        self._seconds_between_reads = seconds
        self._met = met
        self._known: dict[str, Connection] = {}
        self._under_way: dict[str, asyncio.Task[Connection]] = {}
        self._http: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def to(self, team: str) -> AsyncGenerator[Connection]:
        """Lend the connection to `team`; after the SDK's own errors the team is looked up anew next time.

        Raises what `Endpoints.locate` and `fetch_card` raise, and A2AClientError when `close()` comes in between.
        """
        connection = await self._current(team)
        connection.users += 1
        try:
            yield connection
        except A2AClientError:  # it may have moved
            self._forget(team, connection)
            raise
        finally:
            connection.users -= 1
            await connection.close_when_unused()

    async def card(self, team: str, location: Location | None = None) -> FoundCard:
        """Return the card of `team` as it is now, read at `location` (default: where the team is)."""
        http = self._pool()
        known = self._known.get(team)
        if location is None and known is not None:
            found = known.found
            return found if found.fresh else await refresh_card(http, found, self._seconds)
        location = location or await self._endpoints.locate(team)
        found = await fetch_card(http, location.url, self._seconds)
        self._met(team, found.card, location)
        return found

    async def close(self) -> None:
        """Close what belongs to the running loop; everything may be used again."""
        http, self._http = self._http, None
        known, self._known = list(self._known.values()), {}
        pending, self._under_way = list(self._under_way.values()), {}
        if http is None or self._loop is not asyncio.get_running_loop():
            return
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for connection in known:
            connection.retired, connection.users = True, 0
            await connection.close_when_unused()
        await http.aclose()

    async def _current(self, team: str) -> Connection:
        self._pool()
        known = self._known.get(team)
        if known is not None and known.found.fresh:
            return known
        task = self._under_way.get(team)
        if task is None:
            task = asyncio.create_task(self._renewed(team, known) if known else self._made(team))
            self._under_way[team] = task
            task.add_done_callback(lambda done: self._arrived(team, done))
        caller = asyncio.current_task()
        cancelled = caller.cancelling() if caller else 0
        try:
            # One caller that gives up must not take the others' card away.
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled() or (caller and caller.cancelling() > cancelled):
                raise
            message = f"the client was closed while it looked for team {team!r}"
            raise A2AClientError(message) from None

    def _arrived(self, team: str, done: asyncio.Task[Connection]) -> None:
        if self._under_way.get(team) is done:
            del self._under_way[team]
        if not done.cancelled():
            done.exception()  # seen, also when every caller gave up

    async def _made(self, team: str) -> Connection:
        location = await self._endpoints.locate(team)
        found = await fetch_card(self._pool(), location.url, self._seconds)
        return self._keep(team, location, found)

    async def _renewed(self, team: str, known: Connection) -> Connection:
        try:
            found = await refresh_card(self._pool(), known.found, self._seconds)
        except (A2AClientTimeoutError, AgentCardResolutionError):
            # The card's server is not the agent: whether that one is there, the call itself will tell.
            return known
        if found.card is known.found.card:
            known.found = found
            return known
        self._forget(team, known)
        await known.close_when_unused()
        return self._keep(team, known.location, found)

    def _keep(self, team: str, location: Location, found: FoundCard) -> Connection:
        connection = Connection(location, found, self._client(team, found))
        self._known[team] = connection
        self._met(team, found.card, location)
        return connection

    def _forget(self, team: str, connection: Connection) -> None:
        connection.retired = True
        if self._known.get(team) is connection:
            del self._known[team]

    def _client(self, team: str, found: FoundCard) -> Client:
        spoken = bindings()
        config = ClientConfig(
            httpx_client=self._pool(), supported_protocol_bindings=spoken, grpc_channel_factory=open_channel
        )
        try:
            return ClientFactory(config).create(found.card)
        except ValueError as error:
            offered = ", ".join(sorted({each.protocol_binding for each in found.card.supported_interfaces})) or "none"
            message = (
                f"team {team!r} cannot be called: its Agent Card at {found.url} offers the bindings {offered}, this "
                f"process speaks {', '.join(spoken)} ({error}); GRPC needs pip install 'elf-automations[grpc]'"
            )
            raise AgentCardResolutionError(message) from error

    def _pool(self) -> httpx.AsyncClient:
        """Return the connection pool of the running loop; one of a loop that is over cannot be used or closed."""
        loop = asyncio.get_running_loop()
        if self._http is None or self._loop is not loop:
            self._known, self._under_way = {}, {}
            self._http = httpx.AsyncClient(timeout=self._seconds_between_reads)
            self._loop = loop
        return self._http
