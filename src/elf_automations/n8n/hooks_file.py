"""Where the external-hooks file is that an n8n mounts."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from elf_automations.errors import ConfigurationError

NAME: Final = "elf-hooks.cjs"
_HERE: Final = Path(__file__).resolve().parent


def hooks_file() -> Path:
    """Return the path of `elf-hooks.cjs`: beside this module in a wheel, in collector-config/ of a checkout.

    Raises ConfigurationError when the installation lacks it.
    """
    for found in (_HERE / NAME, _HERE.parents[2] / "collector-config" / "n8n" / NAME):
        if found.is_file():
            return found
    raise ConfigurationError(f"{NAME} is not part of this installation: install elf-automations from its wheel again")
