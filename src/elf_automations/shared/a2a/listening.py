"""The servers of a team: HTTP for JSON-RPC, HTTP+JSON and the Agent Card, and gRPC when a port is given for it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from collections.abc import Generator
from contextvars import Context
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes, create_rest_routes
from a2a.types.a2a_pb2 import AgentCard
from a2a.utils.constants import TransportProtocol
from starlette.applications import Starlette

from elf_automations.errors import ConfigurationError

__all__ = ["Addresses", "TeamServers"]

_REST_PREFIX: Final = "/rest"
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104  (compared with, not bound to)


class Addresses:
    """The listening socket of a team, the gRPC server's port, and what others call them by.

    `url` is how the team is reached, for teams behind a proxy; by default the host and the port. Raises
    ConfigurationError when an address cannot be had.
    """

    def __init__(self, team_id: str, host: str, port: int, url: str | None, grpc_port: int | None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self.listener = socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            cause = os.strerror(error.errno) if error.errno else str(error)
            message = (
                f"team {team_id} cannot be served at {host}:{port}: {cause}; choose another port, or 0 for any free one"
            )
            raise ConfigurationError(message) from error
        self.port = int(self.listener.getsockname()[1])
        self.url = (url or f"http://{_bracketed(_name(host))}:{self.port}").rstrip("/")
        self.local_url = f"http://{_bracketed('127.0.0.1' if host in _EVERYWHERE else host)}:{self.port}"
        self.grpc_server: Any = None
        self.grpc_address: str | None = None
        if grpc_port is not None:
            self._open_grpc(team_id, host, grpc_port)

    def interfaces(self) -> list[tuple[str, str]]:
        """Return (binding, address) of each way to call the team."""
        offered = [
            (TransportProtocol.JSONRPC.value, f"{self.url}/"),
            (TransportProtocol.HTTP_JSON.value, f"{self.url}{_REST_PREFIX}"),
        ]
        return [*offered, (TransportProtocol.GRPC.value, self.grpc_address)] if self.grpc_address else offered

    async def close(self) -> None:
        """Let go of the addresses."""
        self.listener.close()
        server, self.grpc_server = self.grpc_server, None
        if server is not None:
            with contextlib.suppress(Exception):
                await server.start()  # a server that never ran keeps its port
            await server.stop(None)

    def _open_grpc(self, team_id: str, host: str, port: int) -> None:
        try:
            import grpc  # noqa: PLC0415  (an optional dependency)
        except ImportError:
            self.listener.close()
            message = f"team {team_id} cannot be served over gRPC: pip install 'elf-automations[grpc]'"
            raise ConfigurationError(message) from None
        self.grpc_server = grpc.aio.server()
        try:
            bound = self.grpc_server.add_insecure_port(f"{_bracketed(host) or '[::]'}:{port}")
        except RuntimeError as error:
            self.listener.close()
            message = f"team {team_id} cannot be served over gRPC at {host}:{port}: {error}; choose another grpc_port"
            raise ConfigurationError(message) from error
        self.grpc_address = f"{_bracketed(urlsplit(self.url).hostname or host)}:{bound}"


class TeamServers:
    """Runs the servers of a team, in the context given, from `start()` to `stop()`."""

    def __init__(
        self, addresses: Addresses, card: AgentCard, handler: DefaultRequestHandler, stop_seconds: float
    ) -> None:
        self._addresses = addresses
        self._handler = handler
        self._stop_seconds = stop_seconds
        routes = [
            *create_agent_card_routes(card),
            *create_rest_routes(handler, path_prefix=_REST_PREFIX),
            *create_jsonrpc_routes(handler, "/"),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=math.ceil(stop_seconds),
        )
        self._server = _QuietServer(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, context: Context) -> None:
        """Listen; what is served runs in (copies of) `context`."""
        serving = self._server.serve(sockets=[self._addresses.listener])
        self._serving = asyncio.create_task(serving, context=context)
        grpc_server = self._addresses.grpc_server
        if grpc_server is not None:
            from a2a.server.request_handlers import GrpcHandler  # noqa: PLC0415  (needs grpcio)
            from a2a.types.a2a_pb2_grpc import (  # noqa: PLC0415
                add_A2AServiceServicer_to_server,  # pyright: ignore[reportUnknownVariableType]
            )

            add_A2AServiceServicer_to_server(GrpcHandler(self._handler), grpc_server)
            await asyncio.create_task(grpc_server.start(), context=context)
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110  (uvicorn offers no event)
            await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving

    async def ended(self) -> None:
        """Wait until the servers end; raises what ended them."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    def close(self) -> None:
        """Accept no new connections; those that are open go on."""
        for server in self._server.servers:
            server.close()

    async def stop(self, *, cut_off: bool) -> None:
        """Stop; answers under way are sent to their end within `stop_seconds`, or `cut_off` at once."""
        self._server.should_exit = True
        try:
            if cut_off:
                await self._handler.aclose()
            if self._addresses.grpc_server is not None:
                await self._addresses.grpc_server.stop(self._stop_seconds)
            await self.ended()
        finally:
            await self._handler.aclose()
            await self._addresses.close()


class _QuietServer(uvicorn.Server):
    """Leaves the signals of the process to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Capture none."""
        yield


def _name(host: str) -> str:
    return socket.gethostname() if host in _EVERYWHERE else host


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
