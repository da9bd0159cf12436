"""One PostgreSQL server for the session, one fresh database for each test that asks."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

import private_postgres
from elf_automations.storage.migrate import migrate
from pooler import Pooler, pooled
from supabase_roles import Project, emptied, migrated_project

# gRPC's handlers of a fork run in the child before it becomes another program, and close what that one was given: tests
# start servers while its threads are alive.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"

_FOREIGN = re.compile(r"^(ELF_|SUPABASE_|OTEL_|PG[A-Z])|^DATABASE_URL$")
_SERVER = os.environ.get("ELF_TEST_DSN")
_POOLED = os.environ.get("ELF_TEST_POOLER") == "1"

# Needs a server with pg_cron; `make test-15` brings one, and everywhere else a stand-in is tested.
collect_ignore = [] if private_postgres.HAS_CRON else ["integration/test_pg_cron.py"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "database: talks to the session's PostgreSQL; given by the fixtures a test asks for"
    )
    config.addinivalue_line("markers", "front: reaches it directly or through the pooler, as ELF_TEST_POOLER says")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark by fixture, so that no new test has to remember to be run on every version and through the pooler."""
    fixtures = getattr(item, "fixturenames", ())
    if "postgres_url" in fixtures:
        item.add_marker("database")
    if "_front" in fixtures:
        item.add_marker("front")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if _FOREIGN.match(name):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Administrator URL of the session's server: $ELF_TEST_DSN, else a private one that is stopped at the end."""
    if _SERVER:
        yield _SERVER
        return
    with private_postgres.running() as url:
        yield url


@pytest.fixture(scope="session")
def pooler(postgres_url: str) -> Iterator[Pooler]:
    """A transaction pooler before the session's server."""
    with pooled(postgres_url) as running:
        yield running


@pytest.fixture(scope="session")
def _front(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """How tests reach a database: directly, or through the pooler with ELF_TEST_POOLER=1."""
    if not _POOLED:
        yield lambda url: url
        return
    running: Pooler = request.getfixturevalue("pooler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg, "connect", _unprepared(psycopg.connect))
        yield lambda url: running.url(str(conninfo_to_dict(url)["dbname"]))


def _unprepared(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Let the tests' own connections prepare nothing; what the package opens stays as the package opens it."""

    def opened(*arguments: Any, **settings: Any) -> Any:
        if not str(sys._getframe(1).f_globals.get("__name__")).startswith("elf_"):
            settings.setdefault("prepare_threshold", None)
        return connect(*arguments, **settings)

    return opened


@pytest.fixture(scope="session")
def _template(postgres_url: str) -> Iterator[str]:
    with _database(postgres_url) as url:
        migrate(url)
        with psycopg.connect(url) as connection:
            # Rows of a fixed clock are older than the retention: writers must not start the upkeep by themselves.
            connection.execute("update telemetry_upkeep set last_run = now() + interval '1 day'")
        yield str(conninfo_to_dict(url)["dbname"])


@pytest.fixture
def database_url(postgres_url: str, _template: str, _front: Callable[[str], str]) -> Iterator[str]:
    """URL of a fresh database with the schema in place."""
    with _database(postgres_url, _template) as url:
        yield _front(url)


@pytest.fixture
def direct_url(postgres_url: str, database_url: str) -> str:
    """The same database without a pooler between, which notifications and the setting of a role need."""
    return _with_database(postgres_url, str(conninfo_to_dict(database_url)["dbname"]))


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str, _template: str, _front: Callable[[str], str]) -> Iterator[str]:
    """URL of a database with the schema in place that the tests of one module share."""
    with _database(postgres_url, _template) as url:
        yield _front(url)


@pytest.fixture
def empty_database_url(postgres_url: str, _front: Callable[[str], str]) -> Iterator[str]:
    """URL of a fresh database without any schema."""
    with _database(postgres_url) as url:
        yield _front(url)


@pytest.fixture
def pooled_database_url(postgres_url: str, _template: str, pooler: Pooler) -> Iterator[str]:
    """URL, through the transaction pooler, of a fresh database with the schema in place."""
    with _database(postgres_url, _template) as url:
        yield pooler.url(str(conninfo_to_dict(url)["dbname"]))


@pytest.fixture
def pooled_empty_database_url(postgres_url: str, pooler: Pooler) -> Iterator[str]:
    """URL, through the transaction pooler, of a fresh database without any schema."""
    with _database(postgres_url) as url:
        yield pooler.url(str(conninfo_to_dict(url)["dbname"]))


@pytest.fixture(scope="module", params=["all", "nothing"])
def _hosted(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[Project]:
    with migrated_project(postgres_url, request.param) as made:
        yield made


@pytest.fixture
def hosted(_hosted: Project) -> Project:
    """A Supabase project without rows, once with each state of the default grants."""
    return emptied(_hosted)


@contextmanager
def _database(server: str, template: str = "template0") -> Generator[str]:
    name = f"elf_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        made = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        connection.execute(made)
    try:
        yield _with_database(server, name)
    finally:
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _with_database(server: str, name: str) -> str:
    if "://" not in server:
        return make_conninfo(server, dbname=name)
    base, separator, options = server.partition("?")
    scheme, _, rest = base.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}/{name}{separator}{options}"
