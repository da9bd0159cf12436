"""A context with several things set at once, which OpenTelemetry copies twice for each, and how one is left again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from typing import Final

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

# The keys of the span and of the baggage in a context, which OpenTelemetry keeps to itself.
SPAN: Final = next(iter(set_span_in_context(INVALID_SPAN, Context())))
BAGGAGE: Final = next(iter(baggage.set_baggage("name", "value", Context())))


def _entering() -> Callable[[Context], Token[Context]]:
    token = otel_context.attach(otel_context.get_current())
    otel_context.detach(token)
    variable: ContextVar[Context] | None = getattr(token, "var", None)
    return otel_context.attach if variable is None else variable.set  # None by an OTEL_PYTHON_CONTEXT of one's own


# Makes a context the current one, and returns the token to leave it with: what OpenTelemetry does in three calls.
enter: Final = _entering()


def context_with(context: Context, values: Mapping[str, object]) -> Context:
    """Return `context` with `values` under their keys."""
    return Context({**context, **values})


def leave(token: Token[Context]) -> None:
    """Make the context current again that was so before `token` was given for another one.

    What waits when its event loop goes away is ended by the collection of garbage, in a context of its own: there is
    nothing to put back then, and nothing for OpenTelemetry to log an error about.
    """
    try:
        token.var.reset(token)
    except (ValueError, RuntimeError):  # made in another context, or left already
        return
    except AttributeError:  # a runtime context of one's own, by OTEL_PYTHON_CONTEXT
        otel_context.detach(token)
