"""Which objects are wrapped, for each major of the SDK; one that is missing costs its part and one log line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from typing import Final

from opentelemetry.trace import Tracer, TracerProvider, get_tracer

from elf_automations.instrumentation.mcp import (
    adoption,
    asking,
    client,
    client_v1,
    reading,
    rounds,
    server,
    server_v1,
    sessions,
    transports,
)
from elf_automations.instrumentation.mcp.operation import Instruments
from elf_automations.instrumentation.patches import OpenerPoint, PatchPoint

_HTTP_CLIENT: Final = "mcp.client.streamable_http"

_IN_ROUNDS: Final = ("call_tool", "get_prompt", "read_resource")
_TRANSPORTS: Final = (
    OpenerPoint("mcp.client.stdio", "stdio_client", transports.wrap_stdio_client),
    OpenerPoint("mcp.server.stdio", "stdio_server", transports.wrap_stdio_server),
    OpenerPoint("mcp.client.sse", "sse_client", transports.wrap_sse_client),
    PatchPoint(_HTTP_CLIENT, "StreamableHTTPTransport.post_writer", transports.wrap_post_writer),
    PatchPoint(_HTTP_CLIENT, "StreamableHTTPTransport._handle_post_request", transports.wrap_post_request),
    PatchPoint(_HTTP_CLIENT, "StreamableHTTPTransport._prepare_headers", transports.wrap_prepare_headers),
)


def points_of_major(
    major: int, instruments: Instruments, prepare: Callable[[], None], provider: TracerProvider | None
) -> tuple[PatchPoint | OpenerPoint, ...]:
    """Return the patch points of an SDK.

    `prepare` runs when a client session begins and before a server handles a request; `provider` is None for the
    global one.
    """
    lasting = instruments.durations
    shared = (
        *_TRANSPORTS,
        *_sse(major),
        PatchPoint("mcp.client.session", "ClientSession.__aenter__", sessions.wrap_enter(prepare)),
        PatchPoint("mcp.client.session", "ClientSession.__aexit__", sessions.wrap_exit(lasting.client_session)),
        PatchPoint("mcp.server.lowlevel.server", "Server.run", sessions.wrap_server_run(lasting.server_session)),
    )
    if major < 2:  # noqa: PLR2004
        return (*_first(instruments, prepare), *shared)
    swapped = PatchPoint("mcp.shared._otel", "_tracer", lambda _: get_tracer("mcp-python-sdk", None, provider))
    return (*((swapped,) if provider is not None else ()), *_second(instruments, prepare), *shared)


def points_of_fastmcp(provider: TracerProvider | None, lasting: Instruments) -> tuple[PatchPoint, ...]:
    """Return the patch points of FastMCP's own telemetry, of those of its modules that are loaded."""
    telemetry = "fastmcp.server.telemetry"
    points = [
        PatchPoint(telemetry, "get_tracer", adoption.wrap_get_tracer),
        PatchPoint(telemetry, "get_session_span_attributes", adoption.wrap_session_attributes),
    ]
    if provider is not None:
        points.append(PatchPoint("fastmcp.telemetry", "otel_get_tracer", lambda _: _tracers_of(provider)))
    low_level = sys.modules.get("fastmcp.server.low_level")
    if "run" in vars(getattr(low_level, "LowLevelServer", object)):
        run = sessions.wrap_server_run(lasting.durations.server_session)
        points.append(PatchPoint("fastmcp.server.low_level", "LowLevelServer.run", run))
    return tuple(points)


def _sse(major: int) -> Iterator[PatchPoint]:
    """Yield the points of SSE that only the later releases of 1.x have: the earlier ones do all in one function."""
    points = [PatchPoint("mcp.client.sse", "request_within_origin", transports.wrap_sse_post)]
    if major < 2:  # noqa: PLR2004
        handler = "SseServerTransport._handle_post_message"
        points.append(PatchPoint("mcp.server.sse", handler, server_v1.wrap_sse_post))
    for point in points:
        with suppress(ImportError, AttributeError):
            attrgetter(point.path)(import_module(point.module))
            yield point


