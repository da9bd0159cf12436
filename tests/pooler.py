"""pgbouncer in transaction mode before a Postgres server, as hosted databases have one before theirs.

Every transaction may run on another connection of the server, so nothing of a session may be relied on: prepared
statements, SET, temporary tables, advisory locks held longer than a transaction, LISTEN.

    with pooled(postgres_url) as pooler:
        writer = PostgresWriter(pooler.url("some_database"))
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

_USERS = ("embedded_postgres", "postgres", "nobody")
_START_S = 20
_MISSING = (
    "pgbouncer is not installed: the tests run the database code through a transaction pooler; "
    "apt-get install pgbouncer (Debian), or brew install pgbouncer"
)


@dataclass(frozen=True, slots=True)
class Pooler:
    """A running pooler on loopback: `user` is who it connects as."""

    port: int
    user: str
    password: str | None

    def url(self, database: str) -> str:
        """Return the URL of one database through the pooler."""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        return f"postgresql://{quote(self.user, safe='')}{password}@127.0.0.1:{self.port}/{quote(database, safe='')}"


@contextmanager
def pooled(server: str, *, pool_size: int = 20) -> Iterator[Pooler]:
    """Run a pooler before the server at `server` (administrator's URL) for the body; its databases come by name."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert program, _MISSING
    target = conninfo_to_dict(server)
    user, password = str(target.get("user") or "postgres"), target.get("password")
    account = _account()
    folder = Path(tempfile.mkdtemp(prefix="elf-pgbouncer-"))
    try:
        port = _free_port()
        (folder / "users.txt").write_text(f'"{user}" "{password or ""}"\n', encoding="utf-8")
        (folder / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host={target.get('host') or 'localhost'} port={target.get('port') or 5432}\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = {'plain' if password else 'trust'}\nauth_file = {folder}/users.txt\n"
            # Roles that a test makes are let in as the server would let them in.
            f"auth_user = {user}\n"
            "auth_query = select usename, coalesce(passwd, '') from pg_catalog.pg_shadow where usename = $1\n"
            "pool_mode = transaction\n"
            f"default_pool_size = {pool_size}\nmax_client_conn = 500\nserver_idle_timeout = 30\n"
            # What a pooler refuses or drops, it shall refuse here as well: no ignore_startup_parameters.
            "server_reset_query =\nserver_login_retry = 1\n",
            encoding="utf-8",
        )
        if account:
            for path in (folder, *folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        with (folder / "pgbouncer.log").open("wb") as log:
            process = subprocess.Popen(
                [program, str(folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        try:
            pooler = Pooler(port, user, str(password) if password else None)
            _wait_until_up(process, pooler.url(str(target.get("dbname") or "postgres")), folder / "pgbouncer.log")
            yield pooler
        finally:
            process.terminate()
            process.wait(20)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> pwd.struct_passwd | None:
    """Return whom root runs pgbouncer as, for it refuses root: first who may reach the embedded server's socket."""
    if os.geteuid() != 0:
        return None
    for name in _USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    message = f"pgbouncer does not run as root, and there is none of the users {', '.join(_USERS)}"
    raise AssertionError(message)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not _answers(url):
        said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        assert process.poll() is None, f"pgbouncer ended: {said}"
        assert time.monotonic() < deadline, f"pgbouncer does not answer: {said}"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False
    return True
