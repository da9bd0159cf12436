"""n8n workflows in the registry: registered by hand, kept up to date by the events of a real n8n."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry import trace
from psycopg.rows import dict_row

from elf_automations.pipeline import configure
from n8n.workflow_registration import N8NWebhookHandler, N8NWorkflowRegistry
from telemetry import fresh_pipeline
from tracing import Spans

FIXTURES = Path(__file__).parents[1] / "fixtures" / "n8n"
GUIDE, FAILING = "UdJNdcvN0qWi08nT", "h3Failure0000001"


@pytest.fixture
def registry(database_url: str) -> Iterator[N8NWorkflowRegistry]:
    opened = N8NWorkflowRegistry(database_url)
    yield opened
    opened.close()


@pytest.fixture
def handler(registry: N8NWorkflowRegistry) -> N8NWebhookHandler:
    return N8NWebhookHandler(registry)


@pytest.fixture
def spans() -> Iterator[Spans]:
    """The global provider, for one test: a real SDK provider that keeps what it exports."""
    with fresh_pipeline():
        kept = Spans()
        trace.set_tracer_provider(kept.provider)
        yield kept


def captured(name: str | None = None) -> list[dict[str, Any]]:
    events = json.loads((FIXTURES / "events.json").read_text())["events"]
    return [event for event in events if name in {None, event["event"]}]


def event(name: str, workflow: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"event": name, "workflow": {"id": "wf_1", **(workflow or {})}, **more}


def state(registry: N8NWorkflowRegistry, workflow_id: str = "wf_1") -> tuple[str, str, int, int]:
    found = registry.get_workflow_info(workflow_id)
    assert found is not None
    return found["current_state"], found["health_status"], found["activity_count"], found["error_count"]


def test_what_is_known_of_a_workflow_is_on_record(registry: N8NWorkflowRegistry) -> None:
    workflow = json.loads((FIXTURES / "api_workflow.json").read_text())["workflow"]
    answer = registry.register_workflow(
        workflow["id"], workflow["name"], "Takes orders", tags=["orders", {"id": "1", "name": "intake"}],
        nodes=workflow["nodes"], webhook_url="https://n8n.example/webhook/h3-ok", schedule="0 * * * *",
        created_by="sync", metadata={"owner": "sales"},
    )  # fmt: skip
    assert answer == {"status": "success", "action": "registered", "workflow_id": "h3Success0000001"}
    found = registry.get_workflow_info("h3Success0000001")
    assert found is not None
    expected = {
        "entity_type": "n8n_workflow", "entity_name": "H3 order intake", "registered_by": "sync",
        "registration_source": "n8n", "deployment_type": "n8n", "endpoint_url": "https://n8n.example/webhook/h3-ok",
        "capabilities": ["custom_code", "http_request", "set", "webhook_trigger"], "tags": ["orders", "intake"],
        "current_state": "registered",
        "metadata": {
            "owner": "sales", "description": "Takes orders", "schedule": "0 * * * *", "node_count": 4,
            "node_targets": {"Call inventory": "127.0.0.1:14400"},
            "nodes": [
                {"name": "Webhook", "type": "n8n-nodes-base.webhook"},
                {"name": "Shape order", "type": "n8n-nodes-base.set"},
                {"name": "Call inventory", "type": "n8n-nodes-base.httpRequest"},
                {"name": "Total", "type": "n8n-nodes-base.code"},
            ],
        },
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_registering_again_updates(registry: N8NWorkflowRegistry) -> None:
    registry.register_workflow("wf_1", "One", tags=["a"])
    assert registry.register_workflow("wf_1", "Two")["action"] == "updated"
    found = registry.get_workflow_info("wf_1")
    assert found is not None
    assert (found["entity_name"], found["tags"]) == ("Two", ["a"])


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"workflow_id": "wf_1", "workflow_name": ""}, "wf_1"),
        ({"workflow_id": "wf_1", "workflow_name": "One", "nodes": ["http", None, {}], "tags": [3, None, {}]}, "One"),
    ],
)
def test_a_careless_registration_keeps_what_it_can(
    registry: N8NWorkflowRegistry, told: dict[str, Any], kept: str
) -> None:
    assert registry.register_workflow(**told)["status"] == "success"
    found = registry.get_workflow_info("wf_1")
    assert found is not None
    assert (found["entity_name"], found["capabilities"], found["tags"]) == (kept, [], [])


@pytest.mark.parametrize("workflow_id", ["", " ", "x" * 256, "a\x00b", 7, None])
def test_an_unusable_id_is_an_answer(registry: N8NWorkflowRegistry, workflow_id: Any) -> None:
    answer = registry.register_workflow(workflow_id, "One")
    assert answer["status"] == "error"
    assert "entity_id must be a text" in answer["error"]
    assert registry.update_workflow_state(workflow_id, "active") is False
    assert registry.record_workflow_activity(workflow_id) is False


def test_lists_are_by_tag_and_state(registry: N8NWorkflowRegistry) -> None:
    for workflow_id, tags in (("a", ["x", "y"]), ("b", ["x"]), ("c", ["y"])):
        registry.register_workflow(workflow_id, workflow_id.upper(), tags=tags)
    registry.update_workflow_state("a", "active")

    def ids(**filters: Any) -> list[str]:
        return [found["entity_id"] for found in registry.list_workflows(**filters)]

    assert ids() == ["a", "c", "b"]
    assert ids(tags=["x"]) == ["a", "b"]
    assert ids(state="active") == ["a"]
    assert ids(limit=2) == ["a", "c"]


def test_activity_is_counted(registry: N8NWorkflowRegistry) -> None:
    registry.register_workflow("wf_1", "One")
    assert registry.record_workflow_activity("wf_1")
    assert registry.record_workflow_activity("wf_1", is_error=True)
    assert state(registry)[2:] == (2, 1)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"workflow_id": "wf_1", "state": "running"}, "state 'running' is unknown"),
        ({"workflow_id": "wf_1", "state": "active", "health_status": "fine"}, "health_status 'fine' is unknown"),
        ({"workflow_id": "nobody", "state": "active"}, "nobody is not registered"),
    ],
)
def test_a_state_that_cannot_be_set_is_one_line_in_the_log(
    registry: N8NWorkflowRegistry, caplog: pytest.LogCaptureFixture, told: dict[str, str], line: str
) -> None:
    registry.register_workflow("wf_1", "One")
    assert registry.update_workflow_state(**told) is False
    assert [record.getMessage() for record in caplog.records if line in record.getMessage()]
    assert len(caplog.records) == 1
    assert state(registry)[0] == "registered"


def test_without_a_database_nothing_raises_and_the_settings_are_named(caplog: pytest.LogCaptureFixture) -> None:
    registry = N8NWorkflowRegistry()
    answer = registry.register_workflow("wf_1", "One")
    assert answer["status"] == "error"
    assert "ELF_DATABASE_URL" in answer["error"]
    assert "\n" not in answer["error"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert registry.update_workflow_state("wf_1", "active") is False
    assert registry.record_workflow_activity("wf_1") is False


@pytest.mark.anyio
async def test_the_events_of_a_real_n8n_leave_its_workflows_as_they_are(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, spans: Spans
) -> None:
    answers = [await handler.handle_workflow_event(told) for told in captured()]
    assert [(answer["event"], answer["action"]) for answer in answers] == [
        ("workflow.created", "registered"),
        ("workflow.updated", "updated"),
        ("workflow.executed", "activity_recorded"),
        ("workflow.executed", "activity_recorded"),
        ("workflow.executed", "activity_recorded"),
        ("workflow.updated", "updated"),
        ("workflow.updated", "updated"),
        ("workflow.updated", "updated"),
        ("workflow.deleted", "state_updated"),
    ]
    assert state(registry, GUIDE) == ("deleted", "unknown", 1, 0)
    assert state(registry, FAILING) == ("active", "unknown", 1, 1)
    found = registry.get_workflow_info(GUIDE)
    assert found is not None
    assert (found["entity_name"], found["capabilities"]) == (
        "H3 guide v2", ["custom_code", "http_request", "set", "webhook_trigger"],
    )  # fmt: skip
    assert not spans.finished


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (event("workflow.created", {"name": "W"}), "active"),
        (event("workflow.created", {"active": False}), "inactive"),
        (event("workflow.created", {"active": True, "isArchived": True}), "archived"),
        (event("workflow.updated", {"active": True}), "active"),
        (event("workflow.activated", {"active": False}), "active"),
        (event("workflow.deactivated", {"active": True}), "inactive"),
        (event("workflow.archived"), "archived"),
        (event("workflow.unarchived"), "inactive"),
        (event("workflow.executed", {"active": False}, execution={"status": "success"}), "inactive"),
        (event("workflow.executed", execution={"status": "success"}), "active"),
    ],
)
async def test_an_event_about_an_unknown_workflow_registers_it_in_its_state(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, told: dict[str, Any], expected: str
) -> None:
    answer = await handler.handle_workflow_event(told)
    assert answer["status"] == "success"
    assert state(registry)[0] == expected


@pytest.mark.anyio
async def test_an_event_with_only_an_id_forgets_nothing(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry
) -> None:
    registry.register_workflow("wf_1", "Onboarding", tags=["customer"], nodes=[{"type": "http", "name": "Call"}])
    for name in ("deactivated", "archived", "unarchived", "activated", "executed", "deleted"):
        await handler.handle_workflow_event(event(f"workflow.{name}", execution={"status": "success"}))
    found = registry.get_workflow_info("wf_1")
    assert found is not None
    assert (found["entity_name"], found["tags"], found["capabilities"], found["current_state"]) == (
        "Onboarding", ["customer"], ["http_request"], "deleted",
    )  # fmt: skip


@pytest.mark.anyio
async def test_an_update_that_does_not_say_active_keeps_the_state(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry
) -> None:
    await handler.handle_workflow_event(event("workflow.created", {"active": False}))
    await handler.handle_workflow_event(event("workflow.updated", {"name": "New"}))
    assert state(registry)[0] == "inactive"


@pytest.mark.anyio
async def test_deleting_the_unknown_registers_nothing(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry
) -> None:
    answer = await handler.handle_workflow_event(event("workflow.deleted"))
    assert (answer["status"], answer["action"]) == ("success", "ignored")
    assert registry.get_workflow_info("wf_1") is None


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("success", ("active", "unknown", 1, 0)),
        ("error", ("active", "unknown", 1, 1)),
        ("crashed", ("active", "unknown", 1, 1)),
        ("canceled", ("active", "unknown", 1, 0)),
        ("cancelled", ("active", "unknown", 1, 0)),
        ("waiting", ("active", "unknown", 0, 0)),
    ],
)
async def test_one_execution_is_activity_and_says_nothing_of_health(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, status: str, expected: tuple[str, str, int, int]
) -> None:
    await handler.handle_workflow_event(event("workflow.created", {"active": True}))
    await handler.handle_workflow_event(event("workflow.executed", execution={"id": "1", "status": status}))
    assert state(registry) == expected


@pytest.mark.anyio
async def test_executions_become_rows_when_events_are_their_source(
    handler: N8NWebhookHandler,
    registry: N8NWorkflowRegistry,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "events")
    with fresh_pipeline():
        for told in captured("workflow.executed"):
            await handler.handle_workflow_event(told)
        assert configure(instrument=False).flush(20)
        with psycopg.connect(database_url, row_factory=dict_row) as connection:
            rows = connection.execute(
                "SELECT source_id, target_id, operation, status, duration_ms, workflow_name, workflow_node, counted "
                "FROM communication_telemetry ORDER BY timestamp"
            ).fetchall()
    assert [tuple(row.values()) for row in rows] == [
        ("n8n", GUIDE, "workflow_execution", "success", 110.0, "H3 guide", None, True),
        (GUIDE, "httpRequest", "workflow_step", "success", 11.0, "H3 guide", "Call inventory", True),
        ("n8n", FAILING, "workflow_execution", "error", 85.0, "H3 billing (fails)", None, True),
        (FAILING, "httpRequest", "workflow_step", "error", 71.0, "H3 billing (fails)", "Charge card", True),
        (FAILING, "h3ErrHandler0001", "workflow_execution", "success", 39.0, "H3 error handler", None, True),
        ("h3ErrHandler0001", "httpRequest", "workflow_step", "success", 25.0, "H3 error handler", "Report", True),
    ]
    # The execution, its step and the error workflow it started, each once: the event adds nothing to what rows bring.
    assert state(registry, FAILING) == ("active", "unknown", 3, 2)


@pytest.mark.anyio
async def test_executions_that_are_polled_count_as_rows_alone(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "api")
    for number in range(3):
        told = {"id": str(number), "status": "error"}
        await handler.handle_workflow_event(event("workflow.executed", execution=told))
    assert state(registry) == ("active", "unhealthy", 0, 0)


@pytest.mark.anyio
async def test_without_tracing_executions_are_counted_all_the_same(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "events")
    with fresh_pipeline():
        await handler.handle_workflow_event(event("workflow.executed", execution={"status": "error"}))
    assert state(registry) == ("active", "unknown", 1, 1)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "odd",
    [
        None, [], "workflow.created", {}, {"event": "workflow.created"}, {"event": 3, "workflow": {"id": "1"}},
        {"event": "workflow.exploded", "workflow": {"id": "1"}}, {"event": "workflow.created", "workflow": []},
        {"event": "workflow.created", "workflow": {}}, {"event": "workflow.created", "workflow": {"id": ""}},
        {"event": "workflow.created", "workflow": {"id": "x" * 256}},
        {"event": "workflow.created", "workflow": {"id": "a\x00"}},
        {"event": "workflow.created", "workflow": {"id": True}},
        {"event": ["workflow.created"], "workflow": {"id": "1"}},
    ],
)  # fmt: skip
async def test_an_event_that_makes_no_sense_is_answered_not_raised(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, odd: Any
) -> None:
    answer = await handler.handle_workflow_event(odd)
    assert answer["status"] == "error"
    assert "\n" not in answer["error"]
    assert registry.list_workflows() == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "workflow",
    [
        {"id": 7, "name": None, "tags": [None, 3, {"name": 4}], "nodes": [None, {"type": 3}, {"name": []}]},
        {"id": "7", "name": "nul \x00 and \ud800", "description": "\x00", "tags": ["\x00"], "nodes": "none"},
        {"id": "7", "name": ["x"], "tags": "a,b", "nodes": {}, "active": "yes", "activeVersion": {"nodes": None}},
    ],
)
async def test_odd_fields_do_not_keep_a_workflow_out(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, workflow: dict[str, Any]
) -> None:
    answer = await handler.handle_workflow_event({"event": "workflow.created", "workflow": workflow})
    assert answer["status"] == "success"
    assert registry.get_workflow_info("7") is not None


@pytest.mark.anyio
async def test_many_events_at_once_are_all_counted(
    handler: N8NWebhookHandler, registry: N8NWorkflowRegistry, database_url: str
) -> None:
    told = event("workflow.executed", {"name": "Busy"}, execution={"status": "success"})
    answers = await asyncio.gather(*(handler.handle_workflow_event(told) for _ in range(20)))
    assert {answer["status"] for answer in answers} == {"success"}
    assert state(registry) == ("active", "healthy", 20, 0)
    with psycopg.connect(database_url) as connection:
        made = connection.execute("SELECT count(*) FROM registration_audit WHERE action = 'registered'").fetchone()
    assert made == (1,)


@pytest.mark.anyio
async def test_an_unreachable_database_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    handler = N8NWebhookHandler(N8NWorkflowRegistry("postgresql://me:secret@127.0.0.1:1/elf"))
    answer = await handler.handle_workflow_event(event("workflow.created"))
    assert answer["status"] == "error"
    assert "secret" not in answer["error"] + caplog.text
