"""Polling an n8n: every execution once, whatever is slow, broken, killed or goes on; its workflows as they are."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

import n8n_spans
from command import COMMAND, answer, eventually, run, running
from elf_automations.model import settle
from elf_automations.storage.writer import PostgresWriter
from n8n_api_server import KEY, Instance, serving
from n8n_captures import document
from sink_process import sink

FIXTURES = Path(__file__).parents[1] / "fixtures" / "n8n"
BEGUN: dict[str, datetime] = {}


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let executions have begun shortly before their test, however long the tests before it took."""
    monkeypatch.setitem(BEGUN, "first", datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=8))


def workflow(workflow_id: str, **more: Any) -> dict[str, Any]:
    found = json.loads((FIXTURES / "api_workflows_list.json").read_text())["data"][0]
    return {**found, "id": workflow_id, "name": workflow_id.upper(), **more}


def execution(number: int, status: str = "success", **more: Any) -> dict[str, Any]:
    """An execution as the captured one: it has a webhook, an HTTP call and two nodes that stay inside."""
    told = document("success")
    start = BEGUN["first"] + timedelta(seconds=number)
    runs = told["data"]["resultData"]["runData"]
    for index, each in enumerate(runs.values()):
        each[0]["startTime"] = int(start.timestamp() * 1000) + 10 * index
    ended = status not in {"running", "waiting", "new"}
    if not ended:
        told["data"]["resultData"]["runData"] = {}
    stopped = start + timedelta(milliseconds=58)
    return {
        **told, "id": str(number), "status": status, "finished": status == "success",
        "startedAt": _iso(start), "stoppedAt": _iso(stopped) if ended else None, **more,
    }  # fmt: skip


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
def n8n() -> Instance:
    return Instance(workflows=[workflow("wf_1")])


@pytest.fixture
def url(n8n: Instance, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(n8n) as served:
        monkeypatch.setenv("ELF_N8N_URL", served)
        monkeypatch.setenv("ELF_N8N_API_KEY", KEY)
        monkeypatch.setenv("ELF_N8N_EXECUTIONS", "api")
        yield served


def sync(database_url: str, *more: str, code: int = 0) -> dict[str, Any]:
    return answer(database_url, "n8n", "sync", "--limit-rate", "1000", *more, code=code)


def counts(told: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in told["executions"].items() if count}


def rows(database_url: str, columns: str = "*") -> list[dict[str, Any]]:
    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        query = f"select {columns} from communication_telemetry order by timestamp, operation"
        return connection.execute(query.encode()).fetchall()


def executions(database_url: str) -> Counter[str]:
    told = rows(database_url, "metadata ->> 'execution_id' as id, operation")
    return Counter(row["id"] for row in told if row["operation"] == "workflow_execution")


def test_every_execution_is_one_row_and_again_none(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(1, 131)]
    assert counts(sync(database_url)) == {"read": 130, "stored": 260}
    assert executions(database_url) == Counter(str(number) for number in range(1, 131))
    assert n8n.pages() == 3
    n8n.executions += [execution(131), execution(132, "error")]
    asked = n8n.pages()
    assert counts(sync(database_url))["read"] in range(2, 53)  # the page that has them
    assert n8n.pages() == asked + 1
    assert max(executions(database_url).values()) == 1
    assert len(executions(database_url)) == 132
    assert counts(sync(database_url)) == {}
    again = counts(sync(database_url, "--since", "1h"))
    assert again == {"read": 132, "duplicate": 264}


def test_what_goes_on_is_looked_at_again(n8n: Instance, url: str, database_url: str) -> None:
    """They have ids below the newest that has ended: going on from that one would miss them for good."""
    n8n.executions = [
        execution(1, "running"), execution(2, "waiting"), execution(3, "new"), execution(4), execution(5, "running"),
    ]  # fmt: skip
    assert counts(sync(database_url)) == {"read": 1, "waiting": 4, "stored": 2}
    n8n.executions[0] = execution(1)
    n8n.executions[1] = execution(2, "running")
    n8n.executions[2] = execution(3, "canceled")
    del n8n.executions[4]
    assert counts(sync(database_url)) == {"read": 2, "waiting": 1, "gone": 1, "stored": 4}
    n8n.executions[1] = execution(2, "error")
    n8n.executions.append(execution(6))
    assert counts(sync(database_url))["stored"] == 4
    assert executions(database_url) == Counter("12346")


def test_an_execution_that_ends_while_its_page_is_read_is_not_lost(n8n: Instance, url: str, database_url: str) -> None:
    """Of each kind of change between two questions: it is found by one of them, now or next time."""
    n8n.executions = [execution(1, "running"), execution(2, "waiting"), execution(3, "new"), execution(4)]
    changes = iter([("3", "running"), ("1", "success"), ("2", "running"), ("3", "success"), ("2", "success")])

    def change(path: str) -> None:
        if "/executions?" in path and "limit=1&" not in path and (told := next(changes, None)):
            n8n.executions[int(told[0]) - 1] = execution(int(told[0]), told[1])

    n8n.before = change
    sync(database_url)
    sync(database_url)
    assert executions(database_url) == Counter("1234")


def test_an_old_n8n_that_cannot_list_what_runs_is_read_again_an_hour_back(
    n8n: Instance, url: str, database_url: str
) -> None:
    n8n.old = True
    n8n.executions = [execution(1, "running"), execution(2)]
    sync(database_url)
    n8n.executions[0] = execution(1)
    sync(database_url)
    assert executions(database_url) == Counter("12")


def test_an_n8n_with_a_fresh_database_is_read_on_by_time(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(101, 105)]
    sync(database_url)
    n8n.executions = [execution(number + 110, id=str(number)) for number in range(1, 4)]
    told = run(database_url, "n8n", "sync").stderr
    assert told.count("\n") == 1
    assert "execution 3 began after execution 104, which was read last: " in told
    assert len(executions(database_url)) == 4 + 3
    n8n.executions += [execution(120, id="4")]
    again = run(database_url, "n8n", "sync")
    assert again.stderr == ""
    assert executions(database_url)["4"] == 1


def test_a_walk_that_is_killed_goes_on_where_it_was(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(1, 301)]
    n8n.delay_s = 0.1
    arguments = [COMMAND, "n8n", "sync", "--limit-rate", "1000", "--database-url", database_url]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    eventually(lambda: n8n.pages() >= 4)
    process.kill()
    process.wait()
    seen = n8n.pages()
    n8n.delay_s = 0
    n8n.executions += [execution(301), execution(302)]
    sync(database_url)
    assert executions(database_url) == Counter(str(number) for number in range(1, 303))
    # Six pages and one for what came meanwhile, and of those that were killed at most two anew.
    assert n8n.pages() <= seen + 1 + (6 - seen + 2)


def test_two_at_once_store_nothing_twice_and_lose_nothing(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(1, 301)]
    n8n.delay_s = 0.05
    arguments = [COMMAND, "n8n", "sync", "--limit-rate", "1000", "--database-url", database_url]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL) for _ in range(2)]
    told = sorted((process.communicate()[1], process.returncode) for process in both)
    assert told[0] == ("", 0)
    assert told[1] == ("", 0) or (told[1][1] == 2 and "another process reads n8n:127.0.0.1" in told[1][0])
    sync(database_url)
    assert executions(database_url) == Counter(str(number) for number in range(1, 301))


