"""Reading a request by its method, in MCP 1.x.

The SDK tries a message on each of the 17 kinds of request, and with it the `_meta` that carries the context. The kind
that names the message's method reads it here; what that cannot read the SDK reads as ever, and says why not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final, cast, get_args

_ROOT: Final = "root"


def wrap_session_init(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap `BaseSession.__init__`: requests the session receives are read by their method."""

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        by_method = reading(getattr(self, "_receive_request_type", None))
        if by_method is not None:
            self._receive_request_type = by_method

    return init


class ByMethod:
    """A union of requests that reads a message by the kind with its method; in all else it is the union itself."""

    def __init__(self, union: Any, kinds: Mapping[str, Any]) -> None:
        self._elf_union = union
        self._elf_kinds = kinds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._elf_union, name)

    def model_validate(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Read a message as the union does."""
        method = cast("dict[str, Any]", message).get("method") if type(message) is dict else None
        kind = self._elf_kinds.get(method) if isinstance(method, str) and not args and not kwargs else None
        if kind is not None:
            try:
                return self._elf_union.model_construct(root=kind.model_validate(message))
            except ValueError:  # the union says what is wrong with it
                pass
        return self._elf_union.model_validate(message, *args, **kwargs)


@lru_cache(maxsize=8)
def reading(union: Any) -> ByMethod | None:
    """Return what reads the messages of a union by method, None for one whose kinds are not told apart by it."""
    try:
        kinds = get_args(union.model_fields[_ROOT].annotation)
        named = {method: kind for kind in kinds for method in get_args(kind.model_fields["method"].annotation)}
    except (AttributeError, KeyError, TypeError):
        return None
    return ByMethod(union, named) if named and len(named) == len(kinds) else None
