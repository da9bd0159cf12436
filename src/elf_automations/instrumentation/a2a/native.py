"""Silencing the SDK's own spans while ours are on: up to 77 a call, without a single attribute.

`OTEL_INSTRUMENTATION_A2A_SDK_ENABLED=true`, set explicitly, keeps them; the SDK itself reads the variable only
when it is imported and takes no value for true.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final

from a2a.utils import telemetry
from opentelemetry.trace import INVALID_SPAN, Span

from elf_automations.instrumentation.patches import PatchPoint

KEEP_VARIABLE: Final = "OTEL_INSTRUMENTATION_A2A_SDK_ENABLED"
_TRACED: Final = frozenset({"async_wrapper", "sync_wrapper"})


class _Silence:
    """Makes no spans and leaves the current one current, so that `get_current_span()` in an executor is ours.

    Tracer and its context manager in one; the API's own no-op tracer puts a non-recording span in front of ours.
    """

    def start_as_current_span(self, *_args: Any, **_kwargs: Any) -> _Silence:
        """Return what opens no span."""
        return self

    def __enter__(self) -> Span:
        return INVALID_SPAN

    def __exit__(self, *_: object) -> None:
        return None


class _SilentTrace:
    """Stands in for `opentelemetry.trace` in the SDK's tracing module, which asks it for a tracer at each call."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._tracer = _Silence()

    def get_tracer(self, *_args: Any, **_kwargs: Any) -> _Silence:
        """Return a tracer that makes no spans."""
        return self._tracer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def native_patch_points() -> tuple[PatchPoint, ...]:
    """Return the patch points that silence the SDK's spans, none when the environment asks for them.

    The SDK's tracing wrappers are taken off its classes and functions, which also saves what they cost; a method that
    was bound before, as routes do, still runs its wrapper and meets a silent tracer.
    """
    if os.environ.get(KEEP_VARIABLE, "").strip().lower() == "true":
        return ()
    unwrapped = (PatchPoint(module, path, _without_tracing) for module, path in sorted(_traced()))
    return (PatchPoint(telemetry.__name__, "trace", _SilentTrace), *unwrapped)


def _traced() -> Iterator[tuple[str, str]]:
    """Yield module and path of every function and method that the SDK traces, of the modules imported so far."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("a2a."):
            continue
        for own, thing in list(vars(module).items()):
            if _is_traced(thing):
                yield name, own
            elif isinstance(thing, type) and thing.__module__ == name and "." not in thing.__qualname__:
                methods = (method for method, function in vars(thing).items() if _is_traced(function))
                yield from ((name, f"{thing.__qualname__}.{method}") for method in methods)


def _is_traced(function: object) -> bool:
    if not isinstance(function, FunctionType) or not hasattr(function, "__wrapped__"):
        return False
    code = function.__code__
    return code.co_name in _TRACED and code.co_filename == telemetry.__file__


def _without_tracing(original: Any) -> Any:
    return original.__wrapped__ if _is_traced(original) else original
