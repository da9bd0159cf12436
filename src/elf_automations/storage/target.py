"""Where rows go: one Postgres URL, a Supabase project over HTTPS, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from elf_automations.errors import ConfigurationError

ARGUMENT: Final = "--database-url"
DATABASE_URL_SETTINGS: Final = ("ELF_DATABASE_URL", "SUPABASE_DB_URL", "DATABASE_URL")
SUPABASE_URL_SETTING: Final = "SUPABASE_URL"
SUPABASE_KEY_SETTINGS: Final = ("SUPABASE_SERVICE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_ANON_KEY")

_POSTGRES_SCHEMES: Final = ("postgresql://", "postgres://")
_POSTGRES_EXAMPLE: Final = "postgresql://user:password@host:5432/database"


@dataclass(frozen=True, slots=True)
class PostgresTarget:
    """A Postgres database; `origin` names the setting its URL came from, `url` may hold a password."""

    url: str = field(repr=False)
    origin: str


@dataclass(frozen=True, slots=True)
class SupabaseTarget:
    """A Supabase project reached over HTTPS; `origin` names the settings it came from."""

    url: str
    key: str = field(repr=False)
    origin: str


Target: TypeAlias = PostgresTarget | SupabaseTarget


def choose_target(
    database_url: str | None = None, environ: Mapping[str, str] = os.environ, *, argument: str = ARGUMENT
) -> Target | None:
    """Return where rows go, None when nothing says so.

    `database_url` is the caller's argument, called `argument` in messages, and comes first; then ELF_DATABASE_URL,
    SUPABASE_DB_URL and DATABASE_URL; then SUPABASE_URL with a key. Empty values count as unset.
    Raises ConfigurationError, naming the setting and never its value, for a malformed URL or a missing key.
    Source of the order: design, section 5, Database choice.
    """
    stated = [(argument, database_url or ""), *((name, environ.get(name, "")) for name in DATABASE_URL_SETTINGS)]
    for origin, url in stated:
        if url.strip():
            return PostgresTarget(_checked_postgres_url(url.strip(), origin), origin)
    supabase_url = environ.get(SUPABASE_URL_SETTING, "").strip()
    if not supabase_url:
        return None
    for name in SUPABASE_KEY_SETTINGS:
        key = environ.get(name, "").strip()
        if key:
            origin = f"{SUPABASE_URL_SETTING} and {name}"
            return SupabaseTarget(_checked_supabase_url(supabase_url), _checked_key(key, name), origin)
    message = (
        f"{SUPABASE_URL_SETTING} is set but no key is: set one of {', '.join(SUPABASE_KEY_SETTINGS)}, "
        f"or ELF_DATABASE_URL={_POSTGRES_EXAMPLE}"
    )
    raise ConfigurationError(message)


def _checked_postgres_url(url: str, origin: str) -> str:
    # The driver's own messages quote the URL, password included, so they are not passed on.
    if not url.startswith(_POSTGRES_SCHEMES):
        problem = "does not begin with postgresql://"
    else:
        try:
            # A port that is no number is found by reading it.
            _ = urlsplit(url).port
            conninfo_to_dict(url)
        except (ValueError, psycopg.Error):
            problem = "cannot be read (special characters in the password must be percent-encoded)"
        else:
            return url
    message = f"{origin} is not a Postgres URL: it {problem}; write {_POSTGRES_EXAMPLE}"
    raise ConfigurationError(message)


def _checked_supabase_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if usable:
        return url.rstrip("/")
    message = f"{SUPABASE_URL_SETTING} is not an http(s) URL: write https://<project>.supabase.co"
    raise ConfigurationError(message)


def _checked_key(key: str, origin: str) -> str:
    if key.isascii() and key.isprintable() and " " not in key:
        return key
    message = f"{origin} is not a Supabase key: it holds spaces or characters no key has; copy it again"
    raise ConfigurationError(message)
