"""`UnifiedRegistry`: what register, update, list and resolve mean, whichever way the database is reached."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Any, Final, Self

from elf_automations.errors import ConfigurationError
from elf_automations.model import AttributeValue, Entity
from elf_automations.model.redact import bounded_metadata
from elf_automations.registry.over_https import SupabaseEntities
from elf_automations.registry.words import HEALTH, InvalidEntityError, known_health, known_type, named, text, texts
from elf_automations.storage.entities import EntityQuery, EntityStore, PostgresEntities
from elf_automations.storage.supabase import SupabaseRpc
from elf_automations.storage.target import (
    DATABASE_URL_SETTINGS,
    SUPABASE_KEY_SETTINGS,
    SUPABASE_URL_SETTING,
    PostgresTarget,
    Target,
    choose_target,
)

__all__ = ["HEALTH", "InvalidEntityError", "UnifiedRegistry"]

_MAX_LISTED: Final = 10_000


class UnifiedRegistry:
    """The one list of teams, MCP servers and clients, workflows and services, with their state and health.

    Made without I/O; the first use connects to what the settings name (see `elf_automations.storage.target`). Safe to
    use from several threads. Every method raises ConfigurationError when no database is configured,
    StorageUnavailableError when it cannot be reached, SchemaMissingError before `elf-telemetry setup`,
    StorageRefusedError when it refuses, InvalidEntityError for a word the registry does not know.
    """

    def __init__(self, database_url: str | None = None) -> None:
        """Use the database at `database_url`, else the one the environment names."""
        self._database_url = database_url
        self._target: Target | None = None
        self._opened: EntityStore | None = None
        self._owner = 0
        self._opening = Lock()

    @classmethod
    def over(cls, target: Target) -> Self:
        """Return a registry over a target that is chosen already; see `elf_automations.storage.target`."""
        registry = cls()
        registry._target = target
        return registry

    def register_entity(
        self,
        entity_id: str,
        entity_type: str,
        entity_name: str | None = None,
        *,
        registered_by: str = "api",
        metadata: Mapping[str, AttributeValue] | None = None,
        capabilities: Sequence[str] | None = None,
        endpoint_url: str | None = None,
        parent_entity_id: str | None = None,
        display_name: str | None = None,
        registration_source: str | None = None,
        namespace: str | None = None,
        deployment_type: str | None = None,
        tags: Sequence[str] | None = None,
        version: str | None = None,
        department: str | None = None,
    ) -> str:
        """Make the entity known, or bring what is known of it up to date; None leaves a column as it is.

        One that was deregistered is back by this: `registered` again, with a transition and a line in the audit.

        Args:
            entity_id: unique among the entities of its type.
            entity_type: team, mcp_server, mcp_client, n8n_workflow or service.
            entity_name: what people call it; default: the name on record, at first `entity_id`.
            registered_by: who says so; what telemetry saw never replaces what somebody else said.
            metadata: anything else worth keeping, as JSON; added to what is on record, credentials redacted.
            capabilities: what it can do.
            endpoint_url: where it is reached.
            parent_entity_id: the entity it belongs to.
            display_name: its name on dashboards.
            registration_source: the path by which it became known.
            namespace: of its deployment.
            deployment_type: such as k8s, n8n, local.
            tags: for finding it.
            version: of the software it runs.
            department: it works for.

        Returns:
            The id of its registry row, a UUID as text.
        """
        arguments = {
            "p_entity_id": named(entity_id, "entity_id"),
            "p_entity_type": known_type(entity_type),
            "p_entity_name": text(entity_name) or "",  # empty: the name on record, else the id
            "p_registered_by": text(registered_by),
            "p_metadata": bounded_metadata(metadata) if metadata is not None else None,
            "p_capabilities": texts(capabilities),
            "p_endpoint_url": text(endpoint_url),
            "p_parent_entity_id": text(parent_entity_id),
            "p_display_name": text(display_name),
            "p_registration_source": text(registration_source),
            "p_namespace": text(namespace),
            "p_deployment_type": text(deployment_type),
            "p_tags": texts(tags),
            "p_version": text(version),
            "p_department": text(department),
        }
        return str(self._call("register_entity", arguments))

    def update_state(
        self,
        entity_id: str,
        entity_type: str,
        new_state: str | None,
        *,
        health_status: str | None = None,
        updated_by: str = "api",
        reason: str | None = None,
    ) -> bool:
        """Set the entity's state (None keeps it) and its health (healthy, degraded, unhealthy, unknown; None keeps it).

        Returns whether the entity is known; an unknown one is not made.
        """
        arguments = {
            "p_entity_id": named(entity_id, "entity_id"),
            "p_entity_type": known_type(entity_type),
            "p_new_state": "" if new_state is None else named(new_state, "new_state"),  # empty keeps the state
            "p_health_status": known_health(health_status),
            "p_updated_by": text(updated_by),
            "p_reason": text(reason),
        }
        return bool(self._call("update_entity_state", arguments))

    def heartbeat(
        self,
        entity_id: str,
        entity_type: str,
        health_status: str = "healthy",
        *,
        updated_by: str = "heartbeat",
        reason: str | None = None,
    ) -> bool:
        """Report that the entity was looked at just now, and its health; a change of health is kept as a transition.

        Moves `last_health_check`. A sign of life is no call: `last_activity` stays where the last call left it.
        Returns whether the entity is known and not deleted.
        """
        arguments = {
            "p_entity_id": named(entity_id, "entity_id"),
            "p_entity_type": known_type(entity_type),
            "p_health_status": known_health(health_status),
            "p_updated_by": text(updated_by),
            "p_reason": text(reason),
        }
        return bool(self._call("record_entity_heartbeat", arguments))

    def deregister(
        self, entity_id: str, entity_type: str, *, deregistered_by: str = "api", reason: str | None = None
    ) -> bool:
        """Set the state `deleted`, with one line in the audit; the row and its history stay.

        Returns whether the entity is known.
        """
        arguments = {
            "p_entity_id": named(entity_id, "entity_id"),
            "p_entity_type": known_type(entity_type),
            "p_deregistered_by": text(deregistered_by),
            "p_reason": text(reason),
        }
        return bool(self._call("deregister_entity", arguments))

    def record_activity(self, entity_id: str, entity_type: str, *, is_error: bool = False) -> bool:
        """Count one activity of the entity, now. Returns whether the entity is known; an unknown one is not made."""
        arguments = {
            "p_entity_id": named(entity_id, "entity_id"),
            "p_entity_type": known_type(entity_type),
            "p_is_error": is_error,
        }
        return bool(self._call("record_entity_activity", arguments))

    def record_workflow_execution(
        self,
        workflow_id: str,
        execution_id: str,
        status: str,
        *,
        ended_at: datetime | None = None,
        count_activity: bool = True,
    ) -> str | None:
        """Note how one execution of an n8n workflow ended: success, error, timeout or cancelled; once for each id.

        Returns the health that follows from its recent executions; None when the workflow is unknown.
        """
        arguments = {
            "p_workflow_id": named(workflow_id, "workflow_id"),
            "p_execution_id": named(execution_id, "execution_id"),
            "p_status": status,
            "p_ended_at": ended_at,
            "p_count_activity": count_activity,
        }
        return self._call("record_workflow_execution", arguments)

    def observe(self, entities: Sequence[Entity]) -> int:
        """Add what was seen of entities: makes unknown ones known and fills gaps; what others registered stays.

        Returns how many entities it touched.
        """
        return int(self._call("record_observed_entities", {"p_entities": entities}))

    def get(self, entity_id: str, entity_type: str) -> dict[str, Any] | None:
        """Return the entity's row of `unified_registry`, None when it is unknown; deleted ones are still there."""
        query = EntityQuery(entity_id=entity_id, entity_type=known_type(entity_type), limit=1)
        found = self._store().find(query)
        return found[0] if found else None

    def list(
        self,
        entity_type: str | None = None,
        state: str | None = None,
        tags: Sequence[str] | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Return entities, newest change first.

        Args:
            entity_type: only this type; None: all.
            state: only this state; None: every state but deleted.
            tags: only entities that have all of these.
            limit: at most this many rows, 1 to 10,000.
        """
        query = EntityQuery(
            entity_type=known_type(entity_type) if entity_type is not None else None,
            state=state,
            hide_deleted=state is None,
            tags=tuple(tags or ()),
            limit=min(max(limit, 1), _MAX_LISTED),
        )
        return self._store().find(query)

    def resolve_endpoint(self, entity_id: str, entity_type: str = "team") -> str | None:
        """Return where the entity is reached; None when it is unknown, deleted, or has said no endpoint."""
        entity = self.get(entity_id, entity_type)
        if entity is None or entity["current_state"] == "deleted":
            return None
        return entity["endpoint_url"] or None

    def gaps(self) -> list[dict[str, Any]]:  # pyright: ignore[reportGeneralTypeIssues]
        """Return what `check_registration_gaps()` finds: gap_type, entity_identifier, details."""
        return self._call("check_registration_gaps", {})

    def close(self) -> None:
        """Let go of the connection; the next use opens a new one."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def __enter__(self) -> Self:
        """Return the registry itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the registry."""
        self.close()

    def _call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        given = {name: value for name, value in arguments.items() if value is not None}
        return self._store().call(function, given)

    def _store(self) -> EntityStore:
        with self._opening:
            if self._opened is None or self._owner != os.getpid():  # not the parent's after a fork
                self._opened, self._owner = _open(self._target or choose_target(self._database_url)), os.getpid()
            return self._opened


def _open(target: Target | None) -> EntityStore:
    if target is None:
        message = (
            f"the registry has no database: set one of {', '.join(DATABASE_URL_SETTINGS)}, "
            f"or {SUPABASE_URL_SETTING} with one of {', '.join(SUPABASE_KEY_SETTINGS)}"
        )
        raise ConfigurationError(message)
    if isinstance(target, PostgresTarget):
        return PostgresEntities(target.url)
    return SupabaseEntities(SupabaseRpc(target.url, target.key))
