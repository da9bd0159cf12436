"""Spans and rows for tests of storage and export: real SDK spans with a fixed clock and ids, and rows in any number."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from time import monotonic, sleep
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode
from opentelemetry.util.types import AttributeValue

from elf_automations.model import Communication

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
START_NS = 1_772_366_400_123_456_789
RESOURCE = Resource(
    {
        "service.name": "planner",
        "service.instance.id": "planner-1",
        "elf.entity.id": "planning-team",
        "elf.entity.type": "team",
    }
)


def tool_call(
    number: int, *, error: str | None = None, start_ns: int = START_NS, **attributes: AttributeValue
) -> ReadableSpan:
    """Return the finished client span of the `number`th tool call, as any MCP-convention library writes it."""
    context = SpanContext(
        0xA000_0000_0000_0000_0000_0000_0000_0000 + number, number + 1, is_remote=False, trace_flags=TraceFlags(1)
    )
    return ReadableSpan(
        name="tools/call search",
        context=context,
        resource=RESOURCE,
        kind=SpanKind.CLIENT,
        attributes={
            "mcp.method.name": "tools/call",
            "gen_ai.tool.name": "search",
            "elf.target.id": "search-server",
            **({"error.type": error} if error else {}),
            **attributes,
        },
        status=Status(StatusCode.ERROR, error) if error else Status(StatusCode.UNSET),
        start_time=start_ns,
        end_time=start_ns + 25_000_000,
        instrumentation_scope=InstrumentationScope("test"),
    )


def other_span(number: int) -> ReadableSpan:
    """Return a finished span that is no call of any protocol of ours."""
    context = SpanContext(
        0xB000_0000_0000_0000_0000_0000_0000_0000 + number, number + 1, is_remote=False, trace_flags=TraceFlags(1)
    )
    return ReadableSpan(
        name="GET /health",
        context=context,
        resource=RESOURCE,
        start_time=START_NS,
        end_time=START_NS + 1000,
        instrumentation_scope=InstrumentationScope("test"),
    )


def row(number: int, **changes: object) -> Communication:
    """Return the `number`th of endless different rows, every column filled."""
    values: dict[str, Any] = {
        "id": uuid.UUID(int=number + 1),
        "timestamp": START + timedelta(milliseconds=number),
        "protocol": "mcp",
        "source_id": "planning-team",
        "source_type": "team",
        "target_id": "search-server",
        "target_type": "mcp",
        "operation": "tool_call",
        "duration_ms": 0.1 + number,
        "status": "error" if number % 10 == 0 else "success",
        "tool_name": "search",
        "tool_category": "web",
        "task_description": 'Find "it", please — today\n',
        "capabilities_required": ["search", "a,b", '"quoted"', "{}"],
        "message_type": "task_request",
        "workflow_id": "wf_1",
        "workflow_name": "Nightly",
        "workflow_node": "Fetch",
        "payload_size_bytes": 2**62 + number,
        "tokens_used": number,
        "estimated_cost": Decimal("0.000123"),
        "error_message": "\\N \\t 100 %",
        "error_code": "E42",
        "correlation_id": f"order-{number}",
        "parent_correlation_id": None,
        "metadata": {"n": number, "big": 2**62, "f": 0.1, "s": "\u00e9\U0001f600", "deep": {"list": [1, None, True]}},
        "trace_id": f"{number + 1:032x}",
        "span_id": f"{number + 1:016x}",
        "parent_span_id": None,
        "observed_by": "client",
        "counted": True,
        "service_name": "planner",
        "service_instance_id": "planner-1",
    }
    return Communication(**(values | changes))


def eventually(true: Callable[[], object], *, within: float = 15.0) -> None:
    """Wait until `true()` is; fail when it is not within the deadline."""
    deadline = monotonic() + within
    while not true():
        assert monotonic() < deadline, f"did not happen within {within} s"
        sleep(0.02)
