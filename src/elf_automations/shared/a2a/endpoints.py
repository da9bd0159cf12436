"""Where a team is: said by the caller, by the environment, by the registry, or behind the gateway, in this order."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from elf_automations.errors import ConfigurationError, ElfTelemetryError

if TYPE_CHECKING:
    from elf_automations.registry import UnifiedRegistry

logger = logging.getLogger(__name__)

ENDPOINTS_VARIABLE: Final = "ELF_A2A_ENDPOINTS"
GATEWAY_VARIABLE: Final = "A2A_GATEWAY_URL"
_REGISTRY_SECONDS: Final = 5.0
_MOST_TEAMS: Final = 1000
_Answer = TypeVar("_Answer")


class TeamNotFoundError(ElfTelemetryError):
    """Nobody knows where a team is."""


class Endpoints:
    """Finds the base URL of a team; a gateway serves team `x` below `<gateway>/x`, or where its `{team}` says."""

    def __init__(self, stated: Mapping[str, str] | None, gateway_url: str | None, *, use_gateway: bool) -> None:
        self._stated = dict(stated or {})
        self._gateway_url = gateway_url
        self._use_gateway = use_gateway

    async def locate(self, team: str) -> str:
        """Return the base URL of `team`.

        Raises TeamNotFoundError, naming where it looked, and ConfigurationError for a malformed
        ELF_A2A_ENDPOINTS. A registry that cannot be asked within 5 s is passed over.
        """
        known = self.stated().get(team) or await _registered(team) or self._behind_gateway(team)
        if known:
            return known
        gateway = "no gateway is set" if self._use_gateway else "the gateway is switched off"
        message = (
            f"no A2A endpoint is known for team {team!r}: it is not in endpoints=, {ENDPOINTS_VARIABLE} or the "
            f"registry, and {gateway}; register the team with its endpoint_url, or set "
            f"{ENDPOINTS_VARIABLE}={team}=http://host:port"
        )
        raise TeamNotFoundError(message)

    def stated(self) -> dict[str, str]:
        """Return the teams named by the caller and by ELF_A2A_ENDPOINTS; the caller wins."""
        return {**_from_environment(), **self._stated}

    async def known(self) -> dict[str, str]:
        """Return every team with a known endpoint: the registry's, and those stated, which win."""
        return {**await _all_registered(), **self.stated()}

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


async def _registered(team: str) -> str | None:
    return await _asked(lambda registry: registry.resolve_endpoint(team, entity_type="team"))


async def _all_registered() -> dict[str, str]:
    rows = await _asked(lambda registry: registry.list(entity_type="team", limit=_MOST_TEAMS))
    return {row["entity_id"]: row["endpoint_url"] for row in rows or () if row.get("endpoint_url")}


async def _asked(question: Callable[[UnifiedRegistry], _Answer]) -> _Answer | None:
    """Return the registry's answer, asked in a thread; None when there is no registry or it takes over 5 s."""

    def ask() -> _Answer:
        from elf_automations.registry import UnifiedRegistry  # noqa: PLC0415  (who has no registry needs no driver)

        with UnifiedRegistry() as registry:
            return question(registry)

    try:
        return await asyncio.wait_for(asyncio.to_thread(ask), _REGISTRY_SECONDS)
    except Exception:
        logger.debug("the registry could not be asked", exc_info=True)
        return None
