"""A PostgreSQL server for one session of tests: private, and gone after it; the wheel's, or one of another version.

    ELF_TEST_POSTGRES=/usr/lib/postgresql/15/bin pytest -m database

Either way it runs as the package runs its own: over a Unix socket in a temporary folder, by a user that is not root.
Where an installation has pg_cron, that is loaded, and one database (`CRON_DATABASE`) may have the extension.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

from elf_automations.storage import embedded
from elf_automations.storage.embedded import EmbeddedPostgres

CRON_DATABASE = "elf_cron"
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
_CRON = {
    "shared_preload_libraries": "pg_cron",
    "cron.database_name": CRON_DATABASE,
    # Otherwise it connects over TCP, where this server does not listen.
    "cron.use_background_workers": "on",
}


def _chosen() -> Path | None:
    programs = os.environ.get("ELF_TEST_POSTGRES")
    return Path(programs) if programs else None


PROGRAMS = _chosen()
"""The bin folder of the server the session was told to use; None: the wheel's."""

HAS_CRON = bool(PROGRAMS) and (Path(PROGRAMS).parent / "lib" / "pg_cron.so").is_file()
"""Whether that server comes with pg_cron."""


@contextmanager
def running() -> Iterator[str]:
    """Run the session's server for the body and yield its administrator's URL."""
    assert PROGRAMS is None or (PROGRAMS / "initdb").is_file(), (
        f"ELF_TEST_POSTGRES={PROGRAMS} holds no initdb: name the bin folder of a PostgreSQL server"
    )
    folder = Path(tempfile.mkdtemp(prefix="elf-postgres-"))
    server = EmbeddedPostgres(folder, settings=_FAST | (_CRON if HAS_CRON else {}))
    try:
        with _programs():
            url = server.start()
        yield url
    finally:
        with _programs():
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> AbstractContextManager[Any]:
    """Let the package's own server come from the chosen folder, for as long as it starts or stops."""
    return mock.patch.object(embedded, "_programs", return_value=PROGRAMS) if PROGRAMS else nullcontext()
