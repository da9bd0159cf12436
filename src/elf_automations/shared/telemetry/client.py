"""`telemetry_client`: record a call by hand, fire and forget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from elf_automations.conventions import a2a_draft, elf, n8n, otel
from elf_automations.instrumentation.manual import record_call, texts
from elf_automations.model.protocols.mcp import OPERATIONS
from elf_automations.pipeline import ensure_pipeline

_MCP_METHODS: Final[Mapping[str, str]] = {operation: method for method, operation in OPERATIONS.items()}
_A2A_METHODS: Final[Mapping[str, str]] = {
    "send_task": "SendMessage",
    "get_task": "GetTask",
    "cancel_task": "CancelTask",
    "subscribe_task": "SubscribeToTask",
    "get_capabilities": "GetExtendedAgentCard",
}


class TelemetryClient:
    """Records calls that no instrumentor sees. Its coroutines never raise, never wait and do no I/O.

    Each call becomes one span of the current trace; the exporter makes the row of it. `status` is one of
    success, error, timeout, cancelled; durations are in milliseconds, sizes in bytes, costs in US dollars.
    """

    async def record_mcp(
        self,
        source_id: str,
        source_type: str = "team",
        mcp_name: str | None = None,
        tool_name: str | None = None,
        operation: str = "tool_call",
        status: str = "success",
        duration_ms: float | None = None,
        tokens_used: int | None = None,
        error_message: str | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        tool_category: str | None = None,
        payload_size_bytes: int | None = None,
        error_code: str | None = None,
        parent_correlation_id: str | None = None,
        estimated_cost: float | None = None,
    ) -> None:
        """Record one MCP call of `source_id` to the server `mcp_name`."""
        ensure_pipeline()
        method = _MCP_METHODS.get(operation, operation)
        record_call(
            f"{method} {tool_name}" if tool_name else method,
            {
                otel.MCP_METHOD_NAME: method,
                otel.GEN_AI_TOOL_NAME: tool_name,
                elf.ELF_SOURCE_ID: source_id,
                elf.ELF_SOURCE_TYPE: source_type,
                elf.ELF_TARGET_ID: mcp_name or "unknown",
                elf.ELF_TARGET_TYPE: "mcp",
                elf.ELF_OPERATION: operation,
                elf.ELF_TOOL_CATEGORY: tool_category,
                elf.ELF_TOKENS_USED: tokens_used,
                **_common(correlation_id, parent_correlation_id, payload_size_bytes, estimated_cost),
            },
            status=status,
            duration_ms=duration_ms,
            error_message=error_message,
            error_code=error_code,
            metadata=metadata,
        )

    async def record_a2a(
        self,
        source_team: str,
        target_team: str,
        operation: str = "send_task",
        task_description: str | None = None,
        status: str = "success",
        duration_ms: float | None = None,
        error_message: str | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        source_type: str = "team",
        capabilities_required: Sequence[str] | None = None,
        message_type: str | None = None,
        payload_size_bytes: int | None = None,
        tokens_used: int | None = None,
        error_code: str | None = None,
        parent_correlation_id: str | None = None,
        estimated_cost: float | None = None,
    ) -> None:
        """Record one A2A call of `source_team` to `target_team`; `task_description` is stored, redacted and bounded."""
        ensure_pipeline()
        method = _A2A_METHODS.get(operation, operation)
        record_call(
            method,
            {
                a2a_draft.A2A_METHOD_NAME: method,
                elf.ELF_SOURCE_ID: source_team,
                elf.ELF_SOURCE_TYPE: source_type,
                elf.ELF_TARGET_ID: target_team,
                elf.ELF_TARGET_TYPE: "team",
                elf.ELF_OPERATION: operation,
                elf.ELF_TASK_DESCRIPTION: task_description,
                elf.ELF_CAPABILITIES_REQUIRED: texts(capabilities_required),
                elf.ELF_MESSAGE_TYPE: message_type or ("task_request" if operation == "send_task" else None),
                elf.ELF_TOKENS_USED: tokens_used,
                **_common(correlation_id, parent_correlation_id, payload_size_bytes, estimated_cost),
            },
            status=status,
            duration_ms=duration_ms,
            error_message=error_message,
            error_code=error_code,
            metadata=metadata,
        )

    async def record_n8n(
        self,
        workflow_id: str,
        workflow_name: str,
        node_name: str | None = None,
        target_service: str | None = None,
        operation: str = "workflow_step",
        status: str = "success",
        duration_ms: float | None = None,
        error_message: str | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        source_type: str = "workflow",
        payload_size_bytes: int | None = None,
        tokens_used: int | None = None,
        error_code: str | None = None,
        parent_correlation_id: str | None = None,
        estimated_cost: float | None = None,
    ) -> None:
        """Record one step of an n8n workflow that reached the service `target_service`."""
        ensure_pipeline()
        record_call(
            f"{operation} {workflow_name}",
            {
                elf.ELF_PROTOCOL: "n8n",
                n8n.N8N_WORKFLOW_ID: workflow_id,
                n8n.N8N_WORKFLOW_NAME: workflow_name,
                n8n.N8N_NODE_NAME: node_name,
                elf.ELF_SOURCE_ID: workflow_id,
                elf.ELF_SOURCE_TYPE: source_type,
                elf.ELF_TARGET_ID: target_service or "unknown",
                elf.ELF_TARGET_TYPE: "external",
                elf.ELF_OPERATION: operation,
                elf.ELF_WORKFLOW_ID: workflow_id,
                elf.ELF_WORKFLOW_NAME: workflow_name,
                elf.ELF_WORKFLOW_NODE: node_name,
                elf.ELF_TOKENS_USED: tokens_used,
                **_common(correlation_id, parent_correlation_id, payload_size_bytes, estimated_cost),
            },
            status=status,
            duration_ms=duration_ms,
            error_message=error_message,
            error_code=error_code,
            metadata=metadata,
        )

    def start_timer(self) -> float:
        """Return a start for `calculate_duration_ms`: seconds of a monotonic clock, no wall time."""
        return time.monotonic()

    def calculate_duration_ms(self, start_time: float) -> float:
        """Return the milliseconds since `start_timer()`, to the microsecond."""
        return round((time.monotonic() - start_time) * 1000, 3)


class TelemetryTimer:
    """Times a block: `with TelemetryTimer() as timer: ...` and then `timer.duration_ms`."""

    def __init__(self, client: TelemetryClient | None = None) -> None:
        self._client = client or telemetry_client
        self._start: float | None = None

    def __enter__(self) -> Self:
        self._start = self._client.start_timer()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the block; exceptions pass."""

    @property
    def duration_ms(self) -> float:
        """Milliseconds since the block was entered, 0 before."""
        return 0.0 if self._start is None else self._client.calculate_duration_ms(self._start)


telemetry_client: Final = TelemetryClient()


def _common(
    correlation_id: str | None, parent_correlation_id: str | None, size: int | None, cost: float | None
) -> dict[str, str | int | float | None]:
    return {
        elf.ELF_CORRELATION_ID: correlation_id,
        elf.ELF_PARENT_CORRELATION_ID: parent_correlation_id,
        elf.ELF_PAYLOAD_SIZE: size,
        elf.ELF_COST_USD: cost,
    }
