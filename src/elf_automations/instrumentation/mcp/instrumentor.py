"""`MCPInstrumentor`: turns the instrumentation of the MCP SDK on and off."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider, get_tracer

# These import the SDK here, at the top, so that `opentelemetry-instrument` skips us where it is missing.
from elf_automations.instrumentation.mcp.metrics import durations
from elf_automations.instrumentation.mcp.operation import Instruments
from elf_automations.instrumentation.mcp.points import points_of_fastmcp, points_of_major
from elf_automations.instrumentation.patches import Patches

logger = logging.getLogger(__name__)

SCOPE: Final = "elf-automations.mcp"
# FastMCP is patched once it is loaded by somebody else; a server of it is running by its first request.
_FASTMCP_LOADED: Final = "fastmcp.server.telemetry"


class MCPInstrumentor(BaseInstrumentor):
    """Instruments the official MCP SDK (1.x and 2.x) and FastMCP (3 and 4) on top of it.

    One span a call and side, its context in `_meta`, its true outcome, and the convention's four histograms.
    `MCPInstrumentor().instrument(tracer_provider=..., meter_provider=...)`; without arguments the global providers
    are used, as under `opentelemetry-instrument`. `uninstrument()` puts every patched object back.
    """

    _patches = Patches("mcp")
    _fastmcp = Patches("fastmcp")
    _instruments: Instruments | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the SDK releases this works with."""
        return ("mcp >= 1.24, < 3",)

    def _instrument(self, **kwargs: Any) -> None:
        try:
            self._apply(kwargs.get("tracer_provider"), kwargs.get("meter_provider"))
        except Exception:
            logger.warning("the MCP SDK could not be instrumented; its calls are not traced", exc_info=True)

    def _apply(self, provider: TracerProvider | None, meters: MeterProvider | None) -> None:
        instruments = self._instruments = Instruments(
            get_tracer(SCOPE, version("elf-automations"), provider), durations(SCOPE, meters)
        )

        looked = False

        def prepare() -> None:
            nonlocal looked
            if not looked and _FASTMCP_LOADED in sys.modules and self._patches.in_place:
                looked = True
                self._fastmcp.apply(points_of_fastmcp(provider, instruments))

        major = int(version("mcp").partition(".")[0])
        self._patches.apply(points_of_major(major, instruments, prepare, provider))
        prepare()

    def _uninstrument(self, **_: Any) -> None:
        if self._instruments is not None:
            self._instruments.on = False
        self._fastmcp.restore()
        self._patches.restore()
