"""The roles of a hosted Supabase project, and both states of what they get on new objects, on any Postgres.

`anon`, `authenticated`, `service_role` and `authenticator` belong to a whole server: they are made where missing and
stay. What they are granted on new tables and functions belongs to one database (`Grants`).

    with project(postgres_url, "nothing") as (administrator, owner):
        migrate(owner)
        with acting(administrator, "authenticated", sub="u1") as connection: ...

    with migrated_project(postgres_url, "all") as made, serving(made.url, keys=KEYS) as api: ...

The fixture `hosted` is such a database, migrated and without rows, once with either state.
"""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from asking import asked, rows, value
from elf_automations.storage.migrate import migrate

__all__ = [
    "CLIENT_ROLES",
    "JWT_OF",
    "KEYS",
    "PUBLISHABLE",
    "SECRET",
    "Grants",
    "Project",
    "acting",
    "asked",
    "default_grants",
    "emptied",
    "ensure_roles",
    "login_role",
    "migrated_project",
    "project",
    "rows",
    "value",
]

Grants: TypeAlias = Literal["all", "nothing"]
"""What new objects in `public` give the three roles: `all` in projects until 2026-10-30, `nothing` since."""

_KEEPING_ROWS = """
select relname from pg_class
where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and not relispartition
    and relname not in ('elf_schema_migrations', 'telemetry_settings', 'alert_rules')
"""

CLIENT_ROLES: Final = ("anon", "authenticated", "service_role")

JWT_OF: Final = {
    role: f"eyJhbGciOiJIUzI1NiJ9.{b64encode(role.encode()).decode()}.c2lnbmF0dXJl" for role in CLIENT_ROLES
}
PUBLISHABLE: Final = "sb_publishable_0123456789"
SECRET: Final = "sb_secret_0123456789"
KEYS: Final = {PUBLISHABLE: "anon", SECRET: "service_role"} | {JWT_OF[role]: role for role in CLIENT_ROLES}
"""API keys of both kinds, each with the role it acts in, as `postgrest_server.serving` takes them."""

# As the image of Supabase makes them; NOINHERIT, so that authenticator has no rights before SET ROLE.
_ROLES: Final = """
do $$
begin
    perform pg_advisory_xact_lock(hashtextextended('elf tests: supabase roles', 0));
    if to_regrole('anon') is null then create role anon nologin noinherit; end if;
    if to_regrole('authenticated') is null then create role authenticated nologin noinherit; end if;
    if to_regrole('service_role') is null then create role service_role nologin noinherit bypassrls; end if;
    if to_regrole('authenticator') is null then create role authenticator login noinherit; end if;
end;
$$;
grant anon, authenticated, service_role to authenticator;
"""


def ensure_roles(url: str) -> None:
    """Make the roles on the server of `url` (administrator) where they are missing."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_ROLES)


def default_grants(url: str, grants: Grants, *, maker: str) -> None:
    """Bring the database at `url` to one of both states for what the role `maker` makes in `public` from now on."""
    with psycopg.connect(url, autocommit=True) as connection:
        for role in CLIENT_ROLES:
            connection.execute(sql.SQL("grant usage on schema public to {}").format(sql.Identifier(role)))
            for kind in ("tables", "functions", "sequences"):
                connection.execute(
                    sql.SQL("alter default privileges for role {} in schema public {} all on {} {} {}").format(
                        sql.Identifier(maker),
                        sql.SQL("grant" if grants == "all" else "revoke"),
                        sql.SQL(kind),
                        sql.SQL("to" if grants == "all" else "from"),
                        sql.Identifier(role),
                    )
                )


@contextmanager
def acting(url: str, role: str, *, sub: str | None = None) -> Iterator[psycopg.Connection[Any]]:
    """A connection that acts as PostgREST does for a key of `role`: as authenticator, in the role, with its claims.

    `url` is the administrator's; the session is handed to `authenticator` by SET SESSION AUTHORIZATION.
    """
    claims = {"role": role} if sub is None else {"role": role, "sub": sub}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set session authorization authenticator")
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        connection.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)])
        yield connection


@contextmanager
def project(server: str, grants: Grants) -> Iterator[tuple[str, str]]:
    """A fresh, empty database as a hosted project has it: the URL of the administrator, then of its owner.

    The owner is no superuser, like `postgres` there, and what it makes is granted as `grants` says. `server` is the
    administrator's URL of the server itself.
    """
    ensure_roles(server)
    name, password = f"elf_project_{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("create role {} login createrole password {}").format(sql.Identifier(name), sql.Literal(password))
        )
        connection.execute(
            sql.SQL("create database {} owner {} template template0").format(sql.Identifier(name), sql.Identifier(name))
        )
    administrator = make_conninfo(server, dbname=name)
    try:
        default_grants(administrator, grants, maker=name)
        yield administrator, make_conninfo(server, dbname=name, user=name, password=password)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@dataclass(frozen=True)
class Project:
    """A migrated database: the administrator's URL and its owner's."""

    url: str
    owner: str


@contextmanager
def migrated_project(server: str, grants: Grants) -> Iterator[Project]:
    """A fresh project with the schema in place, set up by its owner."""
    with project(server, grants) as (url, owner):
        migrate(owner)
        yield Project(url, owner)


def emptied(hosted: Project) -> Project:
    """Take all rows out of `hosted`; settings and rules stay."""
    with psycopg.connect(hosted.owner, autocommit=True) as connection:
        tables = sql.SQL(", ").join(sql.Identifier(name) for (name,) in rows(connection, _KEEPING_ROWS))
        connection.execute(sql.SQL("truncate {}").format(tables))
    return hosted


@contextmanager
def login_role(hosted: Project, *grants: str) -> Iterator[str]:
    """The URL of a login role that is no owner and does not bypass row security; `{}` in a grant is its name."""
    name, password = f"elf_role_{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
    with psycopg.connect(hosted.url, autocommit=True) as server:
        server.execute(
            sql.SQL("create role {} login inherit password {}").format(sql.Identifier(name), sql.Literal(password))
        )
        try:
            for grant in grants:
                server.execute(sql.SQL(grant).format(sql.Identifier(name)))  # pyright: ignore[reportArgumentType]
            yield make_conninfo(hosted.url, user=name, password=password)
        finally:
            server.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
            server.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))
