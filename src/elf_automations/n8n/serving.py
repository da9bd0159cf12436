"""The webhook as a process: listens, and on SIGTERM finishes what it was given."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from typing import Final

from elf_automations.n8n.webhook import EventReceiver
from elf_automations.sink.configuration import Address
from elf_automations.sink.http_server import HttpServer, bound, http_settings

__all__ = ["serve"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DRAIN_SECONDS: Final = 10


def serve(receiver: EventReceiver, where: Address, listening: Callable[[Address], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then give the requests under way their answers.

    `listening` is told the address once connections are accepted. Raises ConfigurationError for one that cannot be had.
    """
    with bound(where, mend="--host or --port") as at:
        asyncio.run(_serve(receiver, where, at, listening))


async def _serve(
    receiver: EventReceiver, where: Address, at: socket.socket, listening: Callable[[Address], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    server = HttpServer(http_settings(receiver.app, drain_seconds=_DRAIN_SECONDS))
    await server.start(at)
    listening(Address(where.host, at.getsockname()[1]))
    await stop.wait()
    server.stop()
    await server.ended
