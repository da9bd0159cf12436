"""Which executions of an n8n become rows, and what they are below."""

from __future__ import annotations

import pytest

from command import run
from n8n_api_server import Instance
from n8n_syncing import counts, execution, family, rows, sync


@pytest.mark.parametrize("source", ["otlp", "events", None])
def test_executions_have_one_source(
    n8n: Instance, url: str, database_url: str, source: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is None:
        monkeypatch.delenv("ELF_N8N_EXECUTIONS")
    else:
        monkeypatch.setenv("ELF_N8N_EXECUTIONS", source)
    n8n.executions = [execution(1)]
    told = run(database_url, "n8n", "sync").stdout
    assert f"executions are not read: their source is {source or 'otlp'}" in told
    assert rows(database_url) == []
    assert n8n.pages() == 0


def test_test_runs_in_the_editor_are_left_out(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1, mode="manual"), execution(2), execution(3, "unknown")]
    assert counts(sync(database_url)) == {"read": 1, "left_out": 2, "stored": 2}
    assert counts(sync(database_url, "--manual", "--since", "1d")) == {
        "read": 2, "left_out": 1, "stored": 2, "duplicate": 2,
    }  # fmt: skip


def test_what_a_test_run_started_is_left_out_with_it(n8n: Instance, url: str, database_url: str) -> None:
    parent, child = family()
    n8n.executions = [{**parent, "mode": "manual"}, child]
    assert counts(sync(database_url)) == {"left_out": 2}
    assert counts(sync(database_url, "--manual", "--since", "1d")) == {"read": 2, "stored": 5}


def test_what_is_too_large_for_a_list_is_read_by_itself(n8n: Instance, url: str, database_url: str) -> None:
    whole = execution(1)
    n8n.executions = [whole]
    asked: list[str] = []

    def shrink(path: str) -> None:
        asked.append(path)
        large = "/executions?" in path
        n8n.executions[0] = {**whole, "data": {}, "dataTooLargeToDisplay": True} if large else whole

    n8n.before = shrink
    assert counts(sync(database_url)) == {"read": 1, "stored": 2}
    assert any("ignoreDataSizeLimit=true" in path for path in asked)


def test_a_sub_workflow_is_in_its_parents_trace_below_the_node_that_called_it(
    n8n: Instance, url: str, database_url: str
) -> None:
    """n8n lists the child first, and its data does not say the trace: the parent is asked for."""
    parent, child = family()
    n8n.executions = [{**parent, "status": "running"}, child]
    assert counts(sync(database_url)) == {"waiting": 2}
    n8n.executions[0] = parent
    assert counts(sync(database_url)) == {"read": 2, "stored": 5}
    told = {
        (row["operation"], row["metadata"]["execution_id"], row["workflow_node"]): row for row in rows(database_url)
    }
    top, sub = told["workflow_execution", "1", None], told["workflow_execution", "2", None]
    called = told["workflow_step", "1", "Shape order"]
    assert top["trace_id"] == sub["trace_id"] == "946e5c7d0817b6ef1063ef22cc049650"
    assert (sub["parent_span_id"], sub["source_id"], sub["source_type"]) == (called["span_id"], "wf_1", "workflow")
    assert (called["target_id"], called["counted"], sub["counted"]) == ("wf_2", False, True)
