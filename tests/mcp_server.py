"""The MCP server of the tests; as a program it serves stdio."""

from __future__ import annotations

import asyncio

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError


def weather_tools() -> MCPServer:
    server = MCPServer("weather-tools", log_level="CRITICAL")

    @server.tool()
    def get_weather(city: str) -> str:
        return f"sunny in {city}"

    @server.tool()
    def broken(city: str) -> str:
        raise ToolError(f"no station in {city}")

    @server.tool()
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "at last"

    @server.prompt()
    def greet(name: str) -> str:
        return f"Greet {name}."

    @server.resource("weather://today")
    def today() -> str:
        return "sunny"

    return server


if __name__ == "__main__":
    weather_tools().run("stdio")
