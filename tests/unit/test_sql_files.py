"""The SQL files: complete, ordered, hashed the same on every system."""

from __future__ import annotations

import re

import pytest

from elf_automations.errors import MigrationError
from elf_automations.storage.queries import queries
from elf_automations.storage.sql_files import migrations, sql_text

_FOR_THE_CLI = {
    "active_alerts",
    "communication_matrix",
    "counts_by_protocol_and_status",
    "entity_count",
    "entity_health",
    "entity_health_share",
    "error_rates",
    "latency",
    "recent_communications",
    "registration_gaps",
    "registry_overview",
    "request_volume",
    "system_health",
}


def test_migrations_are_numbered_without_gap() -> None:
    """Two branches that both add a number would leave the order to chance."""
    names = [migration.name for migration in migrations()]
    assert [name[:5] for name in names] == [f"{number:04}_" for number in range(1, len(names) + 1)]
    assert all(re.fullmatch(r"\d{4}_[a-z][a-z0-9_]+", name) for name in names)


def test_checksum_is_of_the_text() -> None:
    """`sha256sum` of a released file gives what the ledger says."""
    assert all(re.fullmatch("[0-9a-f]{64}", migration.sha256) for migration in migrations())
    assert all("\r" not in migration.sql for migration in migrations())


def test_queries_have_names_and_text() -> None:
    assert set(queries()) >= _FOR_THE_CLI
    assert [name for name, text in queries().items() if not text.endswith(";")] == []


def test_missing_file_is_one_clear_line() -> None:
    with pytest.raises(MigrationError, match=r"^the installation has no sql/nowhere\.sql: install .* again$"):
        sql_text("nowhere.sql")
