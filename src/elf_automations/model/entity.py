"""Who takes part: naming an entity from a resource, and what the registry learns of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import datetime

from elf_automations.conventions import elf, otel
from elf_automations.model.immutable import changed, record
from elf_automations.model.records import Attributes, AttributeValue, ResourceRecord, first_text

ENTITY_TYPES: frozenset[str] = frozenset({"team", "mcp_server", "mcp_client", "n8n_workflow", "service"})
UNKNOWN_SERVICE = "unknown_service"
# The fields an entity may declare.
DESCRIPTION: tuple[str, ...] = (
    "entity_name",
    "endpoint_url",
    "namespace",
    "deployment_type",
    "version",
    "parent_entity_id",
    "capabilities",
)

_REGISTRY_TYPE: Mapping[str, str] = {
    "team": "team",
    "mcp": "mcp_server",
    "mcp_server": "mcp_server",
    "mcp_client": "mcp_client",
    "workflow": "n8n_workflow",
    "n8n_workflow": "n8n_workflow",
    "service": "service",
}
_ROW_TYPE: Mapping[str, str] = {"mcp_server": "mcp", "n8n_workflow": "workflow"}


@record(frozen=True, slots=True)
class EntityRef:
    """One end of a call: id and row type (team, workflow, service, mcp_client, mcp, external)."""

    id: str
    type: str

    @property
    def registry_type(self) -> str | None:
        """The `unified_registry.entity_type` of this end; None for what is never registered (external)."""
        return _REGISTRY_TYPE.get(self.type)


@record(frozen=True, slots=True, kw_only=True)
class Entity:
    """A registry entry as telemetry knows it, with the activity one batch adds to it.

    `calls` and `errors` are counts to add; an entity with `observed` False only adds activity and is not
    created from this sighting. `declared` names the fields that the entity says of itself: what others see of it
    changes none of them.
    """

    entity_id: str
    entity_type: str
    entity_name: str | None = None
    endpoint_url: str | None = None
    namespace: str | None = None
    deployment_type: str | None = None
    version: str | None = None
    parent_entity_id: str | None = None
    capabilities: tuple[str, ...] = ()
    metadata: Mapping[str, AttributeValue] = field(default_factory=dict[str, AttributeValue])
    observed: bool = True
    declared: tuple[str, ...] = ()
    calls: int = 0
    errors: int = 0
    last_activity: datetime | None = None


def row_type(entity_type: str) -> str:
    """Return the row's word for a registry type (`mcp_server` is `mcp`, `n8n_workflow` is `workflow`)."""
    return _ROW_TYPE.get(entity_type, entity_type)


def identify(attributes: Attributes) -> EntityRef:
    """Name the process behind resource `attributes`: `elf.entity.*`, else `service.name`.

    Source of the rule: design, section 4, Identity.
    """
    declared = first_text(attributes, elf.ELF_ENTITY_ID)
    if declared:
        return EntityRef(declared, row_type(first_text(attributes, elf.ELF_ENTITY_TYPE) or "service"))
    return EntityRef(first_text(attributes, otel.SERVICE_NAME) or UNKNOWN_SERVICE, "service")


def entity(resource: ResourceRecord) -> Entity | None:
    """Return the registry entry a resource declares, None for a process that declares none.

    Only an explicit `elf.entity.id` registers: a bare `service.name` may be any process's default.
    """
    attributes = resource.attributes
    entity_id = first_text(attributes, elf.ELF_ENTITY_ID)
    if not entity_id:
        return None
    declared_type = first_text(attributes, elf.ELF_ENTITY_TYPE) or "service"
    told = Entity(
        entity_id=entity_id,
        entity_type=declared_type if declared_type in ENTITY_TYPES else "service",
        entity_name=first_text(attributes, elf.ELF_ENTITY_NAME),
        endpoint_url=first_text(attributes, elf.ELF_ENTITY_ENDPOINT),
        namespace=first_text(attributes, otel.K8S_NAMESPACE_NAME, otel.SERVICE_NAMESPACE),
        deployment_type="k8s" if first_text(attributes, otel.K8S_DEPLOYMENT_NAME) else None,
        version=first_text(attributes, otel.SERVICE_VERSION),
        parent_entity_id=first_text(attributes, elf.ELF_ENTITY_PARENT),
        capabilities=_listed(attributes.get(elf.ELF_ENTITY_CAPABILITIES)),
    )
    declared = tuple(name for name in DESCRIPTION if getattr(told, name))
    return changed(told, entity_name=told.entity_name or entity_id, declared=declared)


def _listed(value: AttributeValue) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple):
        return tuple(part for part in value if isinstance(part, str) and part)
    return ()
