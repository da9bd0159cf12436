"""A database as a Supabase project has it: the three roles, what they get by default, our schema, and keys for them.

with project(postgres_url) as url, serving(url, keys=KEYS) as api:
    ...
"""

from __future__ import annotations

import uuid
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from elf_automations.storage.migrate import migrate

ROLES = ("anon", "authenticated", "service_role")
JWT_OF = {role: f"eyJhbGciOiJIUzI1NiJ9.{b64encode(role.encode()).decode()}.c2lnbmF0dXJl" for role in ROLES}
PUBLISHABLE, SECRET = "sb_publishable_0123456789", "sb_secret_0123456789"
KEYS = {PUBLISHABLE: "anon", SECRET: "service_role"} | {JWT_OF[role]: role for role in ROLES}


@contextmanager
def project(server_url: str, *, generous: bool = True) -> Iterator[str]:
    """Make the database, yield its URL, remove it; `generous` grants all on new objects, as projects did at first."""
    name = f"elf_project_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        known = {role for (role,) in server.execute("SELECT rolname FROM pg_roles").fetchall()}
        made = [role for role in ROLES if role not in known]
        for role in made:
            may = sql.SQL("BYPASSRLS" if role == "service_role" else "")
            server.execute(sql.SQL("CREATE ROLE {} NOLOGIN {}").format(sql.Identifier(role), may))
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
    url = _with_database(server_url, name)
    try:
        with psycopg.connect(url) as connection:
            for kind in ("TABLES", "FUNCTIONS", "SEQUENCES") if generous else ():
                grant = sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {} TO {}")
                connection.execute(grant.format(sql.SQL(kind), sql.SQL(", ").join(map(sql.Identifier, ROLES))))
        migrate(url)
        yield url
    finally:
        with psycopg.connect(server_url, autocommit=True) as server:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
            for role in made:
                with suppress(psycopg.errors.DependentObjectsStillExist):  # another test's database knows it by now
                    server.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def _with_database(server_url: str, name: str) -> str:
    if "://" not in server_url:
        return make_conninfo(server_url, dbname=name)
    base, separator, options = server_url.partition("?")
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{separator}{options}"
