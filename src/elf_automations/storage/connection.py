"""Opening a connection, and saying clearly why there is none."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict

from elf_automations.errors import ConfigurationError, StorageRefusedError, StorageUnavailableError
from elf_automations.storage.sqlstate import classified

_CONNECT_TIMEOUT_S: Final = 10
# A network that swallows packets must not hold a statement for the quarter of an hour TCP would wait.
_TCP_TIMEOUT_MS: Final = 30_000
_APPLICATION: Final = "elf-telemetry"
_EXAMPLE: Final = "set ELF_DATABASE_URL=postgresql://user:password@host:5432/database"
_REFUSED = re.compile(
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role \".*\" does not exist|"
    r"database \".*\" does not exist|permission denied for database|certificate verify failed|"
    # pgbouncer's and Supavisor's words for the same.
    r"no such user|no such database|Tenant or user not found"
)


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Open a connection fit for transaction poolers: nothing is prepared, nothing needs a session.

    `url` is a PostgreSQL URL or keyword string. Raises ConfigurationError for a malformed one,
    StorageRefusedError when the server turns the credentials down, StorageUnavailableError when it does not
    answer within 10 s. No message shows a password.
    """
    parameters = _parameters(url)
    try:
        return psycopg.connect(
            url,
            autocommit=autocommit,
            prepare_threshold=None,
            connect_timeout=int(parameters.get("connect_timeout") or _CONNECT_TIMEOUT_S),
            application_name=str(parameters.get("application_name") or _APPLICATION),
            tcp_user_timeout=int(parameters.get("tcp_user_timeout") or _TCP_TIMEOUT_MS),
        )
    except psycopg.OperationalError as error:
        raise _unreachable(url, error) from None
    except (psycopg.Error, ValueError) as error:
        message = f"the database URL {shown(url)} is not usable ({_cause(error, parameters)}): {_EXAMPLE}"
        raise ConfigurationError(message) from None


def shown(url: str) -> str:
    """Return where `url` points, without the password and without options: fit for messages and logs."""
    try:
        parameters = conninfo_to_dict(url)
    except psycopg.Error:
        return re.sub(r"//.*@", "//…@", url.partition("?")[0]) if "://" in url else "(unreadable)"
    user, host = parameters.get("user"), str(parameters.get("host") or "localhost")
    port, database = parameters.get("port") or 5432, parameters.get("dbname") or user or ""
    name = f"{user}@" if user else ""
    if host.startswith("/"):
        return f"postgresql://{name}/{database}?host={host}"
    return f"postgresql://{name}{host}:{port}/{database}"


@contextmanager
def translated(url: str) -> Generator[None]:
    """Turn what psycopg raises inside the block into the errors of this package, as `sqlstate.classified` says."""
    try:
        yield
    except psycopg.Error as error:
        raise classified(error, shown(url)) from error


def _parameters(url: str) -> dict[str, Any]:
    try:
        return conninfo_to_dict(url)
    except psycopg.Error:
        # libpq repeats the URL in its message, password included.
        message = f"the database URL {shown(url)} is not a PostgreSQL URL: {_EXAMPLE}"
        raise ConfigurationError(message) from None


def _unreachable(url: str, error: psycopg.Error) -> StorageRefusedError | StorageUnavailableError:
    cause = _cause(error, _parameters(url))
    if _REFUSED.search(cause):
        return StorageRefusedError(
            f"the database at {shown(url)} refused the connection: {cause}; check ELF_DATABASE_URL"
        )
    return StorageUnavailableError(
        f"cannot reach the database at {shown(url)}: {cause}; is it running? {_EXAMPLE}, or run elf-telemetry db start"
    )


def _cause(error: Exception, parameters: dict[str, Any]) -> str:
    cause = _first_line(error)
    password = parameters.get("password")
    return cause.replace(str(password), "…") if password else cause


def _first_line(error: Exception) -> str:
    """Return what happened, without libpq's "connection to server at … failed: " in front of it."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    line = line.removeprefix("connection failed: ")
    return line.partition(" failed: ")[2] or line if line.startswith("connection to server") else line
