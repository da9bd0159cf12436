"""One execution told by n8n's own export, by its hooks and by its API is the same rows: whole rows, in the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Any

import orjson
import psycopg
import pytest
from psycopg.rows import dict_row

from command import answer
from elf_automations.model import map_batch
from elf_automations.model.from_otlp_bytes import from_json
from elf_automations.pipeline import configure
from elf_automations.registry import N8NWorkflowRegistry
from elf_automations.storage.writer import PostgresWriter
from n8n.workflow_registration import N8NWebhookHandler
from n8n_api_server import KEY, Instance, serving
from n8n_captures import SERVICE, document, documents_of_hooks, hook_events
from n8n_spans import requests
from telemetry import fresh_pipeline

Rows = dict[tuple[str, str, str | None], dict[str, Any]]

# What differs from one way to the other, and why; everything else is the same.
_NOT_COMPARED = {
    "id": "made of the span's id",
    "span_id": "n8n draws its span ids, ours follow from what they name",
    "created_at": "when the row came",
}
# In ms: what its hooks and its data call the start of an execution, n8n does a little before it begins the span.
_TOLERANCE = 25
_INSTANCE = {"instance_id": "n8n's own id of itself is in its export alone; who polls names it"}


@pytest.fixture
def writer(database_url: str) -> Iterator[PostgresWriter]:
    opened = PostgresWriter(database_url)
    yield opened
    opened.close()


def workflows(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The workflows of executions, as the API lists them."""
    shared = [{"role": "workflow:owner", "projectId": "q31Q1dBf2fgaUe3s"}]
    return [{"shared": shared, "active": True, "tags": [], **each["workflowData"]} for each in told]


def over_otlp(name: str, database_url: str, told: list[dict[str, Any]], writer: PostgresWriter) -> None:
    """Spans as a sink takes them; the registry knows the workflows and their limits, as it does by hooks or a sync."""
    registry = N8NWorkflowRegistry(database_url)
    for each in workflows(told):
        limit = {"execution_timeout": each["settings"].get("executionTimeout")}
        registry.register_workflow(each["id"], each["name"], nodes=each["nodes"], metadata=limit)
    registry.close()
    for request in requests(f"otlp_{name}"):
        # The instance was told to call itself otherwise, which only its export knows.
        records = from_json(orjson.dumps(request).replace(SERVICE.encode(), b"n8n")).records
        mapped = map_batch(records)
        writer.write(mapped.rows, mapped.entities, retry=True)


def over_hooks(name: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "events")
    registry = N8NWorkflowRegistry(database_url)
    with fresh_pipeline():
        for event in hook_events(name):
            told = asyncio.run(N8NWebhookHandler(registry).handle_workflow_event(event))
            assert told["status"] == "success"
        assert configure(instrument=False).flush(20)
    registry.close()


def over_api(database_url: str, told: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "api")
    monkeypatch.setenv("ELF_N8N_API_KEY", KEY)
    with serving(Instance(workflows=workflows(told), executions=told)) as url:
        monkeypatch.setenv("ELF_N8N_URL", url)
        result = answer(
            database_url, "n8n", "sync", "--limit-rate", "1000", "--since", "2026-11-01", "--instance", "h3"
        )
    assert result["executions"]["read"] == len(told)


def stored(database_url: str, writer: PostgresWriter) -> Rows:
    """The settled rows by operation, execution and node; afterwards the database is as it was before."""
    writer.settle(datetime(2026, 11, 1, tzinfo=UTC))
    with psycopg.connect(database_url, row_factory=dict_row, autocommit=True) as connection:
        found = connection.execute("select * from communication_telemetry order by timestamp").fetchall()
        connection.execute("truncate communication_telemetry, unified_registry, telemetry_sync cascade")
    writer.close()
    spans = {row["span_id"]: (row["operation"], row["metadata"]["execution_id"], row["workflow_node"]) for row in found}
    for row in found:
        # A parent by what it is; one that is no row of ours by its id.
        for column in ("parent_span_id", "parent_correlation_id"):
            row[column] = spans.get(row[column], row[column])
    return {spans[row["span_id"]]: row for row in found}


