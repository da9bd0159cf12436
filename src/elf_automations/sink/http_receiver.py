"""OTLP over HTTP: `POST /v1/traces` in both encodings, health and metrics, on one port.

Source of the rules: OTLP specification, OTLP/HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from elf_automations.errors import ElfTelemetryError
from elf_automations.model.from_otlp import OtlpSpans
from elf_automations.model.from_otlp_bytes import MalformedRequestError, from_json, from_protobuf
from elf_automations.sink import answers
from elf_automations.sink.accounts import Accounts
from elf_automations.sink.bearer import Token
from elf_automations.sink.inflation import TooLargeError, inflate
from elf_automations.sink.intake import Intake
from elf_automations.sink.room import Room

TRACES_PATH: Final = "/v1/traces"
_DECODERS: Final[dict[str, Callable[[bytes], OtlpSpans]]] = {answers.PROTOBUF: from_protobuf, answers.JSON: from_json}
_BODIES_RECEIVED: Final = 4
_INFLATING_THREADS: Final = 2
_PROMETHEUS_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"


class _RefusedError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: int, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.status, self.code, self.retry = status, code, retry


class HttpReceiver:
    """The ASGI application of a sink.

    `max_bytes` bounds a body before and after inflation, and four times that what those being received hold together;
    `body_seconds` is the time one may take to arrive,
    `retry_seconds` is when a client that cannot be served now shall come again.
    """

    def __init__(
        self,
        intake: Intake,
        accounts: Accounts,
        token: Token,
        *,
        max_bytes: int,
        body_seconds: float = 30.0,
        retry_seconds: int = 5,
    ) -> None:
        self._intake, self._accounts, self._token = intake, accounts, token
        self._max_bytes, self._body_seconds, self._retry_seconds = max_bytes, body_seconds, retry_seconds
        self._room = Room(_BODIES_RECEIVED * max_bytes)
        # Threads of its own: those of the loop are for stopping the sink.
        self._inflating = ThreadPoolExecutor(_INFLATING_THREADS, "elf-sink-inflate")
        self.draining = False
        self.app = Starlette(
            routes=[
                Route(TRACES_PATH, self._traces, methods=["POST"]),
                Route("/healthz", self._health, methods=["GET"]),
                Route("/readyz", self._ready, methods=["GET"]),
                Route("/metrics", self._metrics, methods=["GET"]),
            ]
        )

    def close(self) -> None:
        """Inflate nothing more."""
        self._inflating.shutdown(wait=False, cancel_futures=True)

    async def _traces(self, request: Request) -> Response:
        began = time.monotonic()
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        try:
            answer, status, headers = await self._stored(request, content_type), 200, dict[str, str]()
        except _RefusedError as error:
            retry = self._retry_seconds if error.retry else None
            answer: Message = answers.failure(error.code, str(error), retry_seconds=retry)
            status, headers = error.status, {"retry-after": str(retry)} if retry else {}
            if status == 401:  # noqa: PLR2004
                headers["www-authenticate"] = "Bearer"
        self._accounts.request("http", str(status), time.monotonic() - began)
        kind = content_type if content_type in _DECODERS else answers.PROTOBUF
        return Response(answers.encoded(answer, kind), status, headers, kind)

    async def _stored(self, request: Request, content_type: str) -> Message:
        if not self._token.admits(request.headers.get("authorization")):
            raise _RefusedError(401, answers.UNAUTHENTICATED, "the bearer token is missing or wrong")
        decode = _DECODERS.get(content_type)
        if decode is None:
            message = f"the content type is not one of {', '.join(_DECODERS)}"
            raise _RefusedError(415, answers.INVALID_ARGUMENT, message)
        body = await self._received(request)
        try:
            receipt = await asyncio.wrap_future(self._intake.submit(body, decode))
        except MalformedRequestError as error:
            raise _RefusedError(400, answers.INVALID_ARGUMENT, str(error)) from None
        except ElfTelemetryError as error:
            # Whatever keeps the database from taking data, the data is good: it must come again, not be dropped.
            raise _RefusedError(503, answers.UNAVAILABLE, str(error), retry=True) from None
        except Exception as error:
            message = f"the spans could not be stored: {type(error).__name__}"
            raise _RefusedError(503, answers.UNAVAILABLE, message, retry=True) from error
        return answers.accepted(receipt.refused)

    async def _received(self, request: Request) -> bytes:
        try:
            return await self._body(request)
        except Exception as error:
            self._accounts.unread(error)
            raise self._refusal(error) from error

    def _refusal(self, error: Exception) -> _RefusedError:
        """Return the answer to a body that could not be read."""
        match error:
            case TooLargeError():
                return _RefusedError(413, answers.RESOURCE_EXHAUSTED, str(error))
            case MalformedRequestError():
                return _RefusedError(400, answers.INVALID_ARGUMENT, str(error))
            case ClientDisconnect():
                return _RefusedError(400, answers.INVALID_ARGUMENT, "the client went away")
            case TimeoutError():
                # 408 would be the word for it, but clients drop what gets it.
                message = f"the body did not arrive within {self._body_seconds:g} seconds"
                return _RefusedError(503, answers.UNAVAILABLE, message, retry=True)
            case ElfTelemetryError():
                return _RefusedError(503, answers.UNAVAILABLE, str(error), retry=True)
            case _:
                message = f"the body could not be read: {type(error).__name__}"
                return _RefusedError(503, answers.UNAVAILABLE, message, retry=True)

    async def _body(self, request: Request) -> bytes:
        limit = self._max_bytes
        too_large = f"the body is larger than {limit} bytes"
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            raise TooLargeError(too_large)
        body = bytearray()
        with self._room.part() as hold:
            async with asyncio.timeout(self._body_seconds):
                async for chunk in request.stream():
                    hold(len(chunk))
                    body += chunk
                    if len(body) > limit:
                        raise TooLargeError(too_large)
            encoding = request.headers.get("content-encoding", "").strip().lower()
            if not encoding:
                return bytes(body)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._inflating, inflate, bytes(body), encoding, limit)

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _ready(self, _request: Request) -> Response:
        if self.draining:
            return JSONResponse({"status": "the sink is stopping"}, 503)
        if self._intake.failing:
            return JSONResponse({"status": "the database takes no data"}, 503)
        return JSONResponse({"status": "ok"})

    async def _metrics(self, request: Request) -> Response:
        if not self._token.admits(request.headers.get("authorization")):
            return Response("the bearer token is missing or wrong\n", 401, {"www-authenticate": "Bearer"})
        return Response(self._accounts.exposition(), 200, media_type=_PROMETHEUS_TEXT)
