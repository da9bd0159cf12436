"""Where a team is: said by the caller, by the environment, by the registry, or behind the gateway, in this order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from urllib.parse import quote

from elf_automations.errors import ConfigurationError, ElfTelemetryError
from elf_automations.registry import UnifiedRegistry
from elf_automations.registry.default import default_registry
from elf_automations.shared.a2a.choosing import TeamNotFoundError
from elf_automations.storage.target import choose_target

__all__ = ["Endpoints", "Location", "TeamNotFoundError"]

ENDPOINTS_VARIABLE: Final = "ELF_A2A_ENDPOINTS"
GATEWAY_VARIABLE: Final = "A2A_GATEWAY_URL"
_REGISTRY_SECONDS: Final = 5.0
_MOST_TEAMS: Final = 1000
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Location:
    """The base URL of a team; behind a gateway it says nothing of where the team itself is."""

    url: str
    behind_gateway: bool = False


class _RegistryAway(Exception):  # noqa: N818  (never leaves this module)
    """The registry cannot be asked now, and why."""


class Endpoints:
    """Finds the base URL of a team; a gateway serves team `x` below `<gateway>/x`, or where its `{team}` says."""

    def __init__(self, stated: Mapping[str, str] | None, gateway_url: str | None, *, use_gateway: bool) -> None:
        self._stated = dict(stated or {})
        self._gateway_url = gateway_url
        self._use_gateway = use_gateway

    async def locate(self, team: str) -> Location:
        """Return where `team` is.

        Raises TeamNotFoundError, naming where it looked, and ConfigurationError for a malformed
        ELF_A2A_ENDPOINTS. A registry that cannot be asked within 5 s is passed over.
        """
        stated = self.stated().get(team)
        if stated:
            return Location(stated)
        away = ""
        try:
            registered = await _asked(lambda registry: registry.resolve_endpoint(team, entity_type="team"))
            if registered:
                return Location(registered)
        except _RegistryAway as reason:
            away = f" (which could not be asked: {reason})"
        behind = self._behind_gateway(team)
        if behind:
            return Location(behind, behind_gateway=True)
        gateway = "no gateway is set" if self._use_gateway else "the gateway is switched off"
        message = (
            f"no A2A endpoint is known for team {team!r}: it is not in endpoints=, {ENDPOINTS_VARIABLE} or the "
            f"registry{away}, and {gateway}; register the team with its endpoint_url, or set "
            f"{ENDPOINTS_VARIABLE}={team}=http://host:port"
        )
        raise TeamNotFoundError(message)

    def stated(self) -> dict[str, str]:
        """Return the teams named by the caller and by ELF_A2A_ENDPOINTS; the caller wins."""
        return {**_from_environment(), **self._stated}

    async def known(self) -> dict[str, str]:
        """Return every team with a known endpoint: the registry's, and those stated, which win."""
        rows, _ = await self.registered()
        registered = {str(row["entity_id"]): str(row["endpoint_url"]) for row in rows if row["endpoint_url"]}
        return {**registered, **self.stated()}

    async def registered(self) -> tuple[list[dict[str, Any]], str]:
        """Return the registry's rows of teams that can be reached, and why there are none when it is away."""
        try:
            rows = await _asked(lambda registry: registry.list(entity_type="team", limit=_MOST_TEAMS))
        except _RegistryAway as reason:
            return [], f"the registry could not be asked: {reason}"
        stated = self.stated()
        reachable = [
            row
            for row in rows or ()
            if row["endpoint_url"] or row["entity_id"] in stated or self._behind_gateway(row["entity_id"])
        ]
        return reachable, "" if rows is not None else "no registry is configured"

    def _behind_gateway(self, team: str) -> str | None:
        gateway = (self._gateway_url or os.environ.get(GATEWAY_VARIABLE)) if self._use_gateway else None
        if not gateway:
            return None
        name = quote(team, safe="")
        return gateway.replace("{team}", name) if "{team}" in gateway else f"{gateway.rstrip('/')}/{name}"


def _from_environment() -> dict[str, str]:
    pairs = [pair.strip() for pair in os.environ.get(ENDPOINTS_VARIABLE, "").split(",") if pair.strip()]
    found: dict[str, str] = {}
    for pair in pairs:
        team, separator, url = pair.partition("=")
        if not separator or not team.strip() or "://" not in url:
            message = f"{ENDPOINTS_VARIABLE} holds {pair!r}: every entry is team=url, as in sales-team=http://host:9001"
            raise ConfigurationError(message)
        found[team.strip()] = url.strip()
    return found


async def _asked(question: Callable[[UnifiedRegistry], _Answer]) -> _Answer | None:
    """Return the registry's answer, asked in a thread; None when none is configured.

    Raises _RegistryAway when it does not answer within 5 s, or refuses.
    """

    def ask() -> _Answer | None:
        shared = default_registry()
        if shared is not None:
            return question(shared)
        if choose_target() is None:
            return None
        with UnifiedRegistry() as registry:  # telemetry is switched off; where teams are is still worth knowing
            return question(registry)

    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), _REGISTRY_SECONDS)
    except TimeoutError:
        message = f"no answer within {_REGISTRY_SECONDS:g} s"
        raise _RegistryAway(message) from None
    except ElfTelemetryError as error:
        raise _RegistryAway(str(error)) from error
