"""The rounds of one call as its server sees them: the request that brings the input goes on with the one before.

A client that is not instrumented sends each round without a context. What tells that two belong together is the state
that the server gave with its question and gets back, beside the same name and arguments. Only the process that answered
the earlier round knows it; another one takes the request for a call of its own. Source: SEP-2322.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from typing import Any, Final, cast

import orjson
from opentelemetry.trace import SpanContext

from elf_automations.conventions import elf
from elf_automations.instrumentation.mcp.operation import Operation, asks_for_input
from elf_automations.instrumentation.mcp.payload import field
from elf_automations.instrumentation.mcp.propagation import META

logger = logging.getLogger(__name__)

_STATE: Final = "requestState"
_ANSWERS: Final = "inputResponses"
_NOT_REPEATED: Final = frozenset({META, _STATE, _ANSWERS})
# As many calls may wait for input at once; of more, the oldest that is gone on with counts apart.
_MAX_WAITING: Final = 4096

# The spans of the rounds that asked for input, by what the next one will say.
_waiting: OrderedDict[bytes, SpanContext] = OrderedDict()


def answered(operation: Operation, params: object, result: object) -> None:
    """Note that a request got this result, before its operation is concluded: it may have been a question."""
    if not asks_for_input(result):
        return
    try:
        operation.call.at_end({elf.ELF_INTERIM: True})
        made = operation.call.span.get_span_context()
        if made.is_valid:
            key = _key(operation.method, params, field(result, _STATE))
            _waiting[key] = made
            _waiting.move_to_end(key)
            while len(_waiting) > _MAX_WAITING:
                _waiting.popitem(last=False)
    except Exception:
        logger.debug("a round of an MCP call could not be remembered", exc_info=True)


def earlier_round(method: str, params: object) -> SpanContext | None:
    """Return the span of the round that a request goes on with, None for a call's first and for one not known here."""
    if type(params) is not dict:
        return None
    said = cast("dict[str, Any]", params)
    if _STATE not in said and _ANSWERS not in said:
        return None
    return _waiting.get(_key(method, said, said.get(_STATE)))


def _key(method: str, params: object, state: object) -> bytes:
    said = cast("dict[str, Any]", params) if isinstance(params, dict) else {}
    repeated = {name: value for name, value in said.items() if name not in _NOT_REPEATED}
    whole = orjson.dumps((method, state, repeated), default=str, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(whole, digest_size=16).digest()
