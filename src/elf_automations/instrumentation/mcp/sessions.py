"""How long MCP sessions last, on either side, as the convention's two session histograms."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry.metrics import Histogram
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import otel
from elf_automations.instrumentation.mcp.metrics import record
from elf_automations.instrumentation.mcp.peers import transport_attributes

logger = logging.getLogger(__name__)

_HTTP: Final[Mapping[str, AttributeValue]] = {otel.NETWORK_TRANSPORT: "tcp", otel.NETWORK_PROTOCOL_NAME: "http"}
_opened: WeakKeyDictionary[Any, float] = WeakKeyDictionary()


def wrap_enter(prepare: Callable[[], None]) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ClientSession.__aenter__`: a client's session begins, after `prepare`."""

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def enter(self: Any, *args: Any, **kwargs: Any) -> Any:
            prepare()
            _opened[self] = time.perf_counter()
            return await original(self, *args, **kwargs)

        return enter

    return make


def wrap_exit(histogram: Histogram) -> Callable[[Any], Any]:
    """Return the wrapper maker for `ClientSession.__aexit__`: a client's session ends."""

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def leave(self: Any, exc_type: Any = None, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(self, exc_type, *args, **kwargs)
            finally:
                _ended(histogram, _opened.pop(self, None), transport_attributes(self), exc_type)

        return leave

    return make


def wrap_server_run(histogram: Histogram, *, over_http: bool = False) -> Callable[[Any], Any]:
    """Return the wrapper maker for what serves one connection until it closes: `Server.run`, `serve_loop`.

    A stateless HTTP request has no session and is not recorded.
    """

    def make(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(original)
        async def run(*args: Any, **kwargs: Any) -> Any:
            began = None if kwargs.get("stateless") is True else time.perf_counter()
            failed: type[BaseException] | None = None
            try:
                return await original(*args, **kwargs)
            except Exception as error:
                failed = type(error)
                raise
            finally:
                _ended(histogram, began, _HTTP if over_http else {}, failed)

        return run

    return make


def _ended(
    histogram: Histogram,
    began: float | None,
    attributes: Mapping[str, AttributeValue],
    failed: type[BaseException] | None,
) -> None:
    if began is None:
        return
    try:
        error_type = failed.__qualname__ if failed is not None and issubclass(failed, Exception) else None
        record(histogram, time.perf_counter() - began, attributes, error_type=error_type)
    except Exception:
        logger.debug("the end of an MCP session could not be recorded", exc_info=True)
