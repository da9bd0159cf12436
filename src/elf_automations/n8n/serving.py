"""The webhook as a process: listens, and on SIGTERM finishes what it was given."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Generator
from typing import Final

import uvicorn

from elf_automations.errors import ConfigurationError
from elf_automations.n8n.webhook import EventReceiver
from elf_automations.sink.configuration import Address
from elf_automations.sink.http_protocol import TimedProtocol

__all__ = ["serve"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DRAIN_SECONDS: Final = 10


def serve(receiver: EventReceiver, where: Address, listening: Callable[[Address], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then give the requests under way their answers.

    `listening` is told the address once connections are accepted. Raises ConfigurationError for one that cannot be had.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as at:
        at.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            at.bind((where.host, where.port))
        except OSError as error:
            raise ConfigurationError(
                f"cannot listen on {where}: {error.strerror or error}; choose another --host or --port"
            ) from None
        configuration = uvicorn.Config(
            receiver.app,
            http=TimedProtocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
        server = _Server(configuration, lambda: listening(Address(where.host, at.getsockname()[1])))
        asyncio.run(_run(server, at))


class _Server(uvicorn.Server):
    """uvicorn's server that says when it accepts connections, and leaves signals to us."""

    def __init__(self, configuration: uvicorn.Config, accepting: Callable[[], None]) -> None:
        super().__init__(configuration)
        self._accepting = accepting

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone: uvicorn would raise them again at the end."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when connections are accepted."""
        await super().startup(sockets)
        self._accepting()


async def _run(server: _Server, at: socket.socket) -> None:
    def stop() -> None:
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)
    await server.serve([at])
