"""How a call ended when nobody said so explicitly: reading status, error type and exceptions of a span.

A timeout has several spellings: JSON-RPC -32001 (MCP SDK 2.x), 408 (1.x), an `error.type` of `timeout` or of the
exception's class, a description that begins with `TimeoutError`, or only a message ("… timed out").
"""

from __future__ import annotations

import re
from typing import Final

from elf_automations.conventions import otel
from elf_automations.model.call import Outcome
from elf_automations.model.records import SpanRecord, StatusCode

_TIMEOUT_TYPES: Final = frozenset(
    {"timeout", "408", "504", "-32001", "timeouterror", "deadline_exceeded", "a2aclienttimeouterror", "readtimeout"}
)
_CANCEL_TYPES: Final = frozenset({"cancelled", "canceled", "cancellederror"})
_TIMED_OUT: Final = re.compile(r"\btimed out\b|^TimeoutError\b", re.IGNORECASE)


def span_outcome(span: SpanRecord, *, code: str | None = None, message: str | None = None) -> Outcome:
    """Return the outcome a span shows: a failure is a timeout, a cancellation or an error, anything else is success.

    `code` and `message` are an error the span's own protocol attributes state; a `code` is a failure whatever the
    span's status says.
    """
    error_type = span.text(otel.ERROR_TYPE) or ""
    last = span.exceptions[-1] if span.exceptions else None
    exception_type = last.type if last else ""
    if (
        span.status is not StatusCode.ERROR
        and not error_type
        and not code
        and _bare(exception_type) not in _CANCEL_TYPES
    ):
        return Outcome("success")
    message = (message or span.status_message or (last.message if last else "")).strip() or None
    code = code or span.text(otel.RPC_RESPONSE_STATUS_CODE) or error_type or None
    return failure(code, message, error_type, exception_type)


def failure(code: str | None, message: str | None, *kinds: str) -> Outcome:
    """Return the outcome of a failed call by its `code`, its `message` and the class names it came with (`kinds`)."""
    bare = {_bare(kind) for kind in (*kinds, code or "")}
    if bare & _CANCEL_TYPES:
        return Outcome("cancelled", message, code)
    if bare & _TIMEOUT_TYPES or _TIMED_OUT.search(message or ""):
        return Outcome("timeout", message, code or "timeout")
    named = next((kind.rpartition(".")[2] for kind in kinds if kind), None)
    return Outcome("error", message or named, code or named)


def _bare(name: str) -> str:
    return name.rpartition(".")[2].lower()
