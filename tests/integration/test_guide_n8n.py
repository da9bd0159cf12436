"""The guide's n8n and entity registration examples, as written."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from warnings import catch_warnings, simplefilter

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from postgrest import AsyncPostgrestClient
from psycopg.rows import dict_row

from postgrest_server import serving


def test_manual_registration(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)

    from n8n.workflow_registration import N8NWorkflowRegistry

    registry = N8NWorkflowRegistry()

    # Register a workflow
    registry.register_workflow(
        workflow_id="wf_001",
        workflow_name="Customer Onboarding",
        description="Automated customer onboarding process",
        tags=["customer", "automation"],
        nodes=[
            {"type": "webhook", "name": "Start"},
            {"type": "http", "name": "Create Account"},
            {"type": "email", "name": "Send Welcome"},
        ],
    )

    # Update workflow state
    registry.update_workflow_state(workflow_id="wf_001", state="active", health_status="healthy")

    with psycopg.connect(database_url, row_factory=dict_row) as connection:
        row = connection.execute(
            "SELECT entity_id, entity_type, entity_name, current_state, health_status, capabilities, tags, "
            "metadata ->> 'description' AS description FROM unified_registry"
        ).fetchone()
    assert row == {
        "entity_id": "wf_001",
        "entity_type": "n8n_workflow",
        "entity_name": "Customer Onboarding",
        "current_state": "active",
        "health_status": "healthy",
        "capabilities": ["email_send", "http_request", "webhook_trigger"],
        "tags": ["customer", "automation"],
        "description": "Automated customer onboarding process",
    }


@pytest.fixture
def webhook(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The guide's webhook endpoint on a real server; the value is its URL."""
    monkeypatch.setenv("ELF_DATABASE_URL", database_url)
    app = FastAPI()

    from n8n.workflow_registration import N8NWebhookHandler, N8NWorkflowRegistry

    registry = N8NWorkflowRegistry()
    handler = N8NWebhookHandler(registry)

    # In your webhook endpoint
    @app.post("/n8n/webhook")
    async def handle_n8n_event(event: dict):  # type: ignore[type-arg]
        result = await handler.handle_workflow_event(event)
        return result  # noqa: RET504

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/n8n/webhook"
        finally:
            server.should_exit = True
            thread.join(timeout=20)
            registry.close()


def test_webhook_auto_registration(webhook: str, database_url: str) -> None:
    workflow = {"id": "wf_002", "name": "Invoices", "active": True, "nodes": [{"type": "n8n-nodes-base.postgres"}]}
    created = httpx.post(webhook, json={"event": "workflow.created", "workflow": workflow})
    executed = httpx.post(
        webhook, json={"event": "workflow.executed", "workflow": workflow, "execution": {"id": "1", "status": "error"}}
    )
    assert (created.status_code, created.json()["action"]) == (200, "registered")
    assert (executed.status_code, executed.json()["action"]) == (200, "activity_recorded")
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT entity_name, current_state, health_status, activity_count, error_count, capabilities "
            "FROM unified_registry WHERE entity_id = 'wf_002'"
        ).fetchone()
    assert row == ("Invoices", "active", "unknown", 1, 1, ["database_access"])  # one execution says nothing of health


@pytest.mark.anyio
async def test_entity_registration(database_url: str) -> None:
    with serving(database_url) as api, catch_warnings():
        # The client builds its session in a way its own HTTP library has deprecated.
        simplefilter("ignore", DeprecationWarning)
        supabase = AsyncPostgrestClient(f"{api.url}/rest/v1", headers={"apikey": api.key})

        # Using SQL function
        await supabase.rpc(
            "register_entity",
            {
                "p_entity_id": "my-service-001",
                "p_entity_type": "service",
                "p_entity_name": "My Custom Service",
                "p_registered_by": "manual",
                "p_capabilities": ["data-processing", "api-access"],
                "p_endpoint_url": "http://my-service:8080",
            },
        ).execute()

        # Update state
        await supabase.rpc(
            "update_entity_state",
            {
                "p_entity_id": "my-service-001",
                "p_entity_type": "service",
                "p_new_state": "active",
                "p_health_status": "healthy",
            },
        ).execute()
        await supabase.aclose()

    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT entity_id, entity_type, entity_name, registered_by, capabilities, endpoint_url, current_state, "
            "health_status FROM unified_registry"
        ).fetchone()
    assert row == (
        "my-service-001", "service", "My Custom Service", "manual", ["data-processing", "api-access"],
        "http://my-service:8080", "active", "healthy",
    )  # fmt: skip


def test_the_setup_script_run_as_the_guide_says(empty_database_url: str) -> None:
    scripts = Path(__file__).parents[2] / "scripts"
    done = subprocess.run(
        [sys.executable, "setup_telemetry_and_registry.py"],
        cwd=scripts,
        env={**os.environ, "ELF_DATABASE_URL": empty_database_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "is up to date" in done.stdout
    with psycopg.connect(empty_database_url) as connection:
        made = connection.execute(
            "SELECT to_regclass('communication_telemetry') IS NOT NULL, to_regclass('unified_registry') IS NOT NULL"
        ).fetchone()
    assert made == (True, True)
