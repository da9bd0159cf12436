"""The spans of polled executions to an OTLP backend as well, as n8n itself would have sent them."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from elf_automations.conventions import n8n
from elf_automations.errors import ConfigurationError
from elf_automations.instrumentation.n8n_emission import emit
from elf_automations.model import SpanRecord
from elf_automations.model.n8n_synthesis import SCOPE
from elf_automations.n8n.api import N8NUnavailableError

_PATH: Final = "/v1/traces"
_LOGGER: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


def traces_endpoint(said: str | None, environ: Mapping[str, str]) -> str | None:
    """Return where spans go: to `said`, with or without /v1/traces, else where the environment says; None: nowhere.

    OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is used as it is, OTEL_EXPORTER_OTLP_ENDPOINT without the signal's path. Source:
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp
    """
    if said:
        bare = said.strip().rstrip("/")
        return bare if bare.endswith(_PATH) else bare + _PATH
    if whole := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip():
        return whole
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    return base.rstrip("/") + _PATH if base else None


class OtlpExport:
    """Sends spans over OTLP/HTTP and waits for the answer; `OTEL_EXPORTER_OTLP_*` says headers, TLS and time limit."""

    def __init__(self, endpoint: str) -> None:
        """Send to `endpoint`, a whole URL; see `traces_endpoint`."""
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(f"the OTLP endpoint {endpoint!r} is no http(s) URL: write http://127.0.0.1:4318")
        self._endpoint = endpoint
        self._exporter = _exporter(self._endpoint)
        self._kept = _Kept()
        self._provider = TracerProvider(sampler=sampling.ALWAYS_ON, shutdown_on_exit=False)
        self._provider.add_span_processor(self._kept)
        self.sent = 0

    def __call__(self, spans: Sequence[SpanRecord]) -> None:
        """Send `spans`; raises N8NUnavailableError when the backend did not take them within the exporter's time."""
        tracer = self._provider.get_tracer(SCOPE)
        # Parents come first within an execution, and executions follow each other.
        for _, execution in groupby(spans, key=lambda span: span.attributes.get(n8n.N8N_EXECUTION_ID)):
            if not emit(list(execution), tracer):
                raise ConfigurationError(
                    "spans cannot be made for --otlp-endpoint: OTEL_SDK_DISABLED switches them off"
                )
        made, self._kept.spans = self._kept.spans, []
        with _heard() as said:
            sent = not made or self._exporter.export(made) is SpanExportResult.SUCCESS
        if not sent:
            cause = f" ({said[-1]})" if said else ""
            raise N8NUnavailableError(
                f"the OTLP backend at {self._endpoint} does not take spans{cause}: their rows are stored, and the next "
                "pass tells it again"
            )
        self.sent += len(made)

    def close(self) -> None:
        """Let go of the connection."""
        self._exporter.shutdown()


class _Kept(SpanProcessor):
    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def _exporter(endpoint: str) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - it may not be installed
            OTLPSpanExporter,
        )
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"--otlp-endpoint needs {error.name}, which is not installed: pip install 'elf-automations[otlp]'"
        ) from None
    return OTLPSpanExporter(endpoint=endpoint)


@contextmanager
def _heard() -> Generator[list[str]]:
    """Collect what the exporter logs, its only way to say why it failed, in place of printing it."""
    said: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage().partition("\n")[0][:300])

    logger, ear = logging.getLogger(_LOGGER), Ear()
    passes_on, logger.propagate = logger.propagate, False
    logger.addHandler(ear)
    try:
        yield said
    finally:
        logger.removeHandler(ear)
        logger.propagate = passes_on
