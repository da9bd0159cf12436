"""Why a request is sent away for now."""

from __future__ import annotations

from elf_automations.errors import StorageUnavailableError


class BusyError(StorageUnavailableError):
    """More requests wait for the database than the sink may hold."""


class ClosedError(StorageUnavailableError):
    """The sink is stopping; another one, or this one after its restart, takes the request."""
