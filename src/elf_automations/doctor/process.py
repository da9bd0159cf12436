"""This process and what is installed: settings, the SDKs and their patch points, the name n8n."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any, Final

from opentelemetry.sdk.trace import TracerProvider
from packaging.requirements import Requirement

from elf_automations.doctor.checks import Check
from elf_automations.errors import ConfigurationError
from elf_automations.registry import N8NWorkflowRegistry
from elf_automations.settings import load_settings, misspelt_variables

_PACKAGE: Final = "elf-automations"
_SDKS: Final = (
    ("mcp", "elf_automations.instrumentation.mcp", "MCPInstrumentor"),
    ("a2a", "elf_automations.instrumentation.a2a", "A2AInstrumentor"),
)


def settings() -> list[Check]:
    """Return whether the settings can be read and mean what they were meant to."""
    misspelt = [Check("settings", "finding", line, "correct the name") for line in misspelt_variables(os.environ)]
    try:
        chosen = load_settings()
    except ConfigurationError as error:
        return [*misspelt, Check("settings", "misconfigured", str(error), "correct or unset it")]
    if not chosen.telemetry_enabled:
        says = "telemetry is switched off: nothing is recorded"
        mend = "unset OTEL_SDK_DISABLED" if os.environ.get("OTEL_SDK_DISABLED") else "unset ELF_TELEMETRY_ENABLED"
        return [*misspelt, Check("settings", "finding", says, mend)]
    if misspelt:
        return misspelt
    if not chosen.entity_id:
        return [
            Check("settings", "note", "ELF_ENTITY_ID is not set: calls are credited to the service.name of the process")
        ]
    return [Check("settings", "ok", f"this process is {chosen.entity_type} {chosen.entity_id}")]


def recording() -> bool:
    """Return whether the settings let an exporter store anything."""
    try:
        return load_settings().telemetry_enabled
    except ConfigurationError:
        return False


def sdks() -> list[Check]:
    """Return whether each SDK is installed in a release the instrumentor knows, and has all its patch points."""
    return [_sdk(extra, module, instrumentor) for extra, module, instrumentor in _SDKS]


def n8n_name() -> Check:
    """Return whether `n8n` is ours: a package of that name on the Python index hides it in a checkout."""
    try:
        module = importlib.import_module("n8n.workflow_registration")
        ours = getattr(module, "N8NWorkflowRegistry", None) is N8NWorkflowRegistry
    except Exception:
        ours = False
    if ours:
        return Check("n8n", "ok", "n8n.workflow_registration is ours")
    other = importlib.util.find_spec("n8n")
    where = f" at {other.origin}" if other is not None and other.origin else ""
    mend = "pip uninstall n8n, or install elf-automations as a wheel into an environment without it"
    return Check("n8n", "finding", f"another package n8n{where} hides n8n.workflow_registration", mend)


def _sdk(extra: str, module: str, name: str) -> Check:
    wanted = _requirement(extra)
    install = f"pip install '{_PACKAGE}[{extra}]'"
    try:
        installed = version(wanted.name)
    except PackageNotFoundError:
        return Check(extra, "note", f"{wanted.name} is not installed: nothing to instrument (else {install})")
    if installed not in wanted.specifier:
        says = f"{wanted.name} {installed} is not instrumented: {wanted.name}{wanted.specifier} is"
        return Check(extra, "finding", says, install)
    try:
        missing = _missing_patch_points(getattr(importlib.import_module(module), name))
    except ImportError as error:
        return Check(extra, "finding", f"{wanted.name} {installed} cannot be instrumented: {error}", install)
    if missing:
        return Check(extra, "finding", "; ".join(missing), f"upgrade {_PACKAGE}, or {install}")
    return Check(extra, "ok", f"{wanted.name} {installed} is instrumented, every patch point is there")


def _requirement(extra: str) -> Requirement:
    """Return which SDK, and which releases of it, an extra of ours names: the one place that says so."""
    for line in requires(_PACKAGE) or ():
        needed = Requirement(line)
        if needed.marker is not None and needed.marker.evaluate({"extra": extra}) and extra in needed.name:
            return needed
    message = f"{_PACKAGE} has no extra {extra}: is it installed with pip?"
    raise ConfigurationError(message)


def _missing_patch_points(instrumentor: Callable[[], Any]) -> list[str]:
    """Instrument for real, for a moment; return what it complained of."""
    made = instrumentor()
    if made.is_instrumented_by_opentelemetry:
        return []
    with overheard("elf_automations.instrumentation") as lines:
        made.instrument(tracer_provider=TracerProvider(shutdown_on_exit=False))
        made.uninstrument()
    return lines


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextmanager
def overheard(name: str) -> Generator[list[str]]:
    """Collect the warnings of a logger in place of showing them."""
    lines: list[str] = []
    logger, handler = logging.getLogger(name), _Collector(lines)
    passed_on, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.propagate = passed_on
