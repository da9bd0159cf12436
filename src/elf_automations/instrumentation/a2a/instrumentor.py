"""`A2AInstrumentor`: turns the instrumentation of the A2A SDK on and off."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final

# Here, at the top, so that `opentelemetry-instrument` skips us where the SDK is missing.
import a2a  # noqa: F401  # pyright: ignore[reportUnusedImport]
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # pyright: ignore[reportMissingTypeStubs]
from opentelemetry.trace import Tracer, TracerProvider, get_tracer
from packaging.specifiers import SpecifierSet

from elf_automations.instrumentation.patches import Patches, Point

logger = logging.getLogger(__name__)

SCOPE: Final = "elf-automations.a2a"
_SDK: Final = "a2a-sdk"
_RELEASES: Final = ">= 1.3, < 2"


class A2AInstrumentor(BaseInstrumentor):
    """Instruments the official A2A SDK (1.x): one span a call and side on every binding, with its true outcome.

    `A2AInstrumentor().instrument(tracer_provider=...)`; without arguments the global provider is used, as under
    `opentelemetry-instrument`. `uninstrument()` puts every patched object back. The SDK's own spans are silent
    meanwhile, unless `OTEL_INSTRUMENTATION_A2A_SDK_ENABLED=true` asks for them.
    """

    _patches = Patches("a2a-sdk")
    _provider: TracerProvider | None = None

    @property
    def tracer_provider(self) -> TracerProvider | None:
        """The provider this was instrumented with, None while off or on the global one."""
        return self._provider

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the SDK releases this works with."""
        return (f"{_SDK} {_RELEASES}",)

    def _instrument(self, **kwargs: Any) -> None:
        found = version(_SDK)
        if not SpecifierSet(_RELEASES).contains(
            found, prereleases=True
        ):  # reached when the caller asked to skip this check
            logger.warning("a2a-sdk %s is not instrumented; install a2a-sdk %s", found, _RELEASES)
            return
        try:
            self._provider = kwargs.get("tracer_provider")
            self._patches.apply(_patch_points(a2a_tracer(self._provider), self._patches.extend))
        except Exception:
            logger.warning("the A2A SDK could not be instrumented; its calls are not traced", exc_info=True)

    def _uninstrument(self, **kwargs: Any) -> None:  # noqa: ARG002  (the base class's signature)
        self._provider = None
        self._patches.restore()


def _patch_points(tracer: Tracer, wrap: Callable[[Sequence[Point]], None]) -> tuple[Point, ...]:
    # Not at the top: releases before 1.0 have none of what these import.
    from elf_automations.instrumentation.a2a.client_side import client_patch_points  # noqa: PLC0415
    from elf_automations.instrumentation.a2a.native import native_patch_points  # noqa: PLC0415
    from elf_automations.instrumentation.a2a.push import push_patch_points  # noqa: PLC0415
    from elf_automations.instrumentation.a2a.rejections import rejection_patch_points  # noqa: PLC0415
    from elf_automations.instrumentation.a2a.server_side import own_handler_points, server_patch_points  # noqa: PLC0415

    return (
        *native_patch_points(),
        *client_patch_points(tracer),
        *server_patch_points(tracer),
        *own_handler_points(tracer, wrap),
        *rejection_patch_points(tracer),
        *push_patch_points(tracer, wrap),
    )


def a2a_tracer(provider: TracerProvider | None = None) -> Tracer:
    """Return the tracer of A2A spans, of `provider` or of the global one."""
    return get_tracer(SCOPE, _own_version(), provider)


@cache
def _own_version() -> str:
    return version("elf-automations")
