"""The database a command works on."""

from __future__ import annotations

from typing import Annotated

import typer

from elf_automations.errors import ConfigurationError
from elf_automations.storage.target import PostgresTarget, Target, choose_target

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        help="The database; default: ELF_DATABASE_URL, SUPABASE_DB_URL or DATABASE_URL.",
        show_default=False,
    ),
]


def postgres_url(database_url: str | None) -> str:
    """Return the URL of the database to work on; raises ConfigurationError when none is set."""
    target = choose_target(database_url)
    if isinstance(target, PostgresTarget):
        return target.url
    where = "SUPABASE_URL reaches it over HTTPS only, and this command needs a database connection" if target else ""
    message = (
        f"{where or 'no database is configured'}: set ELF_DATABASE_URL (on Supabase: Connect, connection string) "
        "or pass --database-url; `elf-telemetry db start` gives you one to try"
    )
    raise ConfigurationError(message)


def storage_target(database_url: str | None) -> Target:
    """Return where rows go, over a connection or HTTPS; raises ConfigurationError when nothing says so."""
    target = choose_target(database_url)
    if target is None:
        raise ConfigurationError(
            "no database is configured: set ELF_DATABASE_URL, or SUPABASE_URL with a key, or pass --database-url; "
            "`elf-telemetry db start` gives you one to try"
        )
    return target
