"""`MCPInstrumentor`: turns the instrumentation of the MCP SDK on and off."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer, TracerProvider, get_tracer

from elf_automations.instrumentation.mcp import client, peers, server
from elf_automations.instrumentation.patches import Patches, PatchPoint

SCOPE: Final = "elf-automations.mcp"


class MCPInstrumentor(BaseInstrumentor):
    """Instruments the official MCP SDK (2.x): one span a call and side, its context in `_meta`, its true outcome.

    `MCPInstrumentor().instrument(tracer_provider=...)`; without arguments the global provider is used, as under
    `opentelemetry-instrument`. `uninstrument()` puts every patched object back.
    """

    _patches = Patches("mcp")

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the SDK releases this works with."""
        return ("mcp >= 2.3, < 3",)

    def _instrument(self, **kwargs: Any) -> None:
        provider: TracerProvider | None = kwargs.get("tracer_provider")
        points = _patch_points(get_tracer(SCOPE, version("elf-automations"), provider))
        if provider is not None:
            points = (
                PatchPoint("mcp.shared._otel", "_tracer", lambda _: get_tracer("mcp-python-sdk", None, provider)),
                *points,
            )
        self._patches.apply(points)

    def _uninstrument(self, **_: Any) -> None:
        self._patches.restore()


def _patch_points(tracer: Tracer) -> tuple[PatchPoint, ...]:
    return (
        PatchPoint("mcp.client.session", "ClientSession.send_request", client.wrap_send_request(tracer)),
        PatchPoint("mcp.client.session", "ClientSession.validate_tool_result", client.wrap_validate_tool_result),
        PatchPoint("mcp.shared.jsonrpc_dispatcher", "otel_span", client.wrap_otel_span),
        PatchPoint("mcp.client.client", "Client.__aenter__", peers.wrap_client_enter),
        PatchPoint("mcp.server.runner", "ServerRunner._compose_server_middleware", server.wrap_compose_middleware),
        PatchPoint("mcp.server._otel", "OpenTelemetryMiddleware.__call__", server.wrap_middleware),
    )