def test_a_busy_n8n_is_asked_again_when_it_says(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1)]
    over = "Wed, 21 Oct 2015 07:28:00 GMT"
    n8n.trouble = [(429, {"Retry-After": "1"}), (503, {"Retry-After": over}), (502, {"Retry-After": "0"})]
    began = time.monotonic()
    assert counts(sync(database_url)) == {"read": 1, "stored": 2}
    assert time.monotonic() - began >= 1


def test_it_asks_no_faster_than_it_may(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1)]
    began = time.monotonic()
    run(database_url, "n8n", "sync", "--limit-rate", "5")
    assert time.monotonic() - began >= (len(n8n.asked) - 1) / 5


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"ELF_N8N_API_KEY": "wrong"}, "refuses the API key (401 unauthorized)"),
        ({"ELF_N8N_API_KEY": ""}, "give ELF_N8N_API_KEY"),
        ({"ELF_N8N_API_KEY": "a b"}, "ELF_N8N_API_KEY is not an API key"),
        ({"ELF_N8N_URL": ""}, "give --url or ELF_N8N_URL"),
        ({"ELF_N8N_URL": "n8n.example.com"}, "write https://n8n.example.com"),
        ({"ELF_N8N_URL": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_what_is_wrong_is_one_line(url: str, database_url: str, environ: dict[str, str], line: str) -> None:
    told = run(database_url, "n8n", "sync", code=2, **environ).stderr
    assert line in told
    assert told.count("\n") == 1
    assert KEY not in told


def test_a_page_of_something_else_is_not_an_api(n8n: Instance, url: str, database_url: str) -> None:
    n8n.html = "<!doctype html><title>Welcome</title>"
    assert "there is no n8n API at" in run(database_url, "n8n", "sync", code=2).stderr
    assert (
        "TLS with https://127.0.0.1"
        in run(database_url, "n8n", "sync", code=2, ELF_N8N_URL=url.replace("http:", "https:")).stderr
    )


@pytest.mark.parametrize("since", ["yesterday", "7 days", "-1d"])
def test_a_time_that_is_none_is_one_line(url: str, database_url: str, since: str) -> None:
    assert "is no time" in run(database_url, "n8n", "sync", "--since", since, code=2).stderr


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
    parent, child = _family()
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
    parent, child = _family()
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


def _family() -> tuple[dict[str, Any], dict[str, Any]]:
    parent, child = execution(1, workflowId="wf_1"), execution(2, workflowId="wf_2", mode="integrated")
    headers = {"traceparent": "00-946e5c7d0817b6ef1063ef22cc049650-34da64a1ba82b0e8-01", "authorization": "Bearer fake"}
    runs = parent["data"]["resultData"]["runData"]
    runs["Webhook"][0]["data"]["main"][0][0]["json"]["headers"] = headers
    runs["Shape order"][0]["metadata"] = {"subExecution": {"executionId": "2", "workflowId": "wf_2"}}
    parent["workflowData"]["nodes"][1]["type"] = "n8n-nodes-base.executeWorkflow"
    child["data"]["parentExecution"] = {"executionId": "1", "workflowId": "wf_1"}
    return parent, child


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


def test_a_backend_gets_the_spans_of_the_rows(
    n8n: Instance, url: str, database_url: str, pooled_database_url: str
) -> None:
    """Here the backend is a sink before another database, which shows what it was sent."""
    n8n.executions = [*_family(), execution(3, "error", retryOf="1", mode="retry")]
    with sink(pooled_database_url, "--grpc", "off") as backend:
        told = sync(database_url, "--otlp-endpoint", backend.url)
    assert told["spans_sent"] == 15
    except_arrival = (
        "id, timestamp, source_id, target_id, status, duration_ms, trace_id, parent_span_id, metadata, counted"
    )
    assert rows(pooled_database_url, except_arrival) == rows(database_url, except_arrival) != []


def test_a_backend_that_is_away_gets_the_spans_next_time(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1)]
    away = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    told = run(database_url, "n8n", "sync", code=2, **away).stderr
    assert "the OTLP backend at http://127.0.0.1:9/v1/traces does not take spans" in told
    assert told.count("\n") == 1
    with sink(database_url, "--grpc", "off") as backend:
        again = sync(database_url, "--otlp-endpoint", backend.traces)
    assert (counts(again), again["spans_sent"]) == ({"read": 1, "duplicate": 2}, 5)


@pytest.mark.parametrize(
    ("variable", "given", "sent"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/", "/v1/traces"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/otlp", "/otlp/v1/traces"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/", "/"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/otlp", "/otlp"),
    ],
)
def test_a_backend_is_where_the_opentelemetry_variables_say(
    n8n: Instance, url: str, database_url: str, variable: str, given: str, sent: str
) -> None:
    n8n.executions = [execution(1)]
    run(database_url, "n8n", "sync", "--limit-rate", "1000", code=2, **{variable: f"{url}{given}"})
    assert n8n.posted == [sent]


