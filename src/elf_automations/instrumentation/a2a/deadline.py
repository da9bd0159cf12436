"""The deadline a caller set for all of a task: what it cuts off timed out, although the SDK only sees a cancel."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from elf_automations.instrumentation.contexts import enter, leave

_OVER: Final = otel_context.create_key("elf-a2a-deadline-over")


@contextmanager
def within_deadline(over: Callable[[], bool]) -> Generator[None]:
    """Run the body under a deadline; `over` tells whether it is the deadline that cancels what runs."""
    token = enter(otel_context.set_value(_OVER, over))
    try:
        yield
    finally:
        leave(token)


def deadline_over(context: Context) -> bool:
    """Return whether the deadline that `context` is under has cut off what ran in it."""
    over = otel_context.get_value(_OVER, context)
    return callable(over) and bool(over())
