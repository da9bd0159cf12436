"""The server of the matrix: `python server.py STACK stdio` or `python server.py STACK http ADDRESS_FILE`.

With `MATRIX_SPANS` naming a file it is instrumented, and its spans go there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn


def weather_tools(stack: str) -> Any:
    """Return the server with what the behaviours call."""
    server, tool_error = _library(stack)

    @server.tool()
    def get_weather(city: str) -> str:
        return f"sunny in {city}"

    @server.tool()
    def broken(city: str) -> str:
        raise ValueError(f"no station in {city}")

    @server.tool()
    def flags(city: str) -> str:
        raise tool_error(f"unknown city {city}")

    @server.tool()
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "at last"

    if stack.startswith("fastmcp"):
        server.prompt(greet)
    else:
        server.prompt()(greet)

    @server.resource("weather://today")
    def today() -> str:
        return "sunny"

    return server


def greet(name: str) -> str:
    """Greet somebody."""
    return f"Greet {name}."


def _library(stack: str) -> tuple[Any, type[Exception]]:
    if stack.startswith("fastmcp"):
        from fastmcp import FastMCP
        from fastmcp.exceptions import ToolError

        return FastMCP("weather-tools"), ToolError
    if stack == "mcp-1":
        from mcp.server.fastmcp import FastMCP as First
        from mcp.server.fastmcp.exceptions import ToolError as FirstToolError

        return First("weather-tools", log_level="CRITICAL"), FirstToolError
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError as SecondToolError

    return MCPServer("weather-tools", log_level="CRITICAL"), SecondToolError


def http_application(server: Any, stack: str) -> Any:
    """Return the server as a web application."""
    return server.http_app() if stack.startswith("fastmcp") else server.streamable_http_app()


def instrument(spans: Path) -> None:
    """Trace this process into a file."""
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from elf_automations.instrumentation.mcp import MCPInstrumentor
    from matrix.span_file import SpanFile

    provider = TracerProvider(resource=Resource({"service.name": "weather-process"}))
    provider.add_span_processor(SimpleSpanProcessor(SpanFile(spans)))
    trace.set_tracer_provider(provider)
    MCPInstrumentor().instrument()


def main(stack: str, transport: str, *address: str) -> None:
    """Serve until the client leaves or the process is ended."""
    spans = os.environ.get("MATRIX_SPANS")
    if spans:
        instrument(Path(spans))
    server = weather_tools(stack)
    if transport == "stdio":
        _serve_stdio(server, stack)
        return
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(http_application(server, stack), log_level="critical", timeout_graceful_shutdown=1)
    path = Path(address[0])
    path.with_suffix(".part").write_text(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp")
    path.with_suffix(".part").rename(path)
    uvicorn.Server(config).run([listener])


def _serve_stdio(server: Any, stack: str) -> None:
    if stack.startswith("fastmcp"):
        server.run("stdio", show_banner=False)
    else:
        server.run("stdio")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(*sys.argv[1:])
