"""The SQL functions that take calls: exact when repeated, nothing lost with a bad row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from asking import rows, value
from sql_rows import ingest, sql_row


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database_url, autocommit=True) as opened:
        yield opened


def test_a_bad_element_is_refused_alone(connection: psycopg.Connection[Any]) -> None:
    answer = ingest(
        connection,
        sql_row("1"),
        sql_row("2", protocol="smtp"),
        sql_row("3", target_id=None),
        "no row at all",
        sql_row("4", duration_ms="soon"),
        sql_row("5", duration_ms=-1),
        sql_row("6", tokens_used=2**63),
        sql_row("7", duration_ms=1.5, estimated_cost="0.000125", capabilities_required=["a"], extra="kept"),
    )
    assert (answer["stored"], answer["duplicate"]) == (2, 0)
    assert [refusal["index"] for refusal in answer["rejected"]] == [1, 2, 3, 4, 5, 6]
    assert "communication_telemetry_protocol_known" in answer["rejected"][0]["reason"]
    assert 'null value in column "target_id"' in answer["rejected"][1]["reason"]
    assert rows(
        connection,
        "select id::text, duration_ms, estimated_cost::text, capabilities_required, metadata, counted "
        "from communication_telemetry order by span_id",
    ) == [
        ("8448eb21-1c80-319c-1111-111111111111", None, None, None, {}, True),
        ("8448eb21-1c80-319c-7777-777777777777", 1.5, "0.000125", ["a"], {"extra": "kept"}, True),
    ]


def test_delivered_again_is_a_duplicate(connection: psycopg.Connection[Any]) -> None:
    batch = [sql_row("1"), sql_row("2"), sql_row("2")]
    batch[2] = batch[1]
    assert ingest(connection, *batch) == {"stored": 2, "duplicate": 1, "rejected": []}
    assert ingest(connection, *batch, sql_row("3")) == {"stored": 1, "duplicate": 3, "rejected": []}
    assert value(connection, "select count(*) from communication_telemetry") == 3


@pytest.mark.parametrize(("setting", "limit"), [("ingest_max_rows", 1), ("ingest_max_bytes", 100)])
def test_oversized_batch_is_refused_whole(connection: psycopg.Connection[Any], setting: str, limit: int) -> None:
    connection.execute("update telemetry_settings set value = %s where name = %s", [limit, setting])
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="too large"):
        ingest(connection, sql_row("1"), sql_row("2"))
    assert value(connection, "select count(*) from communication_telemetry") == 0


@pytest.mark.parametrize("batch", [{"a": 1}, "text", None])
def test_what_is_no_array_is_refused(connection: psycopg.Connection[Any], batch: object) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="p_batch must be a JSON array"):
        value(connection, "select ingest_communication_telemetry(%s)", Jsonb(batch))


def test_calls_recorded_in_sql(connection: psycopg.Connection[Any]) -> None:
    """The three recording functions write a full row and count for both ends."""
    for entity, kind in (("sales", "team"), ("support", "team"), ("crm", "mcp_server")):
        value(connection, "select register_entity(%s, %s, 'x', 'hand')", entity, kind)
    made = value(
        connection,
        "select record_telemetry('n8n', 'wf_1', 'workflow', 'mail', 'external', 'workflow_step', 'timeout', 12.5, %s)",
        Jsonb({"k": 1}),
    )
    value(connection, "select record_a2a_telemetry('sales', 'support', 'Help', 'success', 7, 'order-1')")
    value(connection, "select record_mcp_telemetry('sales', 'crm', 'find', 'error', 9, 42, 'order-1')")
    assert value(connection, "select id from communication_telemetry where protocol = 'n8n'") == made
    assert rows(
        connection,
        "select protocol, source_id, source_type, target_id, target_type, operation, status, duration_ms, tool_name, "
        "task_description, message_type, tokens_used, correlation_id, metadata, observed_by, counted "
        "from communication_telemetry order by protocol",
    ) == [
        (
            *("a2a", "sales", "team", "support", "team", "send_task", "success", 7.0),
            *(None, "Help", "task_request", None, "order-1", {}, "manual", True),
        ),
        (
            *("mcp", "sales", "team", "crm", "mcp", "tool_call", "error", 9.0),
            *("find", None, None, 42, "order-1", {}, "manual", True),
        ),
        (
            *("n8n", "wf_1", "workflow", "mail", "external", "workflow_step", "timeout", 12.5),
            *(None, None, None, None, None, {"k": 1}, "manual", True),
        ),
    ]
    assert rows(
        connection, "select entity_id, activity_count, error_count from unified_registry order by entity_id"
    ) == [("crm", 1, 1), ("sales", 2, 1), ("support", 1, 0)]


def test_setting_that_was_deleted_is_named(connection: psycopg.Connection[Any]) -> None:
    connection.execute("delete from telemetry_settings where name = 'retention_days'")
    with pytest.raises(psycopg.errors.RaiseException, match="telemetry_settings has no row 'retention_days'"):
        value(connection, "select maintain_telemetry()")
