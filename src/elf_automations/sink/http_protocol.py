"""HTTP connections that must send the head of a request in time: a slow one does not hold its place for ever."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS: Final = 10.0


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, and a limit on the time between the first byte of a request and the end of its head.

    uvicorn itself limits only the time a kept-alive connection may stay silent.
    """

    header_seconds = HEADER_SECONDS
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time of the first request."""
        super().connection_made(transport)
        self._start()

    def data_received(self, data: bytes) -> None:
        """Start the time of the next request with its first bytes, end it when the head is there."""
        super().data_received(data)
        if self._in_request():
            self._stop()
        elif self._deadline is None:
            self._start()

    def on_response_complete(self) -> None:
        """Leave the silence between two requests to uvicorn's keep-alive limit."""
        super().on_response_complete()
        self._stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time."""
        self._stop()
        super().connection_lost(exc)

    def _in_request(self) -> bool:
        cycle: Any = self.cycle
        return cycle is not None and not cycle.response_complete

    def _start(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self.header_seconds, self._give_up)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._in_request():
            self.transport.close()
