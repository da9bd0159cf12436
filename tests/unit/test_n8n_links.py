"""Whose a step is, who started an execution, whom a step called: in one batch, without a database."""

from __future__ import annotations

from inline_snapshot import snapshot

from elf_automations.model import Communication, map_batch, settle
from n8n_scenarios import SCENARIOS
from n8n_spans import CAPTURED, captured

EXPECTED = snapshot(
    {
        "sub-workflow": [
            "1 workflow_execution of Billing, execution 7: team sales-team -> workflow billing, success",
            "2 Charge of Billing, execution 7: workflow billing -> external httpRequest, success",
            "3 Refund of Billing, execution 7: workflow billing -> service n8n, success, not counted",
            "4 workflow_execution of Refunds, execution 8 below 7: workflow billing -> workflow refunds, success",
            "5 Bank of Refunds, execution 8: workflow refunds -> external httpRequest, success",
            "6 workflow_execution of Ledger, execution 9 below 8: workflow refunds -> workflow ledger, success",
            "7 Book of Ledger, execution 9: workflow ledger -> external postgres, success",
        ],
        "sub-workflow of a node": [
            "1 workflow_execution of Billing, execution 7: service n8n -> workflow billing, success",
            "2 Refund of Billing, execution 7: workflow billing -> workflow refunds, success, not counted",
            "3 workflow_execution of Refunds, execution 8 below 7: workflow billing -> workflow refunds, success",
        ],
        "wait and resume, twice": [
            "1 workflow_execution of Approval, execution 7: team sales-team -> workflow approval, success, not counted",
            "2 Ask of Approval, execution 7: workflow approval -> external httpRequest, success",
            "3 workflow_execution of Approval, execution 7: team sales-team -> workflow approval, success, not counted",
            "4 Ask again of Approval, execution 7: workflow approval -> external httpRequest, success",
            "5 workflow_execution of Approval, execution 7: team sales-team -> workflow approval, success",
            "6 Tell of Approval, execution 7: workflow approval -> external httpRequest, success",
            "7 workflow_execution of Archive, execution 8 below 7: workflow approval -> workflow archive, success",
        ],
        "never resumed": [
            "1 workflow_execution of Approval, execution 7: service n8n -> workflow approval, success, not counted",
            "2 Ask of Approval, execution 7: workflow approval -> external httpRequest, success",
        ],
        "cut off": [
            "1 workflow_execution of Slow, execution 7: service n8n -> workflow slow, cancelled",
            "2 First of Slow, execution 7: workflow slow -> external httpRequest, success",
            "3 Second of Slow, execution 7: workflow slow -> external httpRequest, cancelled",
            "4 workflow_execution of Slower, execution 8 below 7: workflow slow -> workflow slower, error",
            "5 Third of Slower, execution 8: workflow slower -> external httpRequest, error",
        ],
        "retry": [
            "1 workflow_execution of Billing, execution 7: service n8n -> workflow billing, error",
            "2 Charge of Billing, execution 7: workflow billing -> external httpRequest, error",
        ],
        "agents and tools": [
            "1 workflow_execution of Quotes, execution 7: team sales-team -> workflow quotes, success",
            "2 Ask pricing of Quotes, execution 7: workflow quotes -> team pricing-team, success",
            "3 send_task of None, execution None: workflow quotes -> team pricing-team, success",
            "4 Look up of Quotes, execution 7: workflow quotes -> mcp crm, success",
            "5 tool_call of None, execution None: workflow quotes -> mcp crm, success",
            "6 tool_call of None, execution None: workflow quotes -> mcp crm, success",
            "7 send_task of None, execution None: service unknown -> team pricing-team, success",
        ],
        "a workflow's webhook called by another's node": [
            "1 workflow_execution of Orders, execution 7: team sales-team -> workflow orders, success",
            "2 Post of Orders, execution 7: workflow orders -> workflow intake, success",
            "3 workflow_execution of Intake, execution 8 below 7: workflow orders -> workflow intake, success",
            "4 Store of Intake, execution 8: workflow intake -> external postgres, success",
        ],
    }
)


def told(row: Communication) -> str:
    where = f"{row.source_type} {row.source_id} -> {row.target_type} {row.target_id}"
    below = row.metadata.get("parent_execution_id")
    named = f"{row.workflow_node or row.operation} of {row.workflow_name}, execution {row.metadata.get('execution_id')}"
    return (
        f"{row.span_id.lstrip('0')[:4]} {named}{f' below {below}' if below else ''}: {where}, {row.status}"
        f"{'' if row.counted else ', not counted'}"
    )


def test_every_scenario_row_by_row() -> None:
    assert {
        name: [told(row) for row in settle(made).rows] for name, made in SCENARIOS.items() if name not in CAPTURED
    } == EXPECTED


def test_where_executions_have_another_source_the_export_is_ignored() -> None:
    spans = captured("otlp_success")
    mapped = map_batch([*spans, spans[0]], n8n_exports=False)
    assert (mapped.rows, mapped.ignored, mapped.repeated, mapped.faults) == ((), len(spans) + 1, 0, ())
