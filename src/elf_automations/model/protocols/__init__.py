"""One recogniser a protocol: the only places that know a protocol's spans.

Adding a protocol is one recogniser and one line in `RECOGNISERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from elf_automations.model.call import Call
from elf_automations.model.noise import Noise
from elf_automations.model.protocols import a2a, mcp, n8n
from elf_automations.model.records import SpanRecord

__all__ = ["RECOGNISERS", "recognise"]

RECOGNISERS: Final[tuple[Callable[[SpanRecord], Call | Noise | None], ...]] = (
    mcp.recognise,
    a2a.recognise,
    n8n.recognise,
)


def recognise(span: SpanRecord) -> Call | Noise | None:
    """Return what `span` says about a call, `Noise` for protocol chatter, None when it is of no protocol of ours."""
    for recogniser in RECOGNISERS:
        answer = recogniser(span)
        if answer is not None:
            return answer
    return None
