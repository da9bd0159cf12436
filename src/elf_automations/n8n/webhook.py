"""The webhook that takes n8n's events: `POST /n8n/webhook`, with a token and limits, beside the guide's own pattern."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

import orjson
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from elf_automations.registry.workflow_events import BAD_EVENT, UNAVAILABLE
from elf_automations.sink.bearer import Token

__all__ = ["PATH", "EventReceiver"]

PATH: Final = "/n8n/webhook"
MAX_BYTES: Final = 16 * 1024 * 1024
_BODY_SECONDS: Final = 30.0
_STATUS_OF: Final[Mapping[object, int]] = {BAD_EVENT: 400, UNAVAILABLE: 503}

Handle = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


class _RefusedError(Exception):
    """A request that does not reach the handler."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class EventReceiver:
    """The ASGI application (`app`) that hands events to `handle`, as `N8NWebhookHandler.handle_workflow_event` is one.

    It answers what the handler answers: 200, 400 for an event that makes no sense, 503 when the registry cannot take it
    now; and 401 without the token, 413 for a body over `max_bytes`, 400 for what is not JSON, 408 for a body that does
    not arrive within `body_seconds`.
    """

    def __init__(
        self, handle: Handle, token: Token, *, max_bytes: int = MAX_BYTES, body_seconds: float = _BODY_SECONDS
    ) -> None:
        self._handle, self._token = handle, token
        self._max_bytes, self._body_seconds = max_bytes, body_seconds
        self.app = Starlette(
            routes=[
                Route(PATH, self._event, methods=["POST"]),
                Route("/healthz", self._health, methods=["GET"]),
            ]
        )

    async def _event(self, request: Request) -> Response:
        try:
            answer = await self._handle(await self._told(request))
        except _RefusedError as error:
            headers = {"www-authenticate": "Bearer"} if error.status == 401 else None  # noqa: PLR2004
            return JSONResponse({"status": "error", "error": str(error)}, error.status, headers)
        except ClientDisconnect:
            return Response(status_code=400)
        failed = answer.get("status") == "error"
        return JSONResponse(answer, _STATUS_OF.get(answer.get("code"), 500) if failed else 200)

    async def _told(self, request: Request) -> Mapping[str, Any]:
        if not self._token.admits(request.headers.get("authorization")):
            raise _RefusedError(401, "the bearer token is missing or wrong")
        try:
            body = await self._body(request)
            return cast("Mapping[str, Any]", orjson.loads(body))
        except orjson.JSONDecodeError as error:
            raise _RefusedError(400, f"the body is not JSON: {error}") from None
        except TimeoutError:
            raise _RefusedError(408, f"the body did not arrive within {self._body_seconds:g} seconds") from None

    async def _body(self, request: Request) -> bytes:
        too_large = f"the body is larger than {self._max_bytes} bytes"
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise _RefusedError(413, too_large)
        body = bytearray()
        async with asyncio.timeout(self._body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > self._max_bytes:
                    raise _RefusedError(413, too_large)
        return bytes(body)

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})
