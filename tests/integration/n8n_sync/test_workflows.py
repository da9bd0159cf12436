"""The workflows of an n8n in the registry, as its API lists them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import dict_row

import n8n_spans
from command import run
from elf_automations.model import settle
from elf_automations.storage.writer import PostgresWriter
from n8n_api_server import Instance
from n8n_syncing import rows, sync, workflow


def test_workflows_are_registered_changed_and_set_deleted(n8n: Instance, url: str, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("select register_entity('elsewhere', 'n8n_workflow', 'Of another n8n', 'n8n')")
    n8n.workflows = [
        workflow("on", tags=[{"id": "1", "name": "sales"}], settings={"executionTimeout": 90}),
        workflow("off", active=False), workflow("old", active=False, isArchived=True),
    ]  # fmt: skip
    assert sync(database_url)["workflows"] == {
        "registered": 3, "updated": 0, "unchanged": 0, "deleted": 0, "unregistered": 0,
    }  # fmt: skip
    assert _registered(database_url) == {
        "on": "active",
        "off": "inactive",
        "old": "archived",
        "elsewhere": "registered",
    }
    assert sync(database_url)["workflows"]["unchanged"] == 3
    n8n.workflows = [workflow("on", tags=[], active=False), workflow("new")]
    assert sync(database_url)["workflows"] == {
        "registered": 1, "updated": 1, "unchanged": 0, "deleted": 2, "unregistered": 0,
    }  # fmt: skip
    assert _registered(database_url) == {
        "on": "inactive", "off": "deleted", "old": "deleted", "new": "active", "elsewhere": "registered",
    }  # fmt: skip
    n8n.workflows += [workflow("off")]
    assert sync(database_url)["workflows"]["registered"] == 1
    assert _registered(database_url)["off"] == "active"


def test_copies_of_workflows_in_another_n8n_are_left_as_that_one_described_them(
    n8n: Instance, url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(database_url, "--instance", "here")
    n8n.workflows = [workflow("wf_1", name="Copy", active=False), workflow("wf_2")]
    told = run(database_url, "n8n", "sync", "--instance", "there").stderr
    assert told.count("\n") == 1
    assert "1 workflow is left as another n8n described it: wf_1, of here; " in told
    assert _registered(database_url) == {"wf_1": "active", "wf_2": "active"}
    n8n.workflows = []
    sync(database_url, "--instance", "there")
    assert _registered(database_url) == {"wf_1": "active", "wf_2": "deleted"}
    sync(database_url, "--instance", "here")
    assert _registered(database_url)["wf_1"] == "deleted"
    n8n.workflows = [workflow("wf_1")]
    monkeypatch.setenv("ELF_N8N_INSTANCE", "there")
    sync(database_url)
    assert _registered(database_url)["wf_1"] == "active"


def _registered(database_url: str) -> dict[str, str]:
    with psycopg.connect(database_url) as connection:
        query = "select entity_id, current_state from unified_registry where entity_type = 'n8n_workflow'"
        return dict(connection.execute(query).fetchall())


def test_a_workflow_is_known_by_its_published_nodes_and_by_nothing_secret(
    n8n: Instance, url: str, database_url: str
) -> None:
    published = {"versionId": "v2", "nodes": workflow("x")["activeVersion"]["nodes"]}
    published["nodes"][1]["parameters"] = {
        "url": "https://user:canary@api.example.com/canary?key=canary",
        "auth": "canary",
    }
    shared = [{"role": "workflow:owner", "projectId": "p1", "project": {"name": "H Three <canary@example.com>"}}]
    n8n.workflows = [
        workflow("wf", nodes=[], activeVersion=published, tags=[{"id": "1", "name": "sales"}], shared=shared,
                 settings={"executionTimeout": 90}, pinData={"canary": 1}, staticData={"canary": 1}),
    ]  # fmt: skip
    sync(database_url)
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        found = connection.execute("select * from unified_registry where entity_id = 'wf'").fetchone()
    assert found
    assert "canary" not in str(found)
    assert (found["tags"], found["capabilities"]) == (["sales"], ["http_request", "webhook_trigger"])
    kept = ("execution_timeout", "node_targets", "version_id", "project_id")
    assert {name: found["metadata"][name] for name in kept} == {
        "execution_timeout": 90, "node_targets": {"Very slow call": "api.example.com"}, "version_id": "v2",
        "project_id": "p1",
    }  # fmt: skip


def test_what_a_workflow_no_longer_has_is_forgotten(n8n: Instance, url: str, database_url: str) -> None:
    """A limit that is gone would make a timeout of what somebody stopped."""
    shared = [{"role": "workflow:owner", "projectId": "p1"}]
    n8n.workflows = [workflow("wf", settings={"executionTimeout": 5}, description="Slow", shared=shared)]
    sync(database_url)
    n8n.workflows = [workflow("wf", settings={}, description=None, shared=[])]
    sync(database_url)
    writer = PostgresWriter(database_url)
    began = int(time.time()) * 1_000_000_000
    settled = settle([n8n_spans.run(1, "wf", "canceled", start_ns=began, end_ns=began + 10_000_000_000)])
    writer.write(settled.rows, settled.entities, retry=False)
    writer.settle(datetime.now(UTC) - timedelta(hours=1))
    writer.close()
    assert [row["status"] for row in rows(database_url)] == ["cancelled"]
    with psycopg.connect(database_url) as connection:
        kept = "select metadata ->> 'execution_timeout', metadata ->> 'description', metadata ->> 'project_id'"
        query = f"{kept} from unified_registry where entity_id = 'wf'"
        assert connection.execute(query.encode()).fetchone() == ("0", "", "")