def test_it_goes_on_for_good_waits_out_a_restart_and_ends_when_asked(
    n8n: Instance, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "api")
    with serving(n8n) as served:
        port = int(served.rpartition(":")[2])
        environ = {"ELF_N8N_URL": served, "ELF_N8N_API_KEY": KEY}
        command = ("n8n", "sync", "--every", "1", "--limit-rate", "1000")
        n8n.executions = [execution(1)]
        with running(database_url, *command, **environ) as (process, _, errors):
            eventually(lambda: executions(database_url) == Counter("1"))
            n8n.executions.append(execution(2))
            eventually(lambda: executions(database_url) == Counter("12"))
            n8n.trouble = [(500, {"Retry-After": "0"})] * 6
            eventually(lambda: any("is busy (HTTP 500)" in line for line in errors))
            n8n.executions.append(execution(3))
            eventually(lambda: executions(database_url) == Counter("123"))
            _start_up(n8n)
            n8n.executions.append(execution(4))
            eventually(lambda: executions(database_url) == Counter("1234"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert port


def _start_up(n8n: Instance) -> None:
    """Answer as an n8n does that migrates its database and then has not opened its API yet."""
    for status, page in [(200, "n8n is starting up. Please wait"), (404, "<pre>Cannot GET /api/v1/workflows</pre>")]:
        asked = len(n8n.asked)
        n8n.html, n8n.html_status = page, status
        eventually(lambda before=asked: len(n8n.asked) > before + 1)
    n8n.html = None
