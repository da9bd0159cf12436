"""Every panel of the Grafana dashboard asks something the database answers, as Grafana's user."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import yaml
from psycopg.conninfo import make_conninfo

from collector_process import CONFIGURATIONS
from elf_automations.storage.migrate import migrate
from elf_exporters import CommunicationTelemetryExporter
from grafana_reader import run_reader
from own_postgres import own_postgres
from spans import tool_call

DASHBOARD = json.loads((CONFIGURATIONS / "grafana/dashboards/telemetry.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
ASKED = [(panel["title"], panel["targets"][0]) for panel in PANELS if "rawSql" in panel["targets"][0]]
# Both ends of the calls are known.
QUIET = {"Never registered"}


@pytest.fixture(scope="module")
def reader() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Grafana's connection to a database with some calls of this minute, one of which failed."""
    with own_postgres(fsync="off") as (_, url):
        run_reader(url)
        migrate(url)
        now = time.time_ns()
        exporter = CommunicationTelemetryExporter(database_url=url)
        exporter.export([tool_call(number, error="503" if number == 3 else None, start_ns=now) for number in range(9)])
        assert exporter.force_flush()
        exporter.shutdown()
        with psycopg.connect(make_conninfo(url, user="grafana"), autocommit=True) as connection:
            yield connection


def expanded(sql: str) -> str:
    """Return SQL as Grafana sends it, its macro for the chosen time replaced."""
    written = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 between now() - interval '1 hour' and now()", sql)
    assert "$__" not in written, "a macro this test does not know"
    return written


@pytest.mark.parametrize(("title", "target"), ASKED, ids=[title for title, _ in ASKED])
def test_a_panels_question_is_answered(reader: Any, title: str, target: dict[str, Any]) -> None:
    found = reader.execute(expanded(target["rawSql"]).encode())
    columns, rows = [column.name for column in found.description], found.fetchall()
    assert bool(rows) is (title not in QUIET)
    if target["format"] == "time_series":
        assert columns[:2] == ["time", "metric"]
        assert sum(value for *_, value in rows) > 0


def test_every_panel_uses_a_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((CONFIGURATIONS / "grafana/datasources/elf.yaml").read_text())["datasources"]
    known = {(source["type"], source["uid"]) for source in provisioned}
    used = [
        source for panel in PANELS for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"]))
    ]
    assert {(source["type"], source["uid"]) for source in used} <= known


def test_a_failed_call_leads_to_its_trace_where_compose_serves_jaeger() -> None:
    (port,) = yaml.safe_load((CONFIGURATIONS / "compose.yaml").read_text())["services"]["jaeger"]["ports"]
    (link,) = set(re.findall(r'"url": "([^"]+)"', json.dumps(DASHBOARD)))
    assert link == f"http://{port.rpartition(':')[0]}/trace/${{__value.raw}}"


def test_no_two_panels_overlap() -> None:
    taken = [
        (x, y)
        for panel in PANELS
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
