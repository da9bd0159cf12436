"""The four durations of the MCP convention, as histograms in seconds.

Source: OpenTelemetry GenAI semantic conventions, MCP metrics (names, attributes and bucket advice).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter, MeterProvider, get_meter
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import otel

_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_KEPT: Final = (
    otel.MCP_METHOD_NAME,
    otel.GEN_AI_OPERATION_NAME,
    otel.GEN_AI_TOOL_NAME,
    otel.GEN_AI_PROMPT_NAME,
    otel.MCP_PROTOCOL_VERSION,
    otel.NETWORK_TRANSPORT,
    otel.NETWORK_PROTOCOL_NAME,
    otel.SERVER_ADDRESS,
    otel.SERVER_PORT,
)


@dataclass(frozen=True, slots=True)
class Durations:
    """The histograms of one meter: operations and sessions, as client and as server."""

    client_operation: Histogram
    server_operation: Histogram
    client_session: Histogram
    server_session: Histogram


def durations(scope: str, provider: MeterProvider | None = None) -> Durations:
    """Return the four histograms, of `provider` or of the global one."""
    meter = get_meter(scope, version("elf-automations"), provider)
    return Durations(
        _histogram(meter, "mcp.client.operation.duration", "Duration of an MCP request as its sender sees it."),
        _histogram(meter, "mcp.server.operation.duration", "Duration of an MCP request as its receiver sees it."),
        _histogram(meter, "mcp.client.session.duration", "Duration of an MCP session as the client sees it."),
        _histogram(meter, "mcp.server.session.duration", "Duration of an MCP session as the server sees it."),
    )


def record(
    histogram: Histogram,
    seconds: float,
    attributes: Mapping[str, AttributeValue],
    *,
    error_type: str | None = None,
    rpc_code: str | None = None,
    context: Context | None = None,
) -> None:
    """Record one duration with those of a call's `attributes` that the convention keeps on a metric."""
    if getattr(histogram, "_real_instrument", histogram) is None:
        return  # the API's stand-in, while nobody has set up metrics
    kept = {name: attributes[name] for name in _KEPT if name in attributes}
    if error_type is not None:
        kept[otel.ERROR_TYPE] = error_type
    if rpc_code is not None:
        kept[otel.RPC_RESPONSE_STATUS_CODE] = rpc_code
    histogram.record(seconds, kept, context)


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_BUCKETS)
