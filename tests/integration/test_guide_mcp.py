"""The guide's AgentGateway handler, as written, against a real MCP server and a real database."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from mcp import Client

from elf_automations.pipeline import configure
from elf_automations.shared.telemetry import telemetry_client
from elf_automations.storage.connection import connect
from mcp_server import weather_tools
from telemetry import fresh_pipeline

pytestmark = pytest.mark.anyio


async def call_mcp_tool(request) -> dict:
    """What the guide leaves to the reader: a real tool call; an error of the tool is an exception here."""
    async with Client(weather_tools()) as client:
        result = await client.call_tool(request.tool, {"city": "Oslo"})
    if result.is_error:
        raise RuntimeError(result.content[0].text)
    return {"text": result.content[0].text, "tokens_used": 42}


# In your MCP handler
async def handle_mcp_request(request):
    start_time = telemetry_client.start_timer()

    try:
        # Existing MCP logic...
        result = await call_mcp_tool(request)

        # Record success
        await telemetry_client.record_mcp(
            source_id=request.team_id,
            mcp_name=request.mcp_server,
            tool_name=request.tool,
            status="success",
            duration_ms=telemetry_client.calculate_duration_ms(start_time),
            tokens_used=result.get("tokens_used"),
            correlation_id=request.correlation_id,
        )

        return result

    except Exception as e:
        # Record error
        await telemetry_client.record_mcp(
            source_id=request.team_id,
            mcp_name=request.mcp_server,
            tool_name=request.tool,
            status="error",
            duration_ms=telemetry_client.calculate_duration_ms(start_time),
            error_message=str(e),
            correlation_id=request.correlation_id,
        )
        raise


def request(tool: str) -> SimpleNamespace:
    return SimpleNamespace(team_id="marketing-team", mcp_server="weather-tools", tool=tool, correlation_id=f"c-{tool}")


async def test_the_handler_returns_its_result_raises_its_error_and_leaves_two_rows(database_url):
    with fresh_pipeline():
        telemetry = configure(database_url=database_url, instrument=False)
        assert (await handle_mcp_request(request("get_weather")))["text"] == "sunny in Oslo"
        with pytest.raises(RuntimeError, match="no station in Oslo"):
            await handle_mcp_request(request("broken"))
        assert telemetry.flush()
    with connect(database_url) as connection:
        rows = connection.execute(
            "SELECT source_id, source_type, target_id, target_type, operation, tool_name, status, tokens_used,"
            " error_message, correlation_id, observed_by, duration_ms > 0"
            " FROM communication_telemetry WHERE counted AND operation = 'tool_call' ORDER BY timestamp"
        ).fetchall()
    assert rows == [
        (
            *("marketing-team", "team", "weather-tools", "mcp", "tool_call", "get_weather", "success", 42),
            *(None, "c-get_weather", "manual", True),
        ),
        (
            *("marketing-team", "team", "weather-tools", "mcp", "tool_call", "broken", "error", None),
            *("Error executing tool broken: no station in Oslo", "c-broken", "manual", True),
        ),
    ]


async def test_without_a_database_the_handler_works_and_one_info_line_says_so(caplog, capsys):
    caplog.set_level(logging.INFO)
    with fresh_pipeline():
        assert (await handle_mcp_request(request("get_weather")))["tokens_used"] == 42
        await handle_mcp_request(request("get_weather"))
    ours = [record for record in caplog.records if record.name.startswith("elf_")]
    assert [(record.levelname, "ELF_DATABASE_URL" in record.getMessage()) for record in ours] == [("INFO", True)]
    assert capsys.readouterr() == ("", "")


async def test_a_status_nobody_knows_and_a_duration_nobody_measured_are_kept_truthfully(database_url):
    with fresh_pipeline():
        telemetry = configure(database_url=database_url, instrument=False)
        await telemetry_client.record_a2a("marketing-team", "sales-team", status="failed", metadata={"try": 2})
        await telemetry_client.record_n8n("wf_001", "Onboarding", "Send", "smtp.example.com", duration_ms=-4)
        assert telemetry.flush()
    with connect(database_url) as connection:
        rows = connection.execute(
            "SELECT protocol, status, duration_ms, metadata, workflow_id, workflow_node, target_type"
            " FROM communication_telemetry ORDER BY timestamp"
        ).fetchall()
    assert rows == [
        ("a2a", "error", None, {"try": 2, "status": "failed", "method": "SendMessage"}, None, None, "team"),
        ("n8n", "success", None, {}, "wf_001", "Send", "external"),
    ]
