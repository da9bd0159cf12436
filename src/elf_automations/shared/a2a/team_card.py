"""The Agent Card of a team, from a few words."""

from __future__ import annotations

from collections.abc import Sequence

from a2a.types.a2a_pb2 import AgentCapabilities, AgentCard, AgentInterface, AgentProvider, AgentSkill
from a2a.utils.constants import PROTOCOL_VERSION_CURRENT

__all__ = ["team_card"]

_TEXT = ("text/plain",)
# A card has to name a skill (A2A specification, field presence).
_ANY_SKILL = ("tasks",)


def team_card(
    team_id: str,
    interfaces: Sequence[tuple[str, str]],
    *,
    skills: Sequence[str | AgentSkill] = (),
    description: str | None = None,
    version: str = "1.0.0",
    provider: tuple[str, str] | None = None,
    streaming: bool = True,
) -> AgentCard:
    """Return a card whose name is the team's id.

    `interfaces` are (binding, address), best first; a skill given as a word is its id, name, description and tag;
    `provider` is an organization and its URL. A team without a word on its skills takes "tasks".
    """
    return AgentCard(
        name=team_id,
        description=description or f"The team {team_id}",
        version=version,
        provider=AgentProvider(organization=provider[0], url=provider[1]) if provider else None,
        supported_interfaces=[
            AgentInterface(url=address, protocol_binding=binding, protocol_version=PROTOCOL_VERSION_CURRENT)
            for binding, address in interfaces
        ],
        capabilities=AgentCapabilities(streaming=streaming),
        default_input_modes=_TEXT,
        default_output_modes=_TEXT,
        skills=[
            AgentSkill(id=skill, name=skill, description=skill, tags=[skill]) if isinstance(skill, str) else skill
            for skill in skills or _ANY_SKILL
        ],
    )
