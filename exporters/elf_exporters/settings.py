"""How the exporter works: batches, waits and limits; what a process may set from outside is in `settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from elf_automations.errors import ConfigurationError

LARGEST_BATCH: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSettings:
    """Checked settings; raises ConfigurationError for values that cannot work.

    `batch_size` spans make a batch, `linger_seconds` a smaller one; `shutdown_seconds` is
    what shutdown may take; retries wait from `retry_initial_seconds` to `retry_max_seconds`.
    """

    batch_size: int = 512
    linger_seconds: float = 1.0
    shutdown_seconds: float = 5.0
    retry_initial_seconds: float = 0.25
    retry_max_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        _require("batch_size", 1 <= self.batch_size <= LARGEST_BATCH, f"1 to {LARGEST_BATCH} spans")
        _require("linger_seconds", self.linger_seconds >= 0, "0 or more seconds")
        _require("shutdown_seconds", self.shutdown_seconds >= 0, "0 or more seconds")
        _require(
            "retry_initial_seconds",
            0 < self.retry_initial_seconds <= self.retry_max_seconds,
            "more than 0 seconds and at most retry_max_seconds",
        )


def _require(name: str, holds: bool, rule: str) -> None:
    if not holds:
        message = f"{name} is out of range: it must be {rule}"
        raise ConfigurationError(message)