def _tracers_of(provider: TracerProvider) -> Callable[..., Tracer]:
    def get_tracer_of_provider(name: str, version: str | None = None) -> Tracer:
        return get_tracer(name, version, provider)

    return get_tracer_of_provider


def _first(instruments: Instruments, prepare: Callable[[], None]) -> tuple[PatchPoint, ...]:
    return (
        PatchPoint("mcp.shared.session", "BaseSession.send_request", client_v1.wrap_send_request(instruments)),
        PatchPoint("mcp.shared.session", "BaseSession.__init__", reading.wrap_session_init),
        PatchPoint("mcp.shared.session", "BaseSession.send_notification", client_v1.wrap_send_notification),
        PatchPoint("mcp.shared.session", "RequestResponder.respond", server_v1.wrap_respond),
        PatchPoint("mcp.client.session", "ClientSession._received_request", asking.wrap_received_request(instruments)),
        PatchPoint("mcp.client.session", "ClientSession._validate_tool_result", client.wrap_validate_tool_result),
        PatchPoint(
            "mcp.server.lowlevel.server",
            "Server._handle_request",
            server_v1.wrap_handle_request(instruments, prepare),
        ),
        PatchPoint(
            "mcp.server.lowlevel.server", "Server._handle_notification", server_v1.wrap_handle_notification(instruments)
        ),
        PatchPoint(
            "mcp.server.streamable_http",
            "StreamableHTTPServerTransport._handle_post_request",
            server_v1.wrap_http_post,
        ),
    )


def _second(instruments: Instruments, prepare: Callable[[], None]) -> tuple[PatchPoint, ...]:
    lasting = instruments.durations.server_session
    return (
        PatchPoint("mcp.client.session", "ClientSession.send_request", client.wrap_send_request(instruments)),
        *(PatchPoint("mcp.client.client", f"Client.{name}", rounds.wrap_call) for name in _IN_ROUNDS),
        PatchPoint("mcp.client.session", "ClientSession.validate_tool_result", client.wrap_validate_tool_result),
        PatchPoint("mcp.client.session", "ClientSession._on_request", asking.wrap_on_request(instruments)),
        PatchPoint("mcp.server.session", "ServerSession.send_request", client.wrap_server_send_request(instruments)),
        PatchPoint("mcp.shared.jsonrpc_dispatcher", "JSONRPCDispatcher.send_raw_request", client.wrap_send_raw),
        PatchPoint("mcp.shared.jsonrpc_dispatcher", "JSONRPCDispatcher.notify", client.wrap_notify),
        PatchPoint("mcp.shared.jsonrpc_dispatcher", "otel_span", adoption.wrap_otel_span),
        PatchPoint("mcp.shared.jsonrpc_dispatcher", "inject_trace_context", adoption.wrap_inject),
        PatchPoint("mcp.shared.direct_dispatcher", "DirectDispatcher._dispatch_request", client.wrap_direct_request),
        PatchPoint("mcp.shared.direct_dispatcher", "DirectDispatcher._dispatch_notify", client.wrap_notify),
        PatchPoint("mcp.server.runner", "ServerRunner._on_request", server.wrap_on_request(instruments, prepare)),
        PatchPoint("mcp.server.runner", "ServerRunner._on_notify", server.wrap_on_notify(instruments)),
        PatchPoint("mcp.server._otel", "OpenTelemetryMiddleware.__call__", adoption.wrap_middleware),
        PatchPoint("mcp.server._streamable_http_modern", "_tool_input_schema", server.wrap_tool_input_schema),
        PatchPoint("mcp.server._streamable_http_modern", "_SingleExchangeDispatchContext.notify", client.wrap_notify),
        PatchPoint(
            "mcp.server.streamable_http_manager",
            "serve_loop",
            sessions.wrap_server_run(lasting, over_http=True),
        ),
    )
