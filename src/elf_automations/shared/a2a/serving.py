"""`serve_team`: an agent as a team of the registry, instrumented, that tells when it is there and how it is."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.tasks import InMemoryTaskStore, TaskStore
from a2a.types.a2a_pb2 import AgentCard, AgentSkill
from a2a.utils.constants import AGENT_CARD_WELL_KNOWN_PATH
from opentelemetry import context as otel_context
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from elf_automations.instrumentation.a2a import A2AInstrumentor
from elf_automations.instrumentation.identity import with_actor
from elf_automations.model import AttributeValue, EntityRef
from elf_automations.pipeline import ensure_pipeline
from elf_automations.registry import HealthReporter, Lifecycle, UnifiedRegistry
from elf_automations.registry.health import Probe
from elf_automations.shared.a2a.draining import DrainingExecutor
from elf_automations.shared.a2a.listening import Addresses, TeamServers
from elf_automations.shared.a2a.team_card import team_card

__all__ = ["ServedTeam", "serve_team"]

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
CardOf: TypeAlias = Callable[[Sequence[tuple[str, str]]], AgentCard]


def serve_team(
    team_id: str,
    executor: AgentExecutor,
    *,
    skills: Sequence[str | AgentSkill] = (),
    description: str | None = None,
    version: str = "1.0.0",
    provider: tuple[str, str] | None = None,
    streaming: bool = True,
    host: str = "127.0.0.1",
    port: int = 0,
    url: str | None = None,
    grpc_port: int | None = None,
    parent_entity_id: str | None = None,
    metadata: Mapping[str, AttributeValue] | None = None,
    registry: UnifiedRegistry | None = None,
    registered_by: str = "team_factory",
    health: Probe | None = None,
    health_interval: float = 30.0,
    task_store: TaskStore | None = None,
    stop_seconds: float = 5.0,
    enable_telemetry: bool = True,
) -> ServedTeam:
    """Make an agent a team: enter what this returns with `async with`, or let its `run()` serve until a signal.

    While it is served the registry has it as active at its URL, with its skills as capabilities, and hears of its
    health; afterwards it is stopped, or in error with the cause. The A2A SDK is instrumented; calls that the executor
    makes are the team's. Without a database the team is served all the same.

    Args:
        team_id: the team's entity id, and the name on its Agent Card.
        executor: the agent, as the A2A SDK takes it.
        skills: what it can do: words, or the SDK's `AgentSkill`.
        description: what it is for.
        version: of its software.
        provider: the organization that runs it, and its URL.
        streaming: whether it streams the events of a task.
        host: the address to listen on.
        port: for JSON-RPC, HTTP+JSON and the Agent Card; 0 takes a free one.
        url: how others reach it, when that is not `http://host:port`.
        grpc_port: for gRPC, 0 takes a free one; None: no gRPC.
        parent_entity_id: the entity it belongs to.
        metadata: anything else worth keeping in the registry; credentials are redacted.
        registry: where to register; default: what the environment names.
        registered_by: who says so.
        health: a URL or a callback, as `HealthReporter` takes it; default: its own Agent Card, read over HTTP.
        health_interval: seconds between two looks.
        task_store: where tasks are kept; default: in memory.
        stop_seconds: how long tasks under way may go on when it stops.
        enable_telemetry: False instruments nothing.

    Entering raises ConfigurationError when an address cannot be had.
    """
    description_of: dict[str, Any] = {
        "capabilities": [skill if isinstance(skill, str) else skill.id or skill.name for skill in skills] or None,
        "parent_entity_id": parent_entity_id,
        "metadata": {**_told(description, provider), **(metadata or {})} or None,
        "registered_by": registered_by,
        "registration_source": "factory",
        "version": version,
    }

    def card(interfaces: Sequence[tuple[str, str]]) -> AgentCard:
        return team_card(
            team_id,
            interfaces,
            skills=skills,
            description=description,
            version=version,
            provider=provider,
            streaming=streaming,
        )

    def life(addresses: Addresses) -> tuple[Lifecycle, HealthReporter]:
        probe = health if health is not None else addresses.local_url + AGENT_CARD_WELL_KNOWN_PATH
        reporter = HealthReporter(team_id, "team", probe=probe, interval=health_interval, registry=registry)
        described = {**description_of, "endpoint_url": addresses.url}
        return Lifecycle(team_id, "team", described, registry, reporter), reporter

    return ServedTeam(
        team_id,
        executor,
        open_addresses=lambda: Addresses(team_id, host, port, url, grpc_port),
        card=card,
        life=life,
        task_store=task_store,
        stop_seconds=stop_seconds,
        enable_telemetry=enable_telemetry,
    )


class ServedTeam:
    """A team while it is served; made by `serve_team`, entered once."""

    card: AgentCard
    """Its Agent Card, once it is entered."""

    def __init__(
        self,
        team_id: str,
        executor: AgentExecutor,
        *,
        open_addresses: Callable[[], Addresses],
        card: CardOf,
        life: Callable[[Addresses], tuple[Lifecycle, HealthReporter]],
        task_store: TaskStore | None,
        stop_seconds: float,
        enable_telemetry: bool,
    ) -> None:
        self.team_id = team_id
        self._executor = executor
        self._open_addresses = open_addresses
        self._card_of = card
        self._life_of = life
        self._task_store = task_store
        self._stop_seconds = stop_seconds
        self._enable_telemetry = enable_telemetry

    @property
    def url(self) -> str:
        """Where it is reached, once it is entered: the base URL of its Agent Card."""
        return self._addresses.url

    async def wait(self) -> None:
        """Wait until `stop()`, or until the servers end; raises what ended them, if anything did."""
        waiting = {asyncio.ensure_future(self._told.wait()), asyncio.ensure_future(self._servers.ended())}
        try:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
        for each in done:
            each.result()

    def stop(self) -> None:
        """End `wait()` and `run()`."""
        self._told.set()

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then finish what is under way; for a process that is this team."""
        asyncio.run(self._until_told())

    async def __aenter__(self) -> Self:
        """Serve: returns when the team can be called."""
        self._told = asyncio.Event()
        async with contextlib.AsyncExitStack() as undoing:
            self._addresses = self._open_addresses()
            undoing.push_async_callback(self._addresses.close)
            if self._enable_telemetry:
                _instrument()
            self._life, self._health = self._life_of(self._addresses)
            self.card = self._card_of(self._addresses.interfaces())
            self._working = DrainingExecutor(self._executor)
            handler = DefaultRequestHandler(self._working, self._task_store or InMemoryTaskStore(), self.card)
            self._servers = TeamServers(self._addresses, self.card, handler, self._stop_seconds)
            undoing.push_async_callback(self._servers.stop, cut_off=True)
            # The body is not the team: what it does is its own, and no span of its caller is a parent of requests.
            self._context = contextvars.copy_context()
            self._context.run(lambda: otel_context.attach(set_span_in_context(INVALID_SPAN)))
            serving = self._context.copy()
            team = EntityRef(self.team_id, "team")
            serving.run(lambda: otel_context.attach(with_actor(otel_context.get_current(), team)))
            await self._servers.start(serving)
            self._context.run(self._life.__enter__)
            undoing.pop_all()
        logger.info("team %s is served at %s", self.team_id, self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop: tasks under way may go on for `stop_seconds`; then the registry is told how it ended."""
        ended: BaseException | None = error
        self._health.stop()  # a server that is going away is not ill
        try:
            self._servers.close()
            idle = await self._working.idle(self._stop_seconds)
            if not idle:
                logger.warning("team %s stops in the middle of a task", self.team_id)
            await self._servers.stop(cut_off=not idle)
        except BaseException as failure:
            ended = error or failure
            raise
        finally:
            self._context.run(self._life.__exit__, type(ended) if ended else None, ended, None)

    async def _until_told(self) -> None:
        loop = asyncio.get_running_loop()
        async with self:
            for number in _SIGNALS:
                with contextlib.suppress(NotImplementedError, ValueError, RuntimeError):  # Windows, or no main thread
                    loop.add_signal_handler(number, self.stop)
            await self.wait()


def _told(description: str | None, provider: tuple[str, str] | None) -> dict[str, str]:
    """Return what the team says of itself in the words of its card's entry in the registry."""
    organization, url = provider or ("", "")
    words = {"description": description, "provider": organization, "provider_url": url}
    return {name: word for name, word in words.items() if word}


def _instrument() -> None:
    ensure_pipeline()
    instrumentor = A2AInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument()
