"""`lifecycle()`: what factories put around what they create, so that the registry knows it lives, and how it ended."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, cast

from elf_automations.instrumentation import acting_as
from elf_automations.model import AttributeValue
from elf_automations.model.entity import row_type
from elf_automations.model.redact import safe_text
from elf_automations.registry.background import background_of
from elf_automations.registry.default import default_registry
from elf_automations.registry.health import HealthReporter, Probe
from elf_automations.registry.unified import UnifiedRegistry

__all__ = ["Lifecycle", "lifecycle"]

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAX_REASON = 1000
# What ends a body from outside, or on purpose, is no failure of the entity.
_ENDED = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt)

# Each task leaves the bodies it entered itself, whoever else uses the same object.
_entered: ContextVar[tuple[AbstractContextManager[None], ...]] = ContextVar("elf-lifecycles", default=())


def lifecycle(
    entity_id: str,
    entity_type: str,
    *,
    entity_name: str | None = None,
    capabilities: Sequence[str] = (),
    endpoint_url: str | None = None,
    parent_entity_id: str | None = None,
    metadata: Mapping[str, AttributeValue] | None = None,
    registry: UnifiedRegistry | None = None,
    registered_by: str = "factory",
    health: HealthReporter | Probe | None = None,
) -> Lifecycle:
    """Keep the registry told of an entity while a body runs: registered, active, then stopped, or error if it raises.

    A context manager (`with`, `async with`) and a decorator (of `def` and `async def`). Calls made in the body are
    credited to the entity. Everything happens in the background: without a database nothing happens after one INFO
    line, and one that is slow or away neither stops nor delays the body; its exceptions pass as they are.

    Args:
        entity_id: unique among the entities of its type.
        entity_type: team, mcp_server, mcp_client, n8n_workflow or service.
        entity_name: what people call it.
        capabilities: what it can do; empty keeps what is on record.
        endpoint_url: where it is reached.
        parent_entity_id: the entity it belongs to.
        metadata: anything else worth keeping; credentials are redacted.
        registry: where to tell it; default: what the environment names.
        registered_by: who says so.
        health: a probe (URL or callback) or a `HealthReporter`; it reports while the body runs.
    """
    description = {
        "entity_name": entity_name,
        "capabilities": tuple(capabilities or ()) or None,
        "endpoint_url": endpoint_url,
        "parent_entity_id": parent_entity_id,
        "metadata": metadata,
        "registered_by": registered_by,
        "registration_source": "factory",
    }
    if health is not None and not isinstance(health, HealthReporter):
        health = HealthReporter(entity_id, entity_type, probe=health, registry=registry)
    return Lifecycle(entity_id, entity_type, description, registry, health)


class Lifecycle:
    """One entity's life; made by `lifecycle()`. Entered several times at once, it ends with the last to leave.

    The end is `stopped` also when the body is cancelled, closed, interrupted or exits with 0; any other exception
    makes it `error` and unhealthy, with its type and redacted text as reason.
    """

    def __init__(
        self,
        entity_id: str,
        entity_type: str,
        description: Mapping[str, Any],
        registry: UnifiedRegistry | None,
        health: HealthReporter | None,
    ) -> None:
        self.entity_id, self.entity_type = entity_id, entity_type
        self._description = description
        self._registry = registry
        self._health = health
        self._lock = threading.Lock()
        self._inside = 0
        self._told: UnifiedRegistry | None = None
        self._process = 0

    def __enter__(self) -> Self:
        """Tell that the entity is registered and active, without waiting, and act as it."""
        self._begin()
        acting = acting_as(self.entity_id, row_type(self.entity_type))
        acting.__enter__()
        _entered.set((*_entered.get(), acting))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell how it ended, without waiting; the exception passes."""
        entered = _entered.get()
        if entered:
            _entered.set(entered[:-1])
            entered[-1].__exit__(None, None, None)
        self._end(error)

    async def __aenter__(self) -> Self:
        """As `__enter__`."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `__exit__`."""
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[_P, _T]) -> Callable[_P, _T]:
        """Return `function` with this life around each of its calls."""
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            message = f"{function.__qualname__} is a generator: use `with lifecycle(...)` inside it"
            raise TypeError(message)
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def awaited(*args: _P.args, **kwargs: _P.kwargs) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast("Callable[_P, _T]", awaited)

        @wraps(function)
        def called(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with self:
                return function(*args, **kwargs)

        return called

    def _begin(self) -> None:
        with self._lock, _harmless():
            self._inside += 1
            if self._inside > 1:
                return
            self._told = self._registry or default_registry()
            self._process = os.getpid()
            if self._told is None:
                return
            self._tell("registration", lambda to: to.register_entity(*self._key, **self._description))
            # What the last run left behind says nothing of this one.
            self._tell_state("active", "unknown", None)
            if self._health is not None:
                self._health.start(self._told)

    def _end(self, error: BaseException | None) -> None:
        with self._lock, _harmless():
            self._inside -= 1
            # A forked child that leaves the body too has not ended its parent's entity.
            if self._inside or self._told is None or self._process != os.getpid():
                return
            if self._health is not None:
                self._health.stop()
            self._tell_state(*_ending(error))

    @property
    def _key(self) -> tuple[str, str]:
        return self.entity_id, self.entity_type

    def _tell_state(self, state: str, health: str, reason: str | None) -> None:
        by = str(self._description["registered_by"])
        self._tell(
            "state",
            lambda to: to.update_state(*self._key, state, health_status=health, updated_by=by, reason=reason),
        )

    def _tell(self, what: str, work: Callable[[UnifiedRegistry], object]) -> None:
        if self._told is not None:
            background_of(self._told).submit(self._told, self._key, what, work)


@contextmanager
def _harmless() -> Generator[None]:
    """Keep faults of telemetry from the application."""
    try:
        yield
    except Exception:
        logger.debug("a lifecycle is not told", exc_info=True)


def _ending(error: BaseException | None) -> tuple[str, str, str | None]:
    """Return state, health and reason for the exception that left the body."""
    if error is None:
        return "stopped", "unknown", None
    if isinstance(error, _ENDED) or (isinstance(error, SystemExit) and error.code in {None, 0}):
        return "stopped", "unknown", type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = ""
    name = type(error).__name__
    return "error", "unhealthy", safe_text(f"{name}: {text}" if text else name, _MAX_REASON)
