"""A server of HTTP that its program starts and stops: uvicorn without its signals."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn

from elf_automations.errors import ConfigurationError
from elf_automations.sink.configuration import Address
from elf_automations.sink.http_protocol import TimedProtocol


def bound(where: Address, *, shared: bool = False, mend: str = "--http/--grpc") -> socket.socket:
    """Return a socket bound to an address, which the other processes of a sink may bind as well when it is `shared`.

    Raises ConfigurationError when it cannot be had; `mend` names the options that give another.
    """
    with contextlib.ExitStack() as on_error:
        try:
            family, address = _resolved(where)
            made = on_error.enter_context(socket.socket(family, socket.SOCK_STREAM))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(address)
        except (OSError, UnicodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "no host has such a name"
            raise ConfigurationError(f"cannot listen on {where}: {cause or error}; choose another {mend}") from None
        on_error.pop_all()
    made.set_inheritable(True)
    return made


def _resolved(where: Address) -> tuple[socket.AddressFamily, Any]:
    """Return the address of a socket for `where`; of a name that has both, the IPv4 one."""
    found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, address


def http_settings(app: Any, *, drain_seconds: int, **options: Any) -> uvicorn.Config:
    """Return how `app` is served over HTTP: quietly, with limits of time; `options` are more of uvicorn's own."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=drain_seconds,
        **options,
    )


class HttpServer(uvicorn.Server):
    """uvicorn's server, started and stopped by us: signals are not its affair."""

    ended: asyncio.Task[None]

    def __init__(self, configuration: uvicorn.Config) -> None:
        super().__init__(configuration)
        self._accepts = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield

    async def start(self, at: socket.socket) -> None:
        """Serve in the background; return once connections are accepted."""
        self.ended = asyncio.create_task(self.serve([at]))
        await self._accepts.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when connections are accepted."""
        await super().startup(sockets)
        self._accepts.set()

    def stop(self) -> None:
        """Accept nothing more and end when the requests under way have their answers."""
        self.should_exit = True
