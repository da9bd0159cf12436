"""A Supabase project with its roles: SUPABASE_URL and a key of any kind are all that anything of ours needs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from opentelemetry import trace

from elf_automations import UnifiedRegistry, configure, lifecycle
from elf_automations.errors import StorageRefusedError
from elf_automations.registry import default, flush_registry
from elf_automations.shared.telemetry import telemetry_client
from elf_automations.storage.supabase import SupabaseRpc
from n8n.workflow_registration import N8NWebhookHandler, N8NWorkflowRegistry
from postgrest_server import Api, serving
from supabase_roles import JWT_OF, KEYS, PUBLISHABLE, SECRET, migrated_project
from telemetry import fresh_pipeline


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    for registry in default._registries.values():
        registry.close()


@pytest.fixture(scope="module")
def supabase(postgres_url: str) -> Iterator[Api]:
    """A project with its roles, and its keys of both kinds."""
    with migrated_project(postgres_url, "all") as made, serving(made.url, keys=KEYS) as running:
        yield running


def ask(api: Api, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(api.database_url) as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("setting", "key", "may_read"),
    [
        ("SUPABASE_ANON_KEY", PUBLISHABLE, False),
        ("SUPABASE_ANON_KEY", JWT_OF["anon"], False),
        ("SUPABASE_ANON_KEY", JWT_OF["authenticated"], None),
        ("SUPABASE_SERVICE_KEY", JWT_OF["service_role"], True),
        ("SUPABASE_SECRET_KEY", SECRET, True),
    ],
    ids=["publishable", "anon", "authenticated", "service_role", "secret"],
)
async def test_url_and_key_are_all_that_is_needed(
    supabase: Api, monkeypatch: pytest.MonkeyPatch, setting: str, key: str, may_read: bool | None
) -> None:
    """Calls recorded by hand, workflows from webhooks and entities by factories, with each kind of key."""
    monkeypatch.setenv("SUPABASE_URL", supabase.url)
    monkeypatch.setenv(setting, key)
    name = f"team-{key[-9:].lower()}-{len(key)}"
    with fresh_pipeline():
        telemetry = configure(entity_id=name, entity_type="team", instrument=False)
        await telemetry_client.record_mcp(source_id=name, mcp_name="crm", tool_name="lookup", duration_ms=12.5)
        await telemetry_client.record_a2a(name, "sales-team", status="timeout")
        assert telemetry.flush(15)
        assert telemetry.exporter is not None
        books = telemetry.exporter.books()
        assert (books.stored, books.rejected, books.dropped) == (2, 0, {})
        workflows = N8NWorkflowRegistry()
        handler = N8NWebhookHandler(workflows)
        created = await handler.handle_workflow_event({"event": "workflow.created", "workflow": {"id": name}})
        assert (created["status"], created["action"]) == ("success", "registered")
        assert workflows.update_workflow_state(name, "active", "healthy")
        workflows.close()
    with lifecycle(name, "service", entity_name="Made"):
        pass
    assert flush_registry(15)
    with UnifiedRegistry() as registry:
        assert registry.heartbeat(name, "n8n_workflow", "degraded")
        if may_read:
            assert registry.resolve_endpoint(name) is None
            assert {entity["entity_type"] for entity in registry.list() if entity["entity_id"] == name} == {
                "team", "n8n_workflow", "service",
            }  # fmt: skip
            assert registry.gaps() is not None
        elif may_read is False:
            with pytest.raises(StorageRefusedError, match="the grants of its role do not reach this"):
                registry.list()
    rows = (
        f"select operation, status, counted from communication_telemetry where source_id = '{name}' order by operation"
    )
    assert ask(supabase, rows) == [("send_task", "timeout", True), ("tool_call", "success", True)]
    known = "select entity_type, current_state, health_status, activity_count, error_count from unified_registry"
    assert ask(supabase, f"{known} where entity_id = '{name}' order by entity_type") == [
        ("n8n_workflow", "active", "degraded", 0, 0),
        ("service", "stopped", "unknown", 0, 0),
        ("team", "active", "unknown", 2, 1),
    ]


def test_a_publishable_key_reads_and_removes_nothing(supabase: Api) -> None:
    client = SupabaseRpc(supabase.url, PUBLISHABLE)
    for table in ("communication_telemetry", "unified_registry", "registration_audit", "telemetry_settings"):
        with pytest.raises(StorageRefusedError, match="42501"):
            client.select(table)
    for function in ("check_registration_gaps", "active_alerts", "maintain_telemetry"):
        with pytest.raises(StorageRefusedError, match="42501"):
            client.call(function, {})
    client.close()


@pytest.mark.parametrize("key", ["sb_secret_of_another_project", "eyJhbGciOiJIUzI1NiJ9.e30.b3RoZXI"])
def test_a_wrong_key_is_one_line_of_the_exporter(
    supabase: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    monkeypatch.setenv("SUPABASE_URL", supabase.url)
    monkeypatch.setenv("SUPABASE_SECRET_KEY", key)
    with fresh_pipeline(), caplog.at_level(logging.WARNING):
        telemetry = configure(instrument=False)
        tracer = trace.get_tracer("test")
        for _ in range(3):
            tracer.start_span(
                "tools/call", kind=trace.SpanKind.CLIENT, attributes={"mcp.method.name": "tools/call"}
            ).end()
            telemetry.flush(5)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "SUPABASE_SECRET_KEY" in lines[0]
    assert key not in lines[0]
