"""Silencing the SDK's own spans while ours are on: up to 77 a call, without a single attribute.

`OTEL_INSTRUMENTATION_A2A_SDK_ENABLED=true`, set explicitly, keeps them; the SDK itself reads the variable only
when it is imported and takes no value for true.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN, Span

from elf_automations.instrumentation.patches import PatchPoint

KEEP_VARIABLE: Final = "OTEL_INSTRUMENTATION_A2A_SDK_ENABLED"


class _SilentTracer:
    """Makes no spans and leaves the current one current, so that `get_current_span()` in an executor is ours.

    The API's own no-op tracer puts a non-recording span in front of it.
    """

    @contextmanager
    def start_as_current_span(self, *_args: Any, **_kwargs: Any) -> Generator[Span, None, None]:
        """Yield a span that takes everything and keeps nothing."""
        yield INVALID_SPAN


class _SilentTrace:
    """Stands in for `opentelemetry.trace` in the SDK's tracing module, which asks it for a tracer at each call."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._tracer = _SilentTracer()

    def get_tracer(self, *_args: Any, **_kwargs: Any) -> _SilentTracer:
        """Return a tracer that makes no spans."""
        return self._tracer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)


def native_patch_points() -> tuple[PatchPoint, ...]:
    """Return the patch point that silences the SDK's spans, none when the environment asks for them."""
    if os.environ.get(KEEP_VARIABLE, "").strip().lower() == "true":
        return ()
    return (PatchPoint("a2a.utils.telemetry", "trace", _SilentTrace),)
