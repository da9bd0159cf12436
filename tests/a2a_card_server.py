"""A server of nothing but an Agent Card, which a test changes while it runs, and of what was asked of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import orjson
import uvicorn
from a2a.types.a2a_pb2 import AgentCard
from google.protobuf.json_format import MessageToDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

WELL_KNOWN = "/.well-known/agent-card.json"


@dataclass
class CardServer:
    """Where it is, the bytes it answers with, under which path, with which headers, and the requests it had."""

    url: str
    body: bytes = b"{}"
    path: str = WELL_KNOWN
    headers: dict[str, str] = field(default_factory=dict)
    etag: bool = True
    seconds: float = 0.0
    asked: list[tuple[str, int]] = field(default_factory=list)

    def serve(self, card: AgentCard, **changes: Any) -> None:
        """Answer with this card from now on; `changes` are put into its JSON."""
        self.body = orjson.dumps({**MessageToDict(card), **changes})

    async def answer(self, request: Request) -> Response:
        await asyncio.sleep(self.seconds)
        tag = {"ETag": f'"{sha256(self.body).hexdigest()}"'} if self.etag else {}
        if request.url.path != self.path:
            return self._noted(request, Response(status_code=404))
        if tag and request.headers.get("If-None-Match") == tag["ETag"]:
            return self._noted(request, Response(status_code=304, headers={**self.headers, **tag}))
        headers: Mapping[str, str] = {**self.headers, **tag}
        return self._noted(request, Response(self.body, headers=dict(headers), media_type="application/json"))

    def _noted(self, request: Request, response: Response) -> Response:
        self.asked.append((request.url.path, response.status_code))
        return response


@asynccontextmanager
async def card_server(card: AgentCard | None = None, **changes: Any) -> AsyncIterator[CardServer]:
    """Serve `card`, with `changes` in its JSON, until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    made = CardServer(f"http://127.0.0.1:{listener.getsockname()[1]}")
    if card is not None:
        made.serve(card, **changes)
    app = Starlette(routes=[Route("/{path:path}", made.answer)])
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=1, ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with asyncio.timeout(10):
        while not server.started:  # noqa: ASYNC110  (uvicorn offers no event)
            await asyncio.sleep(0.005)
    try:
        yield made
    finally:
        server.should_exit = True
        await serving
        listener.close()


def offering(card: AgentCard, *bindings: str, streaming: bool = True) -> AgentCard:
    """Return `card` with only these bindings, in this order."""
    changed = AgentCard()
    changed.CopyFrom(card)
    known = {each.protocol_binding: each for each in card.supported_interfaces}
    del changed.supported_interfaces[:]
    changed.supported_interfaces.extend(known[binding] for binding in bindings)
    changed.capabilities.streaming = streaming
    return changed
