"""Waiting for the end of a task that goes on after its first answer, by looking it up now and then."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from a2a.client.client import Client, ClientCallContext
from a2a.client.errors import A2AClientError
from a2a.types.a2a_pb2 import GetTaskRequest, StreamResponse

from elf_automations.shared.a2a.answers import Answer
from elf_automations.shared.a2a.witness import Witness

__all__ = ["Limits", "follow"]

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_GROWTH: Final = 1.5
_FAILURES_IN_A_ROW: Final = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """How long, in seconds: `silence` for one answer, and until `end` (monotonic) for all of it."""

    silence: float
    end: float

    @property
    def left(self) -> float:
        """The seconds until the end; never 0, which HTTP libraries take for no limit."""
        return max(self.end - time.monotonic(), 0.001)

    def context(self, *, whole: bool = False) -> ClientCallContext:
        """Return the SDK's call context with what is left; `whole` when its limit is for the call, not for a wait."""
        return ClientCallContext(timeout=self.left if whole else min(self.silence, self.left))


async def follow(client: Client, answer: Answer, limits: Limits, witness: Witness) -> None:
    """Look the task of `answer` up until it ended or waits for its caller; pauses grow from 0.1 s to 5 s.

    Raises what the SDK raises, its transport errors only after three in a row. Ends at no time by itself: the caller
    sets the limit.
    """
    pause, failures = _FIRST_PAUSE_SECONDS, 0
    while (task_id := answer.unfinished) is not None:
        await asyncio.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE_SECONDS)
        try:
            task = await witness.looked_up(client, GetTaskRequest(id=task_id), limits.context())
        except A2AClientError:
            failures += 1
            if failures == _FAILURES_IN_A_ROW:
                raise
            continue
        failures = 0
        event = StreamResponse(task=task)
        witness.saw(event)
        answer.add(event)
