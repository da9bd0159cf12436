"""The embedded server: outlives who started it, stops when told, says clearly why it does not come up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from elf_automations.errors import ConfigurationError, StorageUnavailableError
from elf_automations.storage import embedded
from elf_automations.storage.embedded import EmbeddedPostgres

_START = """
import sys
from pathlib import Path
from elf_automations.storage.embedded import EmbeddedPostgres
EmbeddedPostgres(Path(sys.argv[1])).start()
"""


@pytest.fixture
def home() -> Iterator[Path]:
    # Not below pytest's own folder: that one is closed to the system user a root run needs.
    with tempfile.TemporaryDirectory(prefix="elf-embedded-") as folder:
        path = Path(folder) / "a data directory whose path is far too long for the name of a Unix socket" / "postgres"
        yield path
        EmbeddedPostgres(path).stop()


def test_server_outlives_its_starter_and_stops_from_elsewhere(home: Path) -> None:
    """`elf-telemetry db start`, work in other processes, `elf-telemetry db stop`; nothing is printed."""
    here = EmbeddedPostgres(home)
    assert (here.running, here.url()) == (False, None)
    starter = subprocess.run([sys.executable, "-c", _START, str(home)], check=True, capture_output=True, text=True)
    assert (starter.stdout, starter.stderr) == ("", "")
    url = here.url()
    assert url is not None
    assert here.start() == url
    with psycopg.connect(url) as connection:
        assert connection.execute("show listen_addresses").fetchone() == ("",)
    here.stop()
    here.stop()
    assert not EmbeddedPostgres(home).running


def test_server_that_cannot_start_shows_its_last_word(home: Path) -> None:
    with pytest.raises(StorageUnavailableError, match=r"failed in pg_ctl: .*; its log is .*server\.log$"):
        EmbeddedPostgres(home, settings={"shared_buffers": "nonsense"}).start()


def test_folder_open_to_others_is_refused(home: Path) -> None:
    """Whoever reaches the socket is superuser, so a folder another user prepared must not be taken."""
    (home / "cluster").mkdir(parents=True)
    (home / "cluster").chmod(0o777)
    with pytest.raises(ConfigurationError, match="cluster is open to other users or not ours: remove it"):
        EmbeddedPostgres(home).start()


def test_unusable_directory_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^cannot make the data directory .*: choose another --data-dir$"):
        EmbeddedPostgres(tmp_path / "file" / "data").start()


def test_missing_wheel_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_WHEEL", "not_installed_here")
    with pytest.raises(ConfigurationError, match=r"pip install 'elf-automations\[demo\]', or set ELF_DATABASE_URL"):
        EmbeddedPostgres(tmp_path).start()


def test_two_that_need_the_system_user_at_once_both_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is no root needs none, and makes none."""
    name = f"elf_test_{uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(embedded, "_SYSTEM_USER", name)
    try:
        with ThreadPoolExecutor(4) as pool:
            users = [each.result() for each in [pool.submit(embedded._system_user) for _ in range(4)]]
    finally:
        if os.geteuid() == 0:
            subprocess.run(["userdel", name], check=True, capture_output=True)
    wanted = name if os.geteuid() == 0 else None
    assert [user and user.pw_name for user in users] == [wanted] * 4
