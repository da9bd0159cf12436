"""A web server on a free loopback port for as long as a block runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


@asynccontextmanager
async def served(application: Callable[[str], Any]) -> AsyncGenerator[str]:
    """Serve what `application(url)` returns on 127.0.0.1 and yield its URL, without a slash at the end."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(
        uvicorn.Config(application(url), log_level="critical", access_log=False, timeout_graceful_shutdown=2)
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if serving.done():
                serving.result()
            await asyncio.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        await serving
        listener.close()
