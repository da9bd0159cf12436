"""A PostgreSQL server a test has for itself, because it is stopped or its roles are changed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elf_automations.storage.embedded import EmbeddedPostgres


@contextmanager
def own_postgres(**settings: str) -> Iterator[tuple[EmbeddedPostgres, str]]:
    """Run a new server for the body and yield it with its administrator's URL.

    Not in a folder of pytest's: those close themselves to the user the server runs as when another session begins.
    """
    folder = Path(tempfile.mkdtemp(prefix="elf-own-"))
    server = EmbeddedPostgres(folder / "db", settings=settings)
    try:
        yield server, server.start()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
