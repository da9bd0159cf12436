"""Supabase's own database linter finds nothing to warn of in the schema, in both states of the default grants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import supabase_roles
from elf_automations.storage.migrate import migrate
from pooler import Pooler

_TOOLS = Path(sys.prefix) / "tools" / "node_modules" / "@supabase"


def _cli() -> Path:
    found = sorted(_TOOLS.glob("cli-*/bin/supabase"))
    assert found, (
        f"the supabase CLI is not in {_TOOLS}: `make test` installs it, or "
        f"npm install --no-save --prefix {_TOOLS.parents[1]} supabase@3.1.0"
    )
    return found[0]


def _advice(pooler: Pooler, administrator: str, home: Path) -> set[tuple[str, str, str]]:
    """Return level, name and object of what `db advisors` says; it speaks TCP only, and so goes through the pooler."""
    url = pooler.url(str(conninfo_to_dict(administrator)["dbname"]))
    command = [
        *(str(_cli()), "db", "advisors", f"--remote={url}?sslmode=disable"),
        *("--type", "all", "--level", "warn", "--fail-on", "none", "--output-format", "json", "--agent", "no"),
    ]
    environment = {"HOME": str(home), "PATH": os.defpath, "SUPABASE_TELEMETRY_DISABLED": "1", "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, env=environment, cwd=home)
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout)
    assert answer["message"] == "db advisors"
    results = cast("list[dict[str, Any]]", answer["results"])
    return {(line["level"], line["name"], str(line["metadata"].get("name"))) for line in results}


@pytest.mark.parametrize("grants", ["all", "nothing"])
def test_the_advisors_have_nothing_to_warn_of(
    postgres_url: str, pooler: Pooler, tmp_path: Path, grants: supabase_roles.Grants
) -> None:
    with supabase_roles.project(postgres_url, grants) as (administrator, owner):
        migrate(owner)
        assert _advice(pooler, administrator, tmp_path) == set()


def test_the_advisors_do_find_what_is_wrong(postgres_url: str, pooler: Pooler, tmp_path: Path) -> None:
    """A linter that could not look would be silent as well."""
    with supabase_roles.project(postgres_url, "all") as (administrator, owner):
        migrate(owner)
        with psycopg.connect(owner, autocommit=True) as connection:
            connection.execute("create table leak (id int primary key)")
            connection.execute("create view leaky as select * from communication_telemetry")
            connection.execute("create function loose() returns int language sql as 'select 1'")
            connection.execute("create policy open_door on unified_registry for insert to anon with check (true)")
        assert _advice(pooler, administrator, tmp_path) == {
            ("ERROR", "rls_disabled_in_public", "leak"),
            ("ERROR", "security_definer_view", "leaky"),
            ("WARN", "function_search_path_mutable", "loose"),
            ("WARN", "rls_policy_always_true", "unified_registry"),
        }
