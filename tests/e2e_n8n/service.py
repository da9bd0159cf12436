"""The service that the workflows call: it does what the path says, and keeps the headers it saw."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

SLOW_SECONDS = 20.0


class Served:
    """A uvicorn server in a thread; `url` is where it listens."""

    def __init__(self, app: Any) -> None:
        settings = uvicorn.Config(
            app, host="127.0.0.1", port=0, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            threading.Event().wait(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(10)


@contextmanager
def obedient() -> Iterator[str]:
    """`/ok/…` answers 200, `/fail/…` 500, `/slow/…` after 20 s, `/flaky/…` 500 the first time."""
    seen: set[str] = set()

    async def act(request: Request) -> Response:
        order, what = request.path_params["order"], request.path_params["what"]
        if order == "slow":
            await asyncio.sleep(SLOW_SECONDS)
        failing = order == "fail" or (order == "flaky" and what not in seen)
        seen.add(what)
        return JSONResponse({"path": request.url.path, "ok": not failing}, 500 if failing else 200)

    with Served(Starlette(routes=[Route("/{order}/{what}", act, methods=["GET", "POST"])])) as url:
        yield url


@contextmanager
def fan_out(*urls: str) -> Iterator[str]:
    """Passes each event on to every webhook of `urls`, in order."""
    import httpx

    async def pass_on(request: Request) -> Response:
        body = await request.body()
        async with httpx.AsyncClient(timeout=30) as client:
            answers = [
                await client.post(url, content=body, headers={"content-type": "application/json"}) for url in urls
            ]
        worst = max(answers, key=lambda answer: answer.status_code)
        return Response(worst.content, worst.status_code, media_type="application/json")

    with Served(Starlette(routes=[Route("/n8n/webhook", pass_on, methods=["POST"])])) as url:
        yield f"{url}/n8n/webhook"
