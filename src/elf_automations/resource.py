"""Who this process is, as OpenTelemetry resource attributes (`elf.entity.*`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource, ResourceDetector

from elf_automations.conventions import elf
from elf_automations.errors import ConfigurationError
from elf_automations.settings import Settings, load_settings

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

__all__ = ["EntityResourceDetector", "entity_attributes"]


def entity_attributes(settings: Settings) -> dict[str, AttributeValue]:
    """Return the `elf.entity.*` attributes of `settings`, empty when no entity id is set."""
    if not settings.entity_id:
        return {}
    stated: dict[str, AttributeValue | None] = {
        elf.ELF_ENTITY_ID: settings.entity_id,
        elf.ELF_ENTITY_TYPE: settings.entity_type,
        elf.ELF_ENTITY_NAME: settings.entity_name,
        elf.ELF_ENTITY_CAPABILITIES: settings.entity_capabilities or None,
        elf.ELF_ENTITY_PARENT: settings.entity_parent,
        elf.ELF_ENTITY_ENDPOINT: settings.entity_endpoint,
    }
    return {name: value for name, value in stated.items() if value is not None}


class EntityResourceDetector(ResourceDetector):
    """Adds `elf.entity.*` from `ELF_ENTITY_*`; select it with `OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=elf_entity`."""

    def detect(self) -> Resource:
        """Return the entity's attributes; a bad setting costs the attributes, never the process."""
        try:
            return Resource(entity_attributes(load_settings()))
        except ConfigurationError:
            return Resource({})
