"""How long to wait before trying again: exponential, bounded, with jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass

from elf_automations.errors import SchemaMissingError, StorageUnavailableError
from elf_automations.storage.supabase import StorageThrottledError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waits of `initial_seconds` doubling up to `longest_seconds`, each shortened by up to half at random."""

    initial_seconds: float
    longest_seconds: float

    def seconds(self, attempt: int, error: StorageUnavailableError) -> float:
        """Return the wait after failed attempt number `attempt` (from 0).

        What the server asks for (Retry-After) comes first; a missing schema waits for a person, so it waits longest.
        """
        if isinstance(error, StorageThrottledError):
            return error.retry_after + random.uniform(0, self.initial_seconds)  # noqa: S311 - jitter
        if isinstance(error, SchemaMissingError):
            attempt = max(attempt, 4)
        wait = min(self.longest_seconds, self.initial_seconds * 2 ** min(attempt, 30))
        return wait * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
