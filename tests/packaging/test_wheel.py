"""What a user installs holds every SQL file, the names of the design, and works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built through the sdist as an index would get it."""
    directory = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT], check=True, capture_output=True
    )
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_holds_every_sql_file_and_both_other_packages(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"elf_automations/{path.relative_to(ROOT)}" for path in (ROOT / "sql").rglob("*.sql")}
    assert expected
    assert expected <= names
    assert "n8n/workflow_registration.py" in names
    assert "n8n/__init__.py" not in names
    assert "elf_exporters/__init__.py" in names
    assert "elf_automations/conventions/registry.json" in names
    assert "elf_automations/n8n/elf-hooks.cjs" in names
    assert not [name for name in names if name.startswith(("tests/", "scripts/"))]


def test_the_installed_wheel_finds_its_migrations_without_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import elf_automations; from elf_automations.storage.sql_files import migrations; "
        "print(elf_automations.__file__); print(len(migrations()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    where, count = done.stdout.split()
    assert Path(where).is_relative_to(tmp_path)
    assert int(count) == len(list((ROOT / "sql" / "migrations").glob("*.sql")))


def test_the_wheel_declares_the_entry_points_of_the_design(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    parsed = ConfigParser()
    parsed.read_string(archive.read(name).decode())
    assert {section: sorted(parsed[section]) for section in parsed.sections()} == {
        "console_scripts": ["elf-telemetry"],
        "opentelemetry_instrumentor": ["elf-a2a", "elf-mcp"],
        "opentelemetry_propagator": ["elf"],
        "opentelemetry_resource_detector": ["elf_entity"],
        "opentelemetry_traces_exporter": ["communication_telemetry"],
    }