def same(one: Rows, other: Rows) -> None:
    assert list(one)
    assert set(one) == set(other)
    for key, row in one.items():
        assert comparable(row) == comparable(other[key]), key
        apart = abs(row["timestamp"] - other[key]["timestamp"]).total_seconds() * 1000
        assert apart <= _TOLERANCE, key
        assert row["duration_ms"] == pytest.approx(other[key]["duration_ms"], abs=_TOLERANCE), key


def comparable(row: dict[str, Any], but_for: Collection[str] = ()) -> dict[str, Any]:
    columns = {name: value for name, value in row.items() if name not in {*_NOT_COMPARED, *but_for}}
    kept = {name: value for name, value in columns.pop("metadata").items() if name not in {*_INSTANCE, *but_for}}
    return {**columns, "metadata": kept, "timestamp": None, "duration_ms": None}


@pytest.mark.parametrize("name", ["success", "failure_with_error_workflow"])
def test_the_three_ways_give_the_same_rows(
    name: str, database_url: str, writer: PostgresWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = documents_of_hooks(name)
    over_otlp(name, database_url, told, writer)
    otlp = stored(database_url, writer)
    over_hooks(name, database_url, monkeypatch)
    hooks = stored(database_url, writer)
    over_api(database_url, told, monkeypatch)
    api = stored(database_url, writer)
    same(otlp, hooks)
    same(otlp, api)
    assert len(otlp) == 2 * len(told)


def test_an_execution_timeout_is_one_also_where_n8n_does_not_say_so(
    database_url: str, writer: PostgresWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [document("execution_timeout")]
    over_otlp("execution_timeout", database_url, told, writer)
    otlp = stored(database_url, writer)
    over_api(database_url, told, monkeypatch)
    api = stored(database_url, writer)
    cut_off = ("workflow_step", "13", "Slow call")
    assert otlp.pop(cut_off)["status"] == "timeout"
    assert cut_off not in api  # n8n keeps nothing of a node that it cut off
    same(otlp, api)
    (row,) = api.values()
    assert (row["status"], row["error_message"], row["error_code"]) == (
        "timeout", "n8n stopped the execution at its limit of 2 s", "timeout",
    )  # fmt: skip


def test_a_captured_answer_of_the_api_is_the_rows_of_the_same_scenario(
    database_url: str, writer: PostgresWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured from other runs than the export: a run later, without a caller; a retry of the failed one."""
    told = [document("success"), document("failure")]
    over_otlp("success", database_url, told, writer)
    otlp = stored(database_url, writer)
    over_otlp("failure_with_error_workflow", database_url, told, writer)
    otlp |= stored(database_url, writer)
    over_api(database_url, told, monkeypatch)
    api = stored(database_url, writer)
    another = "another run, whose caller said no trace"
    runs = dict.fromkeys(("trace_id", "correlation_id", "parent_span_id", "parent_correlation_id"), another)
    a_retry = dict.fromkeys(("execution_id", "execution_mode", "retry_of"), "a retry of it")
    for operation, mine, theirs, node in (
        ("workflow_execution", "8", "7", None),
        ("workflow_step", "8", "7", "Call inventory"),
        ("workflow_execution", "16", "9", None),
        ("workflow_step", "16", "9", "Charge card"),
    ):
        left_out = {*runs, *a_retry}
        assert comparable(api[operation, mine, node], left_out) == comparable(otlp[operation, theirs, node], left_out)
    assert api["workflow_execution", "16", None]["metadata"]["retry_of"] == "9"
    assert len(api) == 4


def test_telling_it_again_changes_nothing(
    database_url: str, writer: PostgresWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = documents_of_hooks("failure_with_error_workflow")

    def both() -> str:
        over_api(database_url, told, monkeypatch)
        writer.settle(datetime(2026, 11, 1, tzinfo=UTC))
        with psycopg.connect(database_url, row_factory=dict_row, autocommit=True) as connection:
            rows = connection.execute("select * from communication_telemetry order by timestamp, id").fetchall()
            counted = connection.execute(
                "select entity_id, activity_count, error_count from unified_registry order by entity_id"
            ).fetchall()
        return json.dumps([rows, counted], default=str)

    assert both() == both()
