"""Running the SDK's functions under observation: same results, same exceptions, same laziness."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from elf_automations.instrumentation.a2a.observation import Observation

logger = logging.getLogger(__name__)

_Event = TypeVar("_Event")
_Result = TypeVar("_Result")


async def observed(seen: Observation, start: Callable[[], AsyncIterator[_Event]]) -> AsyncGenerator[_Event, None]:
    """Yield the events of the stream that `start` makes.

    The call's context is current only while the stream works, not while its consumer does; the inner stream is
    closed with ours.
    """
    active = seen.call.active
    stream: AsyncIterator[_Event] | None = None
    try:
        with active():
            stream = start()
        while True:
            with active():
                try:
                    event = await anext(stream)
                except StopAsyncIteration:
                    break
            seen.see(event)
            yield event
    except GeneratorExit:
        seen.abandon()
        raise
    except BaseException as error:
        seen.fail(error)
        raise
    else:
        seen.conclude()
    finally:
        await _close(stream)


async def observed_once(seen: Observation, run: Callable[[], Awaitable[_Result]]) -> _Result:
    """Return the result of the awaitable that `run` makes."""
    try:
        with seen.call.active():
            result = await run()
    except BaseException as error:
        seen.fail(error)
        raise
    seen.see(result)
    seen.conclude()
    return result


async def unobserved(stream: AsyncIterator[_Event]) -> AsyncGenerator[_Event, None]:
    """Yield the events of a stream nobody traces, closing it with ours."""
    try:
        async for event in stream:
            yield event
    finally:
        await _close(stream)


async def _close(stream: Any) -> None:
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()
