"""`elf-telemetry doctor`: each trouble of the guide is a line with its mend, and the doctor leaves no trace."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from psycopg import sql

from elf_automations.cli import main
from elf_automations.doctor import Check, process
from elf_automations.registry import UnifiedRegistry
from postgrest_server import Api, serving
from supabase_roles import JWT_OF, KEYS, PUBLISHABLE, SECRET, migrated_project

WELL = {
    "settings": "note", "target": "ok", "database": "ok", "schema": "ok", "write": "ok", "partitions": "ok",
    "upkeep": "ok", "registry": "ok", "mcp": "ok", "a2a": "ok", "n8n": "ok",
}  # fmt: skip


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `elf-telemetry doctor --json`; return its exit code and its checks by name."""

    def run(*arguments: str) -> tuple[int, dict[str, Check]]:
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--json", *arguments])
        told = capsys.readouterr()
        assert told.err == ""
        answer = orjson.loads(told.out)
        assert answer["ok"] is (ended.value.code == 0)
        return int(ended.value.code or 0), {check["name"]: Check(**check) for check in answer["checks"]}

    return run


@pytest.fixture
def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    return database_url


@contextmanager
def admin(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of every table of ours."""
    with admin(url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchall()
        return {
            name: connection.execute(sql.SQL("SELECT * FROM {} ORDER BY 1").format(sql.Identifier(name))).fetchall()
            for (name,) in tables
        }


def test_a_system_that_is_well_has_no_finding_and_is_left_as_it_was(doctor: Any, configured: str) -> None:
    before = contents(configured)
    code, checks = doctor()
    assert (code, {name: check.verdict for name, check in checks.items()}) == (0, WELL)
    assert "from ELF_DATABASE_URL" in checks["target"].says
    assert "removed again" in checks["write"].says
    assert contents(configured) == before


def test_people_read_lines(
    configured: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELF_ENTITY_ID", "sales-team")
    monkeypatch.setenv("ELF_ENTITY_TYP", "team")
    with pytest.raises(SystemExit) as ended:
        main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1
    assert lines[:2] == [
        "finding settings   ELF_ENTITY_TYP is no setting and is ignored: did you mean ELF_ENTITY_TYPE?",
        "                   mend: correct the name",
    ]
    assert lines[-1] == "ok      n8n        n8n.workflow_registration is ours"


@pytest.mark.parametrize(
    ("settings", "check", "says"),
    [
        ({}, "target", "no database is configured"),
        ({"ELF_DATABASE_URL": "mysql://me:hunter2@host/db"}, "target", "ELF_DATABASE_URL is not a Postgres URL"),
        ({"SUPABASE_URL": "https://x.supabase.co"}, "target", "no key is"),
        ({"ELF_QUEUE_SIZE": "many"}, "settings", "ELF_QUEUE_SIZE='many' does not fit"),
    ],
)
def test_a_configuration_that_cannot_work_exits_with_2(
    doctor: Any, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], check: str, says: str
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code, checks = doctor()
    assert code == 2
    assert checks[check].verdict == "misconfigured"
    assert says in checks[check].says
    assert "hunter2" not in repr(checks)
    assert "write" not in checks


@pytest.mark.parametrize("setting", ["ELF_TELEMETRY_ENABLED=false", "OTEL_SDK_DISABLED=true"])
def test_telemetry_that_is_switched_off_is_found_and_nothing_is_sent(
    doctor: Any, configured: str, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    code, checks = doctor()
    assert (code, checks["settings"].verdict, checks["settings"].mend) == (1, "finding", f"unset {name}")
    assert "write" not in checks


def test_a_database_that_is_away_is_found(doctor: Any) -> None:
    code, checks = doctor("--database-url", "postgresql://me:hunter2@127.0.0.1:1/elf")
    assert (code, checks["database"].verdict) == (1, "finding")
    assert "cannot reach the database" in checks["database"].says
    assert "elf-telemetry db start" in (checks["database"].mend or "")
    assert "hunter2" not in repr(checks)


def test_a_database_without_the_schema_is_found(doctor: Any, empty_database_url: str) -> None:
    code, checks = doctor("--database-url", empty_database_url)
    assert (code, checks["schema"].verdict, checks["schema"].mend) == (1, "finding", "run `elf-telemetry setup`")
    assert "migrations are due, the first is 0" in checks["schema"].says


def test_a_user_who_may_not_write_is_found(doctor: Any, database_url: str) -> None:
    name = f"elf_reader_{uuid.uuid4().hex[:8]}"
    with admin(database_url) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        try:
            scheme, _, rest = database_url.partition("://")
            url = f"{scheme}://{name}:hunter2@{rest.partition('@')[2]}"
            code, checks = doctor("--database-url", url)
        finally:
            connection.execute(f"DROP OWNED BY {name}")
            connection.execute(f"DROP ROLE {name}")
    assert (code, checks["schema"].verdict, checks["write"].verdict) == (1, "note", "finding")
    assert "a span does not arrive" in checks["write"].says
    assert "check the user, its password and its grants" in (checks["write"].mend or "")
    assert "hunter2" not in repr(checks)


def test_missing_partitions_and_upkeep_that_stopped_are_found(doctor: Any, configured: str) -> None:
    with admin(configured) as connection:
        connection.execute(
            """
            DO $$
            DECLARE ahead regclass;
            BEGIN
                FOR ahead IN
                    SELECT inhrelid::regclass FROM pg_inherits
                    WHERE inhparent = 'communication_telemetry'::regclass
                        AND inhrelid <> 'communication_telemetry_default'::regclass
                        AND inhrelid::regclass::text > telemetry_partition_name((now() AT TIME ZONE 'UTC')::date)
                LOOP
                    EXECUTE format('DROP TABLE %s', ahead);
                END LOOP;
            END $$
            """
        )
        connection.execute("DELETE FROM telemetry_upkeep")
        connection.execute("INSERT INTO telemetry_upkeep VALUES ('maintain_telemetry', now() - interval '2 days')")
        code, checks = doctor()
        assert code == 1
        assert {name: checks[name].verdict for name in ("partitions", "upkeep")} == {
            "partitions": "finding", "upkeep": "finding",
        }  # fmt: skip
        assert "elf-telemetry maintain" in (checks["partitions"].mend or "")
        connection.execute("UPDATE telemetry_upkeep SET last_run = now(), last_error = 'lock timeout'")
        assert "lock timeout" in doctor()[1]["upkeep"].says
        connection.execute("SELECT maintain_telemetry()")
        code, checks = doctor()
        assert (code, checks["partitions"].verdict, checks["upkeep"].verdict) == (0, "ok", "ok")


def test_registration_gaps_are_counted(doctor: Any, configured: str) -> None:
    with admin(configured) as connection:
        for team in ("ghost-team", "shadow-team"):
            connection.execute("SELECT record_mcp_telemetry(%s, 'crm', 'lookup', 'success', 1.0)", (team,))
    code, checks = doctor()
    assert (code, checks["registry"].says) == (1, "registration gaps: 1 missing_mcp, 2 missing_team")
    with UnifiedRegistry() as registry:
        for entity_id, entity_type in (("ghost-team", "team"), ("shadow-team", "team"), ("crm", "mcp_server")):
            registry.register_entity(entity_id, entity_type)
    assert doctor()[1]["registry"].verdict == "ok"


def test_an_sdk_of_another_age_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "version", {"mcp": "1.12.0", "a2a-sdk": "0.3.9"}.__getitem__)
    assert [(check.name, check.verdict, check.says, check.mend) for check in process.sdks()] == [
        ("mcp", "finding", "mcp 1.12.0 is not instrumented: mcp<3,>=1.24 is", "pip install 'elf-automations[mcp]'"),
        (
            "a2a",
            "finding",
            "a2a-sdk 0.3.9 is not instrumented: a2a-sdk<2,>=1.3 is",
            "pip install 'elf-automations[a2a]'",
        ),
    ]


def test_a_patch_point_that_moved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcp.client.session import ClientSession

    original = ClientSession.send_request
    monkeypatch.delattr(ClientSession, "validate_tool_result")
    mcp, a2a = process.sdks()
    assert (mcp.verdict, a2a.verdict) == ("finding", "ok")
    assert "mcp.client.session.ClientSession.validate_tool_result" in mcp.says
    assert ClientSession.send_request is original


def test_another_package_called_n8n_is_found(tmp_path: Path) -> None:
    other = tmp_path / "n8n"
    other.mkdir()
    (other / "__init__.py").write_text("")
    script = "from elf_automations.doctor.process import n8n_name as look; print(look().verdict, look().says)"
    kept = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True,
        env={**kept, "HOME": str(tmp_path), "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert ended.stdout == f"finding another package n8n at {other}/__init__.py hides n8n.workflow_registration\n"


@pytest.fixture(scope="module")
def supabase(postgres_url: str) -> Iterator[Api]:
    with migrated_project(postgres_url, "all") as made, serving(made.url, keys=KEYS) as running:
        yield running


@pytest.mark.parametrize(
    ("key", "upkeep", "stored"),
    [
        (PUBLISHABLE, "note", "this key may not read it back"),
        (JWT_OF["anon"], "note", "this key may not read it back"),
        (JWT_OF["authenticated"], "ok", "and read back"),
        (SECRET, "ok", "and read back"),
    ],
    ids=["publishable", "anon", "authenticated", "secret"],
)
def test_a_project_is_examined_with_whatever_its_key_may(
    doctor: Any, supabase: Api, monkeypatch: pytest.MonkeyPatch, key: str, upkeep: str, stored: str
) -> None:
    monkeypatch.setenv("SUPABASE_URL", supabase.url)
    monkeypatch.setenv("SUPABASE_ANON_KEY", key)
    code, checks = doctor()
    assert code == 0
    assert stored in checks["write"].says
    verdicts = {name: check.verdict for name, check in checks.items()}
    reads = key not in {PUBLISHABLE, JWT_OF["anon"]}
    expected = {**WELL, "upkeep": upkeep, "registry": "ok" if reads else "note"}
    del expected["partitions"]
    assert verdicts == expected
    with admin(supabase.database_url) as connection:
        assert connection.execute("SELECT DISTINCT counted FROM communication_telemetry").fetchall() == [(False,)]
        assert connection.execute("SELECT * FROM unified_registry").fetchall() == []
        assert connection.execute("SELECT * FROM communication_patterns").fetchall() == []


def test_a_wrong_key_and_a_project_without_the_schema_are_found(
    doctor: Any, empty_database_url: str, supabase: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPABASE_URL", supabase.url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", "sb_secret_of_another_project")
    code, checks = doctor()
    assert (code, checks["database"].verdict) == (1, "finding")
    assert "is it a key of this project?" in (checks["database"].mend or "")
    assert "another_project" not in repr(checks)
    with serving(empty_database_url) as api:
        monkeypatch.setenv("SUPABASE_URL", api.url)
        monkeypatch.setenv("SUPABASE_SECRET_KEY", api.key)
        code, checks = doctor()
    assert (code, checks["schema"].verdict) == (1, "finding")
    assert "the project has no update_entity_state, ingest_communications" in checks["schema"].says
    assert "elf-telemetry setup" in (checks["schema"].mend or "")
