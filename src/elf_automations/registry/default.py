"""The registry a process means when it names none: over what the settings say, or none at all."""

from __future__ import annotations

import logging
import threading
from typing import Final

from elf_automations.errors import ConfigurationError
from elf_automations.registry.unified import UnifiedRegistry
from elf_automations.settings import load_settings
from elf_automations.storage.target import Target, choose_target

logger = logging.getLogger(__name__)

_lock: Final = threading.Lock()
_registries: dict[Target, UnifiedRegistry] = {}
_said: set[str] = set()


def default_registry() -> UnifiedRegistry | None:
    """Return the registry the environment names, one object for each database; None when there is none.

    No database, or telemetry switched off, is one INFO line a process; settings that cannot be read are one WARNING.
    """
    try:
        if not load_settings().telemetry_enabled:
            _once(logging.INFO, "telemetry is switched off: entities are not registered")
            return None
        target = choose_target()
    except ConfigurationError as error:
        _once(logging.WARNING, f"entities are not registered: {error}")
        return None
    if target is None:
        _once(logging.INFO, "entities are not registered: no database is configured (set ELF_DATABASE_URL)")
        return None
    with _lock:
        return _registries.setdefault(target, UnifiedRegistry.over(target))


def _once(level: int, line: str) -> None:
    with _lock:
        if line in _said:
            return
        _said.add(line)
    logger.log(level, line)
