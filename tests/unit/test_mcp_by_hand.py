"""An MCP call that the application recorded by hand is a row with the tool it named, whatever it says was done."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from elf_automations.model import Communication
from elf_automations.model.protocols.mcp import OPERATIONS
from elf_automations.shared.telemetry import telemetry_client
from telemetry import fresh_pipeline
from tracing import Spans

pytestmark = pytest.mark.anyio


async def recorded(operation: str, tool_name: str | None) -> Communication:
    with fresh_pipeline():
        spans = Spans()
        trace.set_tracer_provider(spans.provider)
        await telemetry_client.record_mcp(
            "sales", mcp_name="crm", tool_name=tool_name, operation=operation, duration_ms=5
        )
    (row,) = spans.settled().rows
    return row


@pytest.mark.parametrize(
    "operation",
    [
        *OPERATIONS.values(), "tool_execution", "initialize", "ping", "server/discover", "notifications/progress",
        "tools/call", "anything else",
    ],
)  # fmt: skip
async def test_no_operation_is_lost_and_neither_is_its_tool(operation):
    for tool in ("greet", None):
        row = await recorded(operation, tool)
        assert (row.operation, row.tool_name, row.counted, row.observed_by) == (operation, tool, True, "manual")
        assert (row.source_id, row.target_id, row.duration_ms) == ("sales", "crm", 5)
