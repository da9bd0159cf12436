"""Where the SQL files are: packaged in the wheel, else beside the sources of a checkout."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from elf_automations.errors import MigrationError

_CHECKOUT: Final = Path(__file__).resolve().parents[3] / "sql"


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration: file name without `.sql`, its text, SHA-256 of the text as 64 hex digits."""

    name: str
    sql: str
    sha256: str


def sql_text(*path: str) -> str:
    """Return the text of one file below `sql/`, line ends as LF so that a checkout on any system hashes alike.

    Raises MigrationError when the file is not there: the installation is incomplete.
    """
    try:
        return _root().joinpath(*path).read_text(encoding="utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        message = f"the installation has no sql/{'/'.join(path)}: install elf-automations again"
        raise MigrationError(message) from None


@cache
def migrations() -> tuple[Migration, ...]:
    """Return all migrations in the order of their numbers."""
    names = sorted(entry.name for entry in _root().joinpath("migrations").iterdir() if entry.name.endswith(".sql"))
    return tuple(migration(name.removesuffix(".sql"), sql_text("migrations", name)) for name in names)


def migration(name: str, sql: str) -> Migration:
    """Return the migration of a file with the text `sql`."""
    return Migration(name, sql, hashlib.sha256(sql.encode()).hexdigest())


def _root() -> Traversable:
    packaged = files("elf_automations").joinpath("sql")
    root = packaged if packaged.is_dir() else _CHECKOUT
    if not root.joinpath("migrations").is_dir():
        message = "the installation has no SQL files: install elf-automations again"
        raise MigrationError(message)
    return root
