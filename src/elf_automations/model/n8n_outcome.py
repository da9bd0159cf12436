"""How an n8n execution ended, or one node of it: n8n's status, and what its error adds to that.

n8n calls three ends `canceled`: an execution that ran into its time limit stores no error, one that a person stopped
stores a ManualExecutionCancelledError, one cut off by a shutdown a SystemShutdownExecutionCancelledError. Source: n8n
2.41.1, its API and its class ExecutionCancelledError.
"""

from __future__ import annotations

import re
from typing import Final

from elf_automations.model.call import Outcome
from elf_automations.model.n8n_fields import Json, instant, items, mapping, milliseconds, text
from elf_automations.model.protocols.n8n import TERMINAL
from elf_automations.model.records import ExceptionRecord

_TIMEOUT_CODES: Final = frozenset({"ECONNABORTED", "ETIMEDOUT"})
_TIMED_OUT: Final = re.compile(r"\btimeout of \d+ ?ms exceeded|\btimed out\b", re.IGNORECASE)


def ending(said: Json, workflow: Json | None = None) -> Outcome | None:
    """Return how an execution, or a node of it, ended; None while it has not (waiting, running).

    A failure is a timeout on positive evidence: an error code or text of n8n that says so, or a cancelled execution of
    which n8n tells everything but an error, if it lasted as long as `workflow.settings.executionTimeout` (s) allows.
    """
    status, error = said.get("status"), said.get("error")
    end = TERMINAL.get(status.lower()) if isinstance(status, str) else ("error" if error else "success")
    if end is None or end == "success":
        return Outcome("success") if end else None
    thrown, code = exception(error), text(mapping(error).get("httpCode"))
    message, name = (thrown.message or None, thrown.type or None) if thrown else (None, None)
    if end == "cancelled":
        return _cut_short(said, mapping(error), message, workflow or {})
    hints = [message or "", *(hint for hint in items(mapping(error).get("messages")) if isinstance(hint, str))]
    if code in _TIMEOUT_CODES or any(map(_TIMED_OUT.search, hints)):
        spoken = next((hint for hint in hints if _TIMED_OUT.search(hint)), message)
        return Outcome("timeout", spoken, code if code in _TIMEOUT_CODES else "timeout")
    crashed = isinstance(status, str) and status.lower() == "crashed"
    return Outcome("error", message or ("n8n crashed while it ran" if crashed else None), name or code)


def exception(error: object) -> ExceptionRecord | None:
    """Return what was thrown, of n8n's error object or of a bare text; never its stack trace."""
    if isinstance(error, str):
        return ExceptionRecord("", text(error) or "")
    said = mapping(error)
    name, message = text(said.get("name")) or "", text(said.get("message")) or ""
    return ExceptionRecord(name, message) if name or message else None


def speaks_of_a_timeout(hint: object) -> bool:
    """Return whether a text of n8n says that time ran out; others may quote what a service answered."""
    return isinstance(hint, str) and _TIMED_OUT.search(hint) is not None


def _cut_short(said: Json, error: Json, message: str | None, workflow: Json) -> Outcome:
    reason, name = text(error.get("reason")), text(error.get("name")) or ""
    if reason == "timeout" or name.startswith("Timeout"):
        return Outcome("timeout", message, "timeout")
    if reason or error or not _ran_into_its_limit(said, workflow):
        return Outcome("cancelled", message)
    limit = milliseconds(mapping(workflow.get("settings")).get("executionTimeout"))
    allowed = f"its limit of {limit:g} s" if limit else "its time limit"
    return Outcome("timeout", f"n8n stopped the execution at {allowed}", "timeout")


def _ran_into_its_limit(said: Json, workflow: Json) -> bool:
    # One that was cancelled while it queued stores no error either, and nothing of it ran.
    if "error" in said and said["error"] is not None:
        return False
    ran = bool(items(said.get("nodes")))
    settings = mapping(workflow.get("settings"))
    if "executionTimeout" not in settings:
        return ran  # an instance can have a limit of its own, which nobody outside is told
    limit = milliseconds(settings["executionTimeout"])
    start, end = instant(said.get("startedAt")), instant(said.get("stoppedAt"))
    return bool(limit and start and end and end - start >= limit * 1_000_000_000)
