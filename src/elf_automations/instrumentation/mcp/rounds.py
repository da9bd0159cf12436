"""The rounds of one call: a server may ask for input or other headers first, and the SDK's client sends it again.

What `Client.call_tool` and its like send is one call to the application. The span of its first round stays open until
all is done, and the later rounds, the listing and the callbacks in between lie below it. Source: SEP-2322.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from typing import Any, Final

from opentelemetry.context import Context

from elf_automations.instrumentation.contexts import leave
from elf_automations.instrumentation.mcp.operation import Operation
from elf_automations.instrumentation.mcp.outcome import is_header_mismatch

_rounds: Final[ContextVar[_Rounds | None]] = ContextVar("elf_mcp_rounds", default=None)


class _Rounds:
    """One call of a client, and its first round once another one is to follow."""

    __slots__ = ("_client", "_entered", "_first")

    def __init__(self, client: Any) -> None:
        self._client = client
        self._first: Operation | None = None
        self._entered: Token[Context] | None = None

    def hold(self, session: object, operation: Operation, entered: Token[Context]) -> bool:
        """Keep `operation` open, and its context attached, when it is the first round of this call."""
        if self._first is not None or getattr(self._client, "_session", None) is not session:
            return False
        operation.answered(None)
        self._first, self._entered = operation, entered
        return True

    def release(self) -> Operation | None:
        """Return the round that was held, its context no longer attached."""
        if self._entered is not None:
            leave(self._entered)
        return self._first


def wrap_call(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Wrap a method of `Client` that sends a request in as many rounds as it takes."""

    @functools.wraps(original)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        rounds = _Rounds(self)
        token = _rounds.set(rounds)
        try:
            result = await original(self, *args, **kwargs)
        except BaseException as error:
            _rounds.reset(token)
            if (first := rounds.release()) is not None:
                first.fail(error)
            raise
        _rounds.reset(token)
        if (first := rounds.release()) is not None:
            first.conclude(result)
        return result

    return call


def held_for_input(session: object, operation: Operation, entered: Token[Context]) -> bool:
    """Return whether `operation`, just answered, is a first round and stays open: the server asked for input."""
    rounds = _rounds.get()
    return rounds is not None and operation.interim and rounds.hold(session, operation, entered)


def held_for_headers(session: object, operation: Operation, entered: Token[Context], error: BaseException) -> bool:
    """Return whether `operation`, just refused, is a first round and stays open: the server wants other headers."""
    rounds = _rounds.get()
    return rounds is not None and is_header_mismatch(error) and rounds.hold(session, operation, entered)
