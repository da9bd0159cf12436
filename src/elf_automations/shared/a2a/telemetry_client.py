"""The guide's A2A client: every task sent, team looked for and card read is one span and one row."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from opentelemetry.instrumentation.utils import (  # pyright: ignore[reportMissingTypeStubs]
    suppress_instrumentation,
)
from opentelemetry.trace import Tracer, TracerProvider
from opentelemetry.util.types import AttributeValue

from elf_automations.conventions import elf
from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.instrumentation.a2a.attributes import call_attributes
from elf_automations.instrumentation.a2a.client_side import covered
from elf_automations.instrumentation.a2a.instrumentor import a2a_tracer
from elf_automations.instrumentation.a2a.methods import SEND, Method
from elf_automations.instrumentation.a2a.observation import Observation
from elf_automations.instrumentation.identity import acting_as
from elf_automations.instrumentation.spans import start_client_span
from elf_automations.model import EntityRef
from elf_automations.pipeline import ensure_pipeline
from elf_automations.shared.a2a.client import A2AClient, TeamNotFoundError
from elf_automations.shared.a2a.requests import TaskOrder
from elf_automations.shared.a2a.watching import Watching
from elf_automations.shared.a2a.witness import Witness

__all__ = ["A2AClientWithTelemetry", "TeamNotFoundError", "create_a2a_client"]

logger = logging.getLogger(__name__)

_CARD: Final = Method("GetAgentCard")
_DISCOVERY: Final = Method("DiscoverTeams")
_REGISTRY: Final = EntityRef("unified_registry", "service")
# Until the registry chose a team; of a type that is never registered.
_NOBODY_YET: Final = EntityRef("unknown", "external")


class A2AClientWithTelemetry(A2AClient):
    """`A2AClient` whose calls are recorded, each as one CLIENT span with this team as its source.

    Takes the place of `A2AClient`: same arguments, same results, same exceptions. With `enable_telemetry` False no
    span is made for its calls, not even by an instrumentor; `tracer_provider` (default: the A2A instrumentor's, else
    the global one) receives the spans.
    """

    def __init__(
        self,
        team_id: str,
        team_endpoint: str = "http://localhost:8090",
        timeout: float = 300,
        gateway_url: str | None = None,
        use_gateway: bool = True,
        enable_telemetry: bool = True,
        *,
        endpoints: Mapping[str, str] | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        super().__init__(team_id, team_endpoint, timeout, gateway_url, use_gateway, endpoints=endpoints)
        self.enable_telemetry = enable_telemetry
        self._tracer_provider = tracer_provider

    async def send_task(
        self,
        target_team: str | None,
        task_description: str,
        context: Mapping[str, Any] | None = None,
        deadline_seconds: float = 3600,
        required_capabilities: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Send a task and wait for its end, as `A2AClient.send_task`; the row keeps `task_description`, redacted."""
        order = TaskOrder(
            target_team=target_team,
            description=task_description,
            context=context,
            deadline_seconds=deadline_seconds,
            required_capabilities=required_capabilities,
        )
        needed = tuple(str(capability) for capability in required_capabilities or ())
        async with self._observed(
            SEND,
            EntityRef(target_team, "team") if target_team is not None else _NOBODY_YET,
            {elf.ELF_TASK_DESCRIPTION: str(task_description), elf.ELF_CAPABILITIES_REQUIRED: needed or None},
        ) as witness:
            return await self._send(order, witness)

    async def discover_teams(self, capability: str | None = None) -> list[dict[str, Any]]:
        """Return the known teams, as `A2AClient.discover_teams`."""
        needed = {elf.ELF_CAPABILITIES_REQUIRED: (str(capability),) if capability else None}
        async with self._observed(_DISCOVERY, _REGISTRY, needed):
            return await self._discover(capability)

    async def get_capabilities(self, target_team: str | None = None) -> dict[str, Any]:
        """Return what a team's Agent Card says, as `A2AClient.get_capabilities`."""
        async with self._observed(_CARD, EntityRef(target_team or self.team_id, "team"), {}) as witness:
            return await self._capabilities(target_team, witness)

    @asynccontextmanager
    async def _observed(
        self,
        method: Method,
        target: EntityRef,
        attributes: Mapping[str, AttributeValue | None],
    ) -> AsyncGenerator[Witness, None]:
        """Run the body as one call: its span is current and covers whatever the SDK does."""
        if not self.enable_telemetry:
            with suppress_instrumentation():
                yield Witness()
            return
        seen = self._start(method, target, attributes)
        if seen is None:
            yield Witness()
            return
        try:
            with seen.call.active():
                yield Watching(seen, self._tracer(), target.id)
        except BaseException as error:
            seen.fail(error)
            raise
        seen.conclude()

    def _start(
        self, method: Method, target: EntityRef, attributes: Mapping[str, AttributeValue | None]
    ) -> Observation | None:
        try:
            with acting_as(self.team_id):
                call = start_client_span(self._tracer(), method.name, call_attributes(method, "client"))
            call.set({elf.ELF_TARGET_ID: target.id, elf.ELF_TARGET_TYPE: target.type, **attributes})
            call.context = covered(call.context)
            return Observation(call, method)
        except Exception:
            logger.debug("an A2A call could not be traced", exc_info=True)
            return None

    def _tracer(self) -> Tracer:
        provider = self._tracer_provider or A2AInstrumentor().tracer_provider
        if provider is None:
            ensure_pipeline()
        return a2a_tracer(provider)


def create_a2a_client(
    team_id: str,
    team_endpoint: str = "http://localhost:8090",
    timeout: float = 300,
    gateway_url: str | None = None,
    use_gateway: bool = True,
    enable_telemetry: bool = True,
    *,
    endpoints: Mapping[str, str] | None = None,
    tracer_provider: TracerProvider | None = None,
) -> A2AClientWithTelemetry:
    """Return the client of team `team_id`; nothing is connected or looked up until its first call.

    `timeout` is in seconds. Where teams are found is told at `A2AClient`.
    """
    return A2AClientWithTelemetry(
        team_id,
        team_endpoint,
        timeout,
        gateway_url,
        use_gateway,
        enable_telemetry,
        endpoints=endpoints,
        tracer_provider=tracer_provider,
    )
