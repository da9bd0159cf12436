"""What an Agent Card tells the registry: it makes an unknown team known, and fills what nobody said of a known one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from elf_automations.errors import ConfigurationError
from elf_automations.model import AttributeValue, Entity
from elf_automations.model.redact import bounded_metadata
from elf_automations.registry.background import background_of
from elf_automations.registry.default import default_registry
from elf_automations.registry.unified import UnifiedRegistry
from elf_automations.registry.words import InvalidEntityError, named, text, texts
from elf_automations.storage.target import choose_target

__all__ = ["CardsSeen", "team_of_card"]

logger = logging.getLogger(__name__)


def team_of_card(entity_id: str, card: Mapping[str, Any], endpoint_url: str | None = None) -> Entity:
    """Return the registry's entry for the team `entity_id` with this Agent Card.

    `card` is the card's JSON (A2A 1.0 or 0.3), `endpoint_url` where it was found. Skills become capabilities; the
    description, the provider and a name that is not the id go into the metadata. Raises InvalidEntityError for an id
    the registry does not take.
    """
    provider = _object(card.get("provider"))
    told: dict[str, AttributeValue] = {
        "description": _said(card.get("description")),
        "provider": _said(provider.get("organization")),
        "provider_url": _said(provider.get("url")),
        "agent_name": _said(card.get("name")) if card.get("name") != entity_id else None,
    }
    skills = [_object(skill) for skill in cast("Sequence[object]", card.get("skills") or ())]
    offered = [name for skill in skills if (name := _said(skill.get("id")) or _said(skill.get("name")))]
    return Entity(
        entity_id=named(entity_id, "entity_id"),
        entity_type="team",
        entity_name=entity_id,
        endpoint_url=text(endpoint_url),
        version=_said(card.get("version")),
        capabilities=tuple(texts(offered) or ()),
        metadata=bounded_metadata({name: value for name, value in told.items() if value}),
    )


class CardsSeen:
    """Tells the registry of Agent Cards, each once until it changes; in the background, and never raising.

    A card is what others saw of a team: it makes an unknown team known and fills gaps, as telemetry does, and what a
    team or its factory registered stays. Without a database nothing happens.
    """

    def __init__(self, registry: UnifiedRegistry | None = None) -> None:
        """Tell `registry`, else the one the environment names."""
        self._registry = registry
        self._told: dict[str, Entity] = {}

    def tell(self, entity_id: str, card: Mapping[str, Any], endpoint_url: str | None) -> None:
        """Register or refresh the team `entity_id` by its card, as `team_of_card` reads it; returns at once."""
        try:
            seen = team_of_card(entity_id, card, endpoint_url)
            if self._told.get(entity_id) == seen:
                return
            registry = self._registry or _configured()
            if registry is None:
                return
            self._told[entity_id] = seen
            background_of(registry).submit(registry, (entity_id, "team"), "Agent Card", lambda to: to.observe([seen]))
        except InvalidEntityError as error:
            logger.warning("an Agent Card is not registered: %s", error)
        except Exception:
            logger.debug("an Agent Card is not registered", exc_info=True)


def _configured() -> UnifiedRegistry | None:
    try:
        return default_registry() if choose_target() is not None else None
    except ConfigurationError:
        return None


def _object(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _said(value: object) -> str | None:
    return text(value) if isinstance(value, str) and value else None
