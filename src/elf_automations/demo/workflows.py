"""The demo's n8n: lifecycle events through the webhook handler, steps through `record_n8n`."""

from __future__ import annotations

from typing import Any, Final

from elf_automations.demo.ledger import Ledger
from elf_automations.shared.telemetry import telemetry_client
from n8n.workflow_registration import N8NWebhookHandler

WORKFLOW: Final[dict[str, Any]] = {
    "id": "wf_onboarding",
    "name": "Customer Onboarding",
    "active": True,
    "tags": ["customer", "automation"],
    "nodes": [
        {"type": "n8n-nodes-base.webhook", "name": "Start"},
        {"type": "n8n-nodes-base.httpRequest", "name": "Create Account"},
        {"type": "n8n-nodes-base.emailSend", "name": "Send Welcome"},
    ],
}
_STEPS: Final = (
    ("Create Account", "accounts.example.com", "success", 84.0, None),
    ("Send Welcome", "smtp.example.com", "success", 132.0, None),
    ("Create Account", "accounts.example.com", "error", 61.0, "409 Conflict: the account exists"),
    ("Send Welcome", "smtp.example.com", "timeout", 3000.0, "timeout of 3000ms exceeded"),
)


async def announce(handler: N8NWebhookHandler) -> None:
    """Send the events of a workflow that was created and activated."""
    for event in ("workflow.created", "workflow.activated"):
        await handler.handle_workflow_event({"event": event, "workflow": WORKFLOW})


async def run_workflow(handler: N8NWebhookHandler, ledger: Ledger, execution: int) -> None:
    """Run the workflow once: its steps become rows, its end becomes activity of the registry."""
    for node, service, status, duration_ms, error in _STEPS:
        ledger.note("n8n", status)
        await telemetry_client.record_n8n(
            workflow_id=WORKFLOW["id"],
            workflow_name=WORKFLOW["name"],
            node_name=node,
            target_service=service,
            status=status,
            duration_ms=duration_ms,
            error_message=error,
            correlation_id=f"onboarding-{execution}",
        )
    await handler.handle_workflow_event(
        {
            "event": "workflow.executed",
            "workflow": WORKFLOW,
            "execution": {"id": str(execution), "status": "success", "mode": "webhook"},
        }
    )
