"""Executions that n8n 2.41 exported, every row whole: through a sink, in whatever order, however often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import psycopg
from inline_snapshot import snapshot
from psycopg.rows import dict_row

from asking import asked
from n8n_spans import requests
from naive_views import assert_rollups_are_right
from sink_process import sink

_SETTLE = "select settle_communications_if_due(p_wait => true)"


def _rows(url: str) -> list[dict[str, Any]]:
    """Every row whole, without the columns that are empty or say when it arrived; times as ISO 8601."""
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute("set timezone to 'UTC'")
        found = connection.execute("select * from communication_telemetry order by timestamp, id").fetchall()
    for row in found:
        del row["created_at"]
        row["id"], row["timestamp"] = str(row["id"]), row["timestamp"].isoformat()
    return [{name: value for name, value in row.items() if value is not None} for row in found]


def _registry(url: str) -> list[tuple[Any, ...]]:
    return asked(
        url,
        "select entity_id, entity_type, entity_name, deployment_type, activity_count, error_count, last_activity "
        "from unified_registry order by 1",
    )


def _received(url: str, name: str, expected: Sequence[dict[str, Any]]) -> None:
    """Send a capture to a sink, its requests backwards, then all of it again; the rows are as expected both times."""
    with sink(url) as running:
        for request in reversed(requests(name)):
            assert httpx.post(running.traces, json=request).status_code == 200
        asked(url, _SETTLE)
        assert _rows(url) == expected
        registry = _registry(url)
        for request in requests(name):
            assert httpx.post(running.traces, json=request).status_code == 200
    asked(url, _SETTLE)
    assert asked(url, "select settle_communications('-infinity')") == [(0,)]
    assert (_rows(url), _registry(url)) == (expected, registry)
    with psycopg.connect(url) as connection:
        assert_rollups_are_right(connection)


def test_a_success(database_url: str) -> None:
    _received(
        database_url,
        "otlp_success",
        snapshot(
            [
                {
                    "id": "1063ef22-cc04-9650-d367-9b075830e702",
                    "timestamp": "2026-11-22T07:07:57.118000+00:00",
                    "protocol": "n8n",
                    "source_id": "n8n-h3",
                    "source_type": "service",
                    "target_id": "h3Success0000001",
                    "target_type": "workflow",
                    "operation": "workflow_execution",
                    "duration_ms": 165.808196,
                    "status": "success",
                    "workflow_id": "h3Success0000001",
                    "workflow_name": "H3 order intake",
                    "correlation_id": "946e5c7d0817b6ef1063ef22cc049650",
                    "parent_correlation_id": "34da64a1ba82b0e8",
                    "metadata": {
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "7",
                        "execution_mode": "webhook",
                    },
                    "trace_id": "946e5c7d0817b6ef1063ef22cc049650",
                    "span_id": "d3679b075830e702",
                    "parent_span_id": "34da64a1ba82b0e8",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
                {
                    "id": "1063ef22-cc04-9650-ba4f-b6895607694f",
                    "timestamp": "2026-11-22T07:07:57.173000+00:00",
                    "protocol": "n8n",
                    "source_id": "h3Success0000001",
                    "source_type": "workflow",
                    "target_id": "httpRequest",
                    "target_type": "external",
                    "operation": "workflow_step",
                    "duration_ms": 33.470618,
                    "status": "success",
                    "workflow_id": "h3Success0000001",
                    "workflow_name": "H3 order intake",
                    "workflow_node": "Call inventory",
                    "correlation_id": "946e5c7d0817b6ef1063ef22cc049650",
                    "parent_correlation_id": "d3679b075830e702",
                    "metadata": {
                        "node_id": "11111111-0000-4000-8000-000000000003",
                        "node_type": "n8n-nodes-base.httpRequest",
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "7",
                        "execution_mode": "webhook",
                    },
                    "trace_id": "946e5c7d0817b6ef1063ef22cc049650",
                    "span_id": "ba4fb6895607694f",
                    "parent_span_id": "d3679b075830e702",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
            ]
        ),
    )
    assert [row[:6] for row in _registry(database_url)] == [
        ("h3Success0000001", "n8n_workflow", "H3 order intake", "n8n", 2, 0)
    ]


def test_a_failure_and_its_error_workflow(database_url: str) -> None:
    _received(
        database_url,
        "otlp_failure_with_error_workflow",
        snapshot(
            [
                {
                    "id": "2e07cf92-9cdb-80ba-7070-f07f8a4a0ed6",
                    "timestamp": "2026-11-22T07:08:05.439000+00:00",
                    "protocol": "n8n",
                    "source_id": "n8n-h3",
                    "source_type": "service",
                    "target_id": "h3Failure0000001",
                    "target_type": "workflow",
                    "operation": "workflow_execution",
                    "duration_ms": 96.202707,
                    "status": "error",
                    "workflow_id": "h3Failure0000001",
                    "workflow_name": "H3 billing (fails)",
                    "error_message": "The service was not able to process your request",
                    "error_code": "NodeApiError",
                    "correlation_id": "51cf99586d990f382e07cf929cdb80ba",
                    "parent_correlation_id": "1f482ca4d75ee094",
                    "metadata": {
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "9",
                        "execution_mode": "webhook",
                    },
                    "trace_id": "51cf99586d990f382e07cf929cdb80ba",
                    "span_id": "7070f07f8a4a0ed6",
                    "parent_span_id": "1f482ca4d75ee094",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
                {
                    "id": "2e07cf92-9cdb-80ba-efde-875db77fb196",
                    "timestamp": "2026-11-22T07:08:05.450000+00:00",
                    "protocol": "n8n",
                    "source_id": "h3Failure0000001",
                    "source_type": "workflow",
                    "target_id": "httpRequest",
                    "target_type": "external",
                    "operation": "workflow_step",
                    "duration_ms": 74.368052,
                    "status": "error",
                    "workflow_id": "h3Failure0000001",
                    "workflow_name": "H3 billing (fails)",
                    "workflow_node": "Charge card",
                    "error_message": "The service was not able to process your request",
                    "error_code": "NodeApiError",
                    "correlation_id": "51cf99586d990f382e07cf929cdb80ba",
                    "parent_correlation_id": "7070f07f8a4a0ed6",
                    "metadata": {
                        "node_id": "22222222-0000-4000-8000-000000000002",
                        "node_type": "n8n-nodes-base.httpRequest",
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "9",
                        "execution_mode": "webhook",
                    },
                    "trace_id": "51cf99586d990f382e07cf929cdb80ba",
                    "span_id": "efde875db77fb196",
                    "parent_span_id": "7070f07f8a4a0ed6",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
                {
                    "id": "2e07cf92-9cdb-80ba-7ee3-f70039b04c91",
                    "timestamp": "2026-11-22T07:08:05.561000+00:00",
                    "protocol": "n8n",
                    "source_id": "h3Failure0000001",
                    "source_type": "workflow",
                    "target_id": "h3ErrHandler0001",
                    "target_type": "workflow",
                    "operation": "workflow_execution",
                    "duration_ms": 39.189797,
                    "status": "success",
                    "workflow_id": "h3ErrHandler0001",
                    "workflow_name": "H3 error handler",
                    "correlation_id": "51cf99586d990f382e07cf929cdb80ba",
                    "parent_correlation_id": "7070f07f8a4a0ed6",
                    "metadata": {
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "10",
                        "execution_mode": "error",
                        "parent_execution_id": "9",
                    },
                    "trace_id": "51cf99586d990f382e07cf929cdb80ba",
                    "span_id": "7ee3f70039b04c91",
                    "parent_span_id": "7070f07f8a4a0ed6",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
                {
                    "id": "2e07cf92-9cdb-80ba-64a8-24c1c2178700",
                    "timestamp": "2026-11-22T07:08:05.564000+00:00",
                    "protocol": "n8n",
                    "source_id": "h3ErrHandler0001",
                    "source_type": "workflow",
                    "target_id": "httpRequest",
                    "target_type": "external",
                    "operation": "workflow_step",
                    "duration_ms": 22.965056,
                    "status": "success",
                    "workflow_id": "h3ErrHandler0001",
                    "workflow_name": "H3 error handler",
                    "workflow_node": "Report",
                    "correlation_id": "51cf99586d990f382e07cf929cdb80ba",
                    "parent_correlation_id": "7ee3f70039b04c91",
                    "metadata": {
                        "node_id": "33333333-0000-4000-8000-000000000002",
                        "node_type": "n8n-nodes-base.httpRequest",
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "10",
                        "execution_mode": "error",
                    },
                    "trace_id": "51cf99586d990f382e07cf929cdb80ba",
                    "span_id": "64a824c1c2178700",
                    "parent_span_id": "7ee3f70039b04c91",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
            ]
        ),
    )
    assert [row[:6] for row in _registry(database_url)] == snapshot(
        [
            ("h3ErrHandler0001", "n8n_workflow", "H3 error handler", "n8n", 2, 0),
            ("h3Failure0000001", "n8n_workflow", "H3 billing (fails)", "n8n", 3, 2),
        ]
    )


def test_a_cut_off(database_url: str) -> None:
    """n8n's span says OK; whether it was a timeout or somebody's hand, its spans do not tell."""
    _received(
        database_url,
        "otlp_execution_timeout",
        snapshot(
            [
                {
                    "id": "961c0493-6343-c334-6c9c-b7a020849116",
                    "timestamp": "2026-11-22T07:08:40.708000+00:00",
                    "protocol": "n8n",
                    "source_id": "n8n-h3",
                    "source_type": "service",
                    "target_id": "h3Timeout0000001",
                    "target_type": "workflow",
                    "operation": "workflow_execution",
                    "duration_ms": 2011.369744,
                    "status": "cancelled",
                    "workflow_id": "h3Timeout0000001",
                    "workflow_name": "H3 slow (times out)",
                    "correlation_id": "377670a39f0df18d961c04936343c334",
                    "parent_correlation_id": "fa7174d258068a3b",
                    "metadata": {
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "13",
                        "execution_mode": "webhook",
                    },
                    "trace_id": "377670a39f0df18d961c04936343c334",
                    "span_id": "6c9cb7a020849116",
                    "parent_span_id": "fa7174d258068a3b",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
                {
                    "id": "961c0493-6343-c334-5be6-36b749186cbb",
                    "timestamp": "2026-11-22T07:08:40.715000+00:00",
                    "protocol": "n8n",
                    "source_id": "h3Timeout0000001",
                    "source_type": "workflow",
                    "target_id": "httpRequest",
                    "target_type": "external",
                    "operation": "workflow_step",
                    "duration_ms": 2004.265834,
                    "status": "cancelled",
                    "workflow_id": "h3Timeout0000001",
                    "workflow_name": "H3 slow (times out)",
                    "workflow_node": "Slow call",
                    "error_message": "the execution ended while this node ran",
                    "correlation_id": "377670a39f0df18d961c04936343c334",
                    "parent_correlation_id": "6c9cb7a020849116",
                    "metadata": {
                        "node_id": "66666666-0000-4000-8000-000000000002",
                        "node_type": "n8n-nodes-base.httpRequest",
                        "project_id": "q31Q1dBf2fgaUe3s",
                        "instance_id": "d726a3075e19d0509d09a77e771c88ae1a12e6007ba6d5f6467bdb44ba74fcbb",
                        "execution_id": "13",
                        "execution_mode": "webhook",
                        "termination_reason": "workflow_cancelled",
                    },
                    "trace_id": "377670a39f0df18d961c04936343c334",
                    "span_id": "5be636b749186cbb",
                    "parent_span_id": "6c9cb7a020849116",
                    "observed_by": "internal",
                    "counted": True,
                    "service_name": "n8n-h3",
                },
            ]
        ),
    )
