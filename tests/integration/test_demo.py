"""The demo a newcomer runs: real calls become rows, and the ledger and the table agree."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from elf_automations.cli import demo, main
from telemetry import fresh_pipeline

TEAMS = """
select entity_id, registered_by, current_state from unified_registry where entity_type = 'team' order by entity_id
"""
COMMAND = str(Path(sys.executable).with_name("elf-telemetry"))


def run(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=check, timeout=150)


def test_the_ledger_and_the_rows_agree_and_the_database_stays_when_asked():
    done = run("demo", "--rounds", "2", "--json", "--keep", check=False)  # what it kept is stopped below in any case
    summary = json.loads(done.stdout.splitlines()[-1])
    (data,) = re.findall(r"db stop --data-dir (\S+)", done.stderr)
    try:
        assert done.returncode == 0, done.stderr
        assert summary["calls"] == summary["rows"]
        assert summary["calls_by_status"] == summary["rows_by_status"]
        assert all(summary["calls"].values())
        assert all(summary["calls_by_status"].values())
        assert summary["entities"] >= 6
        assert "Traceback" not in done.stderr
        assert "arning" not in done.stderr
        with psycopg.connect(summary["database_url"]) as connection:
            assert connection.execute(TEAMS).fetchall() == [
                (team, "team_factory", "stopped") for team in ("marketing-team", "sales-team", "support-team")
            ]
        status = json.loads(run("status", "--database-url", summary["database_url"], "--json").stdout)
        assert {row["protocol"]: row["p95"] is not None for row in status["health"]} == dict.fromkeys(
            summary["calls"], True
        )
    finally:
        assert run("db", "stop", "--data-dir", data).stdout == "stopped\n"
        shutil.rmtree(Path(data).parent)


def test_the_demo_shows_who_calls_whom_and_leaves_nothing_behind():
    before = _processes()
    done = run("demo", "--rounds", "1")
    for heading in ("Who calls whom", "The last calls", "Registry", "Alerts", "Every call is there"):
        assert heading in done.stdout
    assert done.stderr == ""
    assert _processes() - before == set()


@contextmanager
def log_levels_kept():
    """The demo quietens the logs of its process, which is ours here."""
    loggers = [logging.getLogger(name) for name in ("", "elf_automations", "elf_exporters")]
    before = [logger.level for logger in loggers]
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def test_rows_that_are_not_what_was_called_are_a_finding(monkeypatch, capfd):
    honest = demo._work

    def one_call_lost(*arguments):
        summary, seen = honest(*arguments)
        return {**summary, "rows": {**summary["rows"], "mcp": summary["rows"]["mcp"] - 1}}, seen

    monkeypatch.setattr(demo, "_work", one_call_lost)
    with fresh_pipeline(), log_levels_kept(), pytest.raises(SystemExit) as ended:
        main(["demo", "--rounds", "1", "--json"])
    assert ended.value.code == 1
    assert "the rows are not what was called" in capfd.readouterr().err


def _processes() -> set[str]:
    """The postgres processes and Python servers of this machine, by pid."""
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"elf-demo-" in command or b"elf_automations.demo" in command:
                found.add(entry.name)
    return found


def test_a_wrong_option_and_a_database_that_is_not_there_are_one_clear_line():
    unknown = run("demo", "--round", "1", check=False)
    assert unknown.returncode == 2
    assert "No such option: --round" in unknown.stderr
    assert len(unknown.stderr.strip().splitlines()) == 1
    away = run("status", "--database-url", "postgresql://127.0.0.1:1/nowhere", check=False)
    assert away.returncode == 2
    assert len(away.stderr.strip().splitlines()) == 1
    malformed = run("status", "--database-url", "mysql://x", check=False)
    assert malformed.returncode == 2
    assert len(malformed.stderr.strip().splitlines()) == 1
    none = subprocess.run(
        [COMMAND, "status"],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith(("ELF_", "SUPABASE_", "DATABASE_URL"))},
    )
    assert none.returncode == 2
    assert "ELF_DATABASE_URL" in none.stderr


def test_a_database_without_the_schema_names_the_command_that_makes_it(empty_database_url):
    done = run("status", "--database-url", empty_database_url, check=False)
    assert done.returncode == 2
    assert "elf-telemetry setup" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_setup_says_what_is_due_applies_it_and_is_done(empty_database_url):
    due = run("setup", "--check", "--database-url", empty_database_url, check=False)
    assert due.returncode == 1
    assert "0001_" in due.stdout
    assert "applied  0001_" in run("setup", "--database-url", empty_database_url).stdout
    assert "nothing to do" in run("setup", "--database-url", empty_database_url).stdout
    assert run("setup", "--check", "--database-url", empty_database_url).returncode == 0
