"""`AsyncUnifiedRegistry`: the registry for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from elf_automations.registry.unified import UnifiedRegistry

__all__ = ["AsyncUnifiedRegistry"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _awaited(
    method: Callable[Concatenate[UnifiedRegistry, _P], _T],
) -> Callable[Concatenate[AsyncUnifiedRegistry, _P], Coroutine[Any, Any, _T]]:
    @wraps(method)
    async def awaited(self: AsyncUnifiedRegistry, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.to_thread(method, self.registry, *args, **kwargs)

    return awaited


class AsyncUnifiedRegistry:
    """`UnifiedRegistry` whose methods are awaited: the same words, answers and errors, the event loop never waits.

    Each call runs in a thread on the one registry inside (`registry`), so calls of several tasks go one after another.
    """

    def __init__(self, database_url: str | None = None) -> None:
        """Use the database at `database_url`, else the one the environment names."""
        self.registry = UnifiedRegistry(database_url)

    register_entity = _awaited(UnifiedRegistry.register_entity)
    update_state = _awaited(UnifiedRegistry.update_state)
    heartbeat = _awaited(UnifiedRegistry.heartbeat)
    deregister = _awaited(UnifiedRegistry.deregister)
    record_activity = _awaited(UnifiedRegistry.record_activity)
    record_workflow_execution = _awaited(UnifiedRegistry.record_workflow_execution)
    observe = _awaited(UnifiedRegistry.observe)
    get = _awaited(UnifiedRegistry.get)
    list = _awaited(UnifiedRegistry.list)
    resolve_endpoint = _awaited(UnifiedRegistry.resolve_endpoint)
    gaps = _awaited(UnifiedRegistry.gaps)
    close = _awaited(UnifiedRegistry.close)

    async def __aenter__(self) -> Self:
        """Return the registry itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the registry."""
        await self.close()
