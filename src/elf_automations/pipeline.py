"""`configure()`: from spans to rows in one call, joining whatever OpenTelemetry set-up is already there."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider

from elf_automations.errors import ElfTelemetryError
from elf_automations.instrumentation.identity import set_process_entity
from elf_automations.instrumentation.trace_state import join_propagator
from elf_automations.model import identify
from elf_automations.resource import entity_attributes
from elf_automations.settings import Settings, load_settings, misspelt_variables
from elf_automations.storage.target import choose_target
from elf_exporters import CommunicationSpanProcessor, CommunicationTelemetryExporter, live_exporters

__all__ = ["Telemetry", "configure", "ensure_pipeline"]

logger = logging.getLogger(__name__)


class Telemetry:
    """What `configure()` set up; `enabled` is False when there is no database to write to."""

    def __init__(self, exporter: CommunicationTelemetryExporter | None) -> None:
        self.exporter = exporter

    @property
    def enabled(self) -> bool:
        """Whether calls become rows."""
        return self.exporter is not None and self.exporter.enabled

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        """Wait until every call made so far is stored; False when `timeout_seconds` was not enough."""
        return self.exporter is None or self.exporter.force_flush(int(timeout_seconds * 1000))

    def shutdown(self) -> None:
        """Store what is left and stop; later calls are no longer recorded."""
        if self.exporter is not None:
            self.exporter.shutdown()


_lock: Final = threading.Lock()
_state: dict[str, Telemetry] = {}


def configure(
    *, tracer_provider: TracerProvider | None = None, instrument: bool = True, **settings: object
) -> Telemetry:
    """Send every MCP, A2A and n8n call of this process to the database; call it once at start, twice is harmless.

    `settings` are the `ELF_*` settings by their lower-case names (`database_url=...`, `entity_id=...`); what is
    not given comes from the environment. An existing SDK provider is joined with a span processor; one is made
    only where none is set. With `instrument` the installed MCP and A2A SDKs are instrumented as well, and the global
    propagator also tells in `tracestate` who calls. Without a database everything stays off, with one INFO line.

    Raises ConfigurationError for an unknown or malformed setting.
    """
    chosen = load_settings(**settings)
    with _lock:
        for line in misspelt_variables(os.environ):
            logger.warning(line)
        telemetry = _state.get("telemetry")
        if telemetry is None:
            telemetry = _start(chosen, tracer_provider, settings)
            _state["telemetry"] = telemetry
    if instrument and telemetry.enabled:
        join_propagator()
        _instrument()
    return telemetry


def ensure_pipeline() -> None:
    """Set up the pipeline from the environment at first use, unless one is there already; never raises."""
    if "telemetry" in _state:
        return
    try:
        configure(instrument=False)
    except ElfTelemetryError as error:
        _state["telemetry"] = Telemetry(None)
        logger.error("telemetry is off: %s", error)  # noqa: TRY400  (one line, no traceback)
    except Exception:
        _state["telemetry"] = Telemetry(None)
        logger.debug("telemetry could not be set up", exc_info=True)


def _start(settings: Settings, provider: TracerProvider | None, stated: Mapping[str, Any]) -> Telemetry:
    existing = next(iter(live_exporters()), None)
    if existing is not None:
        return Telemetry(existing)
    attributes = entity_attributes(settings)
    choose_target(str(stated["database_url"]) if stated.get("database_url") else None, argument="database_url")
    exporter = CommunicationTelemetryExporter(**stated)
    if not exporter.enabled:
        return Telemetry(None)
    if attributes:
        set_process_entity(identify(attributes))
    joined = provider or _provider(Resource.create(attributes))
    if joined is None:
        logger.warning(
            "telemetry is off: the global tracer provider is not the OpenTelemetry SDK's and cannot be joined; "
            "pass configure(tracer_provider=...)"
        )
        exporter.shutdown()
        return Telemetry(None)
    joined.add_span_processor(CommunicationSpanProcessor(exporter))
    return Telemetry(exporter)


def _provider(resource: Resource) -> TracerProvider | None:
    current = trace.get_tracer_provider()
    if isinstance(current, TracerProvider):
        return current
    if not isinstance(current, trace.ProxyTracerProvider):
        return None
    trace.set_tracer_provider(TracerProvider(resource=resource))
    made = trace.get_tracer_provider()
    return made if isinstance(made, TracerProvider) else None


def _instrument() -> None:
    for start in (_instrument_mcp, _instrument_a2a):
        _if_installed(start)


def _if_installed(start: Callable[[], None]) -> None:
    try:
        start()
    except ImportError:
        logger.debug("an SDK is not installed and stays uninstrumented", exc_info=True)


def _instrument_mcp() -> None:
    from elf_automations.instrumentation.mcp import MCPInstrumentor  # noqa: PLC0415  (optional dependency)

    instrumentor = MCPInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()


def _instrument_a2a() -> None:
    from elf_automations.instrumentation.a2a import A2AInstrumentor  # noqa: PLC0415  (optional dependency)

    instrumentor = A2AInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
