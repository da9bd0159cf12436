"""How a call ended when nobody said so explicitly: reading status, error type and exceptions of a span.

Source of the rules: MCP fact sheet section 9 (the spellings of a timeout), A2A sheet section 5 (a).
"""

from __future__ import annotations

import re
from typing import Final

from elf_automations.conventions import otel
from elf_automations.model.call import Outcome
from elf_automations.model.records import SpanRecord, StatusCode

_TIMEOUT_TYPES: Final = frozenset(
    {"timeout", "408", "-32001", "timeouterror", "deadline_exceeded", "a2aclienttimeouterror", "readtimeout"}
)
_CANCEL_TYPES: Final = frozenset({"cancelled", "canceled", "cancellederror"})
_TIMED_OUT = re.compile(r"\btimed out\b|^TimeoutError\b", re.IGNORECASE)


def _bare(name: str) -> str:
    return name.rpartition(".")[2].lower()


def span_outcome(span: SpanRecord) -> Outcome:
    """Return the outcome a span shows: ERROR is split into timeout, cancelled and error, anything else is success."""
    error_type = span.text(otel.ERROR_TYPE) or ""
    code = span.text(otel.RPC_RESPONSE_STATUS_CODE) or error_type or None
    last = span.exceptions[-1] if span.exceptions else None
    exception_type = last.type if last else ""
    message = span.status_message or (last.message if last else "") or None
    kinds = {_bare(error_type), _bare(exception_type)}
    if kinds & _CANCEL_TYPES:
        return Outcome("cancelled", message, code)
    if span.status is not StatusCode.ERROR and not error_type:
        return Outcome("success")
    if kinds & _TIMEOUT_TYPES or _TIMED_OUT.search(message or ""):
        return Outcome("timeout", message, code or "timeout")
    return Outcome("error", message or error_type or None, code or exception_type or None)
