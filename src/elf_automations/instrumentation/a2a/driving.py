"""Running the SDK's functions under observation: same results, same exceptions, same laziness."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeAlias

from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.contexts import enter, leave

# Starts the observation of one call of `self`, None for a call that gets none; may put other keywords in its place.
Begin: TypeAlias = Callable[[Any, tuple[Any, ...], dict[str, Any]], Observation | None]
Stream: TypeAlias = Callable[..., AsyncGenerator[Any, None]]
Unary: TypeAlias = Callable[..., Awaitable[Any]]


def observing_stream(original: Stream, begin: Begin) -> Stream:
    """Return `original` so that each iteration of what it makes is observed.

    The call's context is current only while the stream works, not while its consumer does; the inner stream is
    closed with ours, and a stream nobody iterates starts nothing.
    """

    @functools.wraps(original)
    async def stream(self: Any, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        seen = begin(self, args, kwargs)
        if seen is None:
            inner = original(self, *args, **kwargs)
            try:
                async for event in inner:
                    yield event
            finally:
                await _close(inner)
            return
        context = seen.call.context
        inner = None
        try:
            token = enter(context)
            try:
                inner = aiter(original(self, *args, **kwargs))
            finally:
                leave(token)
            while True:
                token = enter(context)
                try:
                    event = await anext(inner)
                except StopAsyncIteration:
                    inner = None  # closed by itself
                    break
                finally:
                    leave(token)
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
            if inner is not None:
                with seen.call.active():
                    await _close(inner)

    return stream


def observing_unary(original: Unary, begin: Begin) -> Unary:
    """Return `original` so that each call of it is observed."""

    @functools.wraps(original)
    async def unary(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen = begin(self, args, kwargs)
        if seen is None:
            return await original(self, *args, **kwargs)
        token = enter(seen.call.context)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            seen.fail(error)
            raise
        finally:
            leave(token)
        seen.see(result)
        seen.conclude()
        return result

    return unary


def passed_through(error: BaseException) -> bool:
    """Return whether `error` came out of an observed call, which has told it by then."""
    step = error.__traceback__
    while step is not None:
        frame = step.tb_frame
        if frame.f_code.co_filename == __file__ and frame.f_locals.get("seen") is not None:
            return True
        step = step.tb_next
    return False


async def _close(stream: Any) -> None:
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()
