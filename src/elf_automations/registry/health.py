"""`HealthReporter`: looks at an entity now and then, and tells the registry how it is."""

from __future__ import annotations

import asyncio
import inspect
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, cast

import httpx
from opentelemetry.instrumentation.utils import suppress_instrumentation

from elf_automations.errors import ConfigurationError
from elf_automations.model.redact import safe_text
from elf_automations.registry.background import background_of
from elf_automations.registry.default import default_registry
from elf_automations.registry.unified import UnifiedRegistry
from elf_automations.registry.words import HEALTH

__all__ = ["HealthReporter", "Probe"]

Probe: TypeAlias = str | Callable[[], bool | str | Awaitable[bool | str]]

_JITTER: Final = 0.1
_SERVER_ERROR: Final = 500
_MAX_REASON: Final = 500


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found."""

    health: str
    reason: str | None = None


class HealthReporter:
    """Probes an entity every `interval` seconds and reports it as a heartbeat; a daemon thread that raises nothing.

    `probe` is the URL of a health endpoint (2xx is healthy; 5xx, no answer within `timeout` seconds or nobody there is
    unhealthy; anything else is degraded) or a callback, sync or async, that answers True, False or one of healthy,
    degraded, unhealthy, unknown; one that raises is unhealthy. An answer that took longer than `slow` seconds makes
    healthy degraded. An async callback runs on the loop that ran at `start()`, else on one of its own.

    The first look is at once, the others come `interval` seconds apart, a tenth more or less. Reports go through the
    queue `lifecycle` uses, so a database that is away holds nothing up. An unknown entity is not made.
    """

    def __init__(
        self,
        entity_id: str,
        entity_type: str,
        *,
        probe: Probe,
        interval: float = 30.0,
        timeout: float = 5.0,
        slow: float = 1.0,
        registry: UnifiedRegistry | None = None,
    ) -> None:
        """Report to `registry`, else to the one the environment names; times are in seconds."""
        if min(interval, timeout, slow) <= 0:
            message = "a health reporter's interval, timeout and slow must be more than 0 seconds"
            raise ConfigurationError(message)
        self.entity_id, self.entity_type = entity_id, entity_type
        self._probe, self._interval, self._timeout, self._slow = probe, interval, timeout, slow
        self._registry = registry
        self._lock = threading.Lock()
        self._stopping: threading.Event | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped since."""
        return self._stopping is not None

    def start(self, registry: UnifiedRegistry | None = None) -> None:
        """Begin; a second time changes nothing, and without a database nothing begins.

        `registry` is where to report unless that was said already.
        """
        registry = self._registry or registry or default_registry()
        with self._lock:
            if self._stopping is not None or registry is None:
                return
            self._stopping = stopping = threading.Event()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        thread = threading.Thread(target=self._run, args=(registry, stopping, loop), name="elf-health", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending
            self.stop()

    def stop(self) -> None:
        """End without waiting; nothing is reported any more, not even by a look that is under way."""
        with self._lock:
            stopping, self._stopping = self._stopping, None
            if stopping is not None:
                stopping.set()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start; an async callback runs on this loop."""
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def _run(
        self, registry: UnifiedRegistry, stopping: threading.Event, loop: asyncio.AbstractEventLoop | None
    ) -> None:
        while not stopping.is_set():
            seen = self._look(loop)
            with self._lock:
                if stopping.is_set():
                    return
                self._report(registry, seen)
            stopping.wait(self._interval * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311  (spreads load)

    def _report(self, registry: UnifiedRegistry, seen: _Seen) -> None:
        entity_id, entity_type = self.entity_id, self.entity_type

        def beat(registry: UnifiedRegistry) -> bool:
            return registry.heartbeat(entity_id, entity_type, seen.health, updated_by="health", reason=seen.reason)

        background_of(registry).submit(registry, (entity_id, entity_type), "heartbeat", beat)

    def _look(self, loop: asyncio.AbstractEventLoop | None) -> _Seen:
        started = time.monotonic()
        try:
            seen = self._ask_url(self._probe) if isinstance(self._probe, str) else self._ask_callback(self._probe, loop)
        except (TimeoutError, httpx.TimeoutException):
            return _Seen("unhealthy", f"no answer within {self._timeout:g} s")
        except BaseException as error:  # a callback may raise anything, and the thread must live
            return _Seen("unhealthy", _spoken(error))
        if seen.health == "healthy" and time.monotonic() - started > self._slow:
            return _Seen("degraded", f"the answer took more than {self._slow:g} s")
        return seen

    def _ask_url(self, url: str) -> _Seen:
        # Only the status matters, and a health page that streams for ever must not hold the thread.
        with suppress_instrumentation(), httpx.stream("GET", url, timeout=self._timeout) as response:
            status = response.status_code
        if httpx.codes.is_success(status):
            return _Seen("healthy")
        return _Seen("unhealthy" if status >= _SERVER_ERROR else "degraded", f"HTTP {status}")

    def _ask_callback(
        self, probe: Callable[[], bool | str | Awaitable[bool | str]], loop: asyncio.AbstractEventLoop | None
    ) -> _Seen:
        answer: object = probe()
        if inspect.isawaitable(answer):
            pending = self._in_time(cast("Awaitable[object]", answer))
            if loop is not None and loop.is_running():
                answer = asyncio.run_coroutine_threadsafe(pending, loop).result(self._timeout * 2)
            else:
                answer = asyncio.run(pending)
        if isinstance(answer, str) and answer in HEALTH:
            return _Seen(answer)
        if isinstance(answer, bool):
            return _Seen("healthy") if answer else _Seen("unhealthy", "the probe answered False")
        return _Seen("unknown", f"the probe answered {safe_text(repr(answer), _MAX_REASON)}")

    def _in_time(self, answer: Awaitable[object]) -> Coroutine[Any, Any, object]:
        async def waited() -> object:
            async with asyncio.timeout(self._timeout):
                return await answer

        return waited()


def _spoken(error: BaseException) -> str:
    """Return type and text of an exception, without secrets; one whose text fails is named by its type."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return safe_text(f"{type(error).__name__}: {text}" if text else type(error).__name__, _MAX_REASON)
