"""What n8n 2.41 was seen to send: captures, and spans of the same shape for what no capture is kept of."""

from __future__ import annotations

from elf_automations.model import ResourceRecord, SpanKind, SpanRecord
from n8n_spans import CAPTURED, captured, node, run
from records import span, tool_call

STATE = "elf=team:sales-team,h3=1"
_AGENT = ResourceRecord({"service.name": "pricing", "elf.entity.id": "pricing-team", "elf.entity.type": "team"})


def _asked(number: int, parent: int | None) -> SpanRecord:
    said = {"a2a.method.name": "SendMessage", "gen_ai.agent.name": "pricing-team"}
    return span(number, "SendMessage", SpanKind.SERVER, said, parent=parent, resource=_AGENT)


def _server(number: int, parent: int | None) -> SpanRecord:
    return tool_call(number, SpanKind.SERVER, parent=parent, attributes={"elf.target.id": "crm"})


# Span 99 is the caller's, of which nothing is stored.
SCENARIOS: dict[str, list[SpanRecord]] = {
    **{name: captured(name) for name in CAPTURED},
    "sub-workflow": [
        run(1, "billing", parent=99, trace_state=STATE),
        node(2, 1, "Charge"),
        node(3, 1, "Refund", "n8n-nodes-base.executeWorkflow"),
        run(4, "refunds", parent=1, execution="8", mode="integrated", trace_state=STATE),
        node(5, 4, "Bank"),
        run(6, "ledger", parent=4, execution="9", mode="integrated", trace_state=STATE),
        node(7, 6, "Book", "n8n-nodes-base.postgres"),
    ],
    "sub-workflow of a node": [
        run(1, "billing"),
        node(2, 1, "Refund", "n8n-nodes-base.executeWorkflow"),
        run(3, "refunds", parent=2, execution="8", mode="integrated"),
    ],
    "wait and resume, twice": [
        run(1, "approval", "waiting", parent=99, trace_state=STATE),
        node(2, 1, "Ask"),
        run(3, "approval", "waiting", parent=1, link=1),
        node(4, 3, "Ask again"),
        run(5, "approval", parent=3, link=3),
        node(6, 5, "Tell"),
        run(7, "archive", parent=5, execution="8", mode="integrated", trace_state=STATE),
    ],
    "never resumed": [run(1, "approval", "waiting"), node(2, 1, "Ask")],
    "cut off": [
        run(1, "slow", "canceled", parent=99),
        node(2, 1, "First"),
        node(3, 1, "Second", cut_off=True),
        run(4, "slower", "crashed", parent=1, execution="8", mode="integrated"),
        node(5, 4, "Third", cut_off=True),
    ],
    "retry": [
        run(1, "billing", "error", mode="retry", error="no", retry_of="3"),
        node(2, 1, "Charge", status="error", error="no"),
    ],
    "agents and tools": [
        run(1, "quotes", parent=99, trace_state=STATE),
        node(2, 1, "Ask pricing"),
        _asked(3, 2),
        node(4, 1, "Look up"),
        _server(5, 4),
        _server(6, 4),
        _asked(7, 98),
    ],
    "a workflow's webhook called by another's node": [
        run(1, "orders", parent=99, trace_state=STATE),
        node(2, 1, "Post"),
        run(3, "intake", parent=2, execution="8", trace_state=STATE),
        node(4, 3, "Store", "n8n-nodes-base.postgres"),
    ],
}  # fmt: skip
