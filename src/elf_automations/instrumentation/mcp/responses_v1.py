"""What a request is answered in MCP 1.x: seen at its responder, which swallows how the request ended.

At the very responder, not in what runs around it: a session that a handler opens inherits the handler's context.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from elf_automations.instrumentation.mcp.operation import Operation
from elf_automations.instrumentation.mcp.outcome import SUCCESS, Ending, ending_of_code
from elf_automations.instrumentation.mcp.payload import field


class Noting:
    """Stands in for the `respond` of one responder and notes what it answers, until it is told to stop."""

    __slots__ = ("_answer", "_message", "_respond")

    def __init__(self, message: Any) -> None:
        self._message = message
        self._respond: Any = getattr(message, "respond", None)
        self._answer: Any = None
        with suppress(AttributeError):
            message.respond = self

    def __call__(self, response: Any, *args: Any, **kwargs: Any) -> Any:
        """Answer as the responder does."""
        if not getattr(self._message, "cancelled", False):
            result = getattr(response, "root", response)
            if result is response:  # an error
                self._answer = result
            else:
                response = _Answer(response, self._dumped)
        return self._respond(response, *args, **kwargs)

    def stop(self) -> None:
        """Give the responder its own `respond` back."""
        with suppress(AttributeError):
            del self._message.respond

    def conclude(self, operation: Operation) -> None:
        """End the operation with the answer that was given; none was given to a request that was taken back."""
        answer = self._answer
        code = field(answer, "code")
        if answer is None:
            operation.end(Ending("cancelled") if getattr(self._message, "cancelled", False) else SUCCESS)
        elif code is not None and field(answer, "message") is not None and field(answer, "content") is None:
            operation.end(ending_of_code(code, str(field(answer, "message"))))
        else:
            operation.conclude(answer)

    def _dumped(self, wire: object) -> None:
        self._answer = wire


class _Answer:
    """A response that, dumped for the wire, shows what it is; in all else it is the response itself."""

    def __init__(self, response: Any, dumped: Callable[[object], None]) -> None:
        self._elf_response = response
        self._elf_dumped = dumped

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cast("Any", type(self._elf_response))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._elf_response, name)

    def model_dump(self, *args: Any, **kwargs: Any) -> Any:
        """Dump the response."""
        wire = self._elf_response.model_dump(*args, **kwargs)
        self._elf_dumped(wire)
        return wire
