"""The caller in the W3C `tracestate`, for systems that keep it and drop baggage, as n8n does.

One member, `elf=<type>:<id>`, the id percent-encoded; the other members are their owners'.
Source of the limits: W3C Trace Context, section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote

from elf_automations.model.entity import EntityRef

KEY: Final = "elf"
_TYPES: Final = frozenset({"team", "workflow", "service", "mcp_client", "mcp"})
_MAX_VALUE: Final = 256
_MAX_MEMBERS: Final = 32


def caller_of(trace_state: str) -> EntityRef | None:
    """Return the caller that the header `trace_state` names, None when it names none, or none we understand."""
    # Most headers have no member of ours.
    if KEY not in trace_state:
        return None
    for member in _members(trace_state):
        key, _, value = member.partition("=")
        if key == KEY:
            kind, _, entity_id = value.partition(":")
            entity_id = unquote(entity_id)
            return EntityRef(entity_id, kind) if kind in _TYPES and entity_id else None
    return None


def with_caller_member(trace_state: str, caller: EntityRef) -> str:
    """Return the header `trace_state` with `caller` as its first member, in place of whom it named.

    At most 32 members, the oldest give way. A caller that does not fit a member (256 characters) is left out.
    """
    others = [member for member in _members(trace_state) if member.partition("=")[0] != KEY]
    value = f"{caller.type}:{quote(caller.id, safe='')}"
    if caller.type in _TYPES and caller.id and len(value) <= _MAX_VALUE:
        others.insert(0, f"{KEY}={value}")
    return ",".join(others[:_MAX_MEMBERS])


def _members(trace_state: str) -> Iterator[str]:
    return (stripped for member in trace_state.split(",") if (stripped := member.strip(" \t")))
