"""The words of the registry: what an id, a type, a health and a text may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from elf_automations.errors import ElfTelemetryError
from elf_automations.model import ENTITY_TYPES
from elf_automations.model.redact import bounded

HEALTH: Final = frozenset({"healthy", "degraded", "unhealthy", "unknown"})
_MAX_ID: Final = 255
_MAX_TEXT: Final = 2000


class InvalidEntityError(ElfTelemetryError, ValueError):
    """An entity is described with a word the registry does not know."""


def named(value: str, name: str) -> str:
    """Return `value`, an id or a state; raise InvalidEntityError, calling it `name`, for what cannot be one."""
    if isinstance(value, str) and value.strip() and bounded(value, _MAX_ID) == value:  # pyright: ignore[reportUnnecessaryIsInstance]
        return value
    message = f"{name} must be a text of 1 to {_MAX_ID} characters without NUL, not {bounded(repr(value), 100)}"
    raise InvalidEntityError(message)


def known_type(entity_type: str) -> str:
    """Return `entity_type`; raise InvalidEntityError for one the registry does not have."""
    if entity_type in ENTITY_TYPES:
        return entity_type
    message = f"entity_type {entity_type!r} is unknown: use one of {', '.join(sorted(ENTITY_TYPES))}"
    raise InvalidEntityError(message)


def known_health(health_status: str | None) -> str | None:
    """Return `health_status`; raise InvalidEntityError for one the registry does not have."""
    if health_status is None or health_status in HEALTH:
        return health_status
    message = f"health_status {health_status!r} is unknown: use one of {', '.join(sorted(HEALTH))}"
    raise InvalidEntityError(message)


def text(value: str | None) -> str | None:
    """Return a text fit to store, at most 2,000 characters."""
    return None if value is None else bounded(value, _MAX_TEXT)


def texts(values: Sequence[str] | None) -> Sequence[str] | None:
    """Return texts fit to store, each at most 255 characters."""
    return None if values is None else [bounded(value, _MAX_ID) for value in values]
