"""n8n workflows in the unified registry."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Self, cast
from uuid import uuid4

from elf_automations.errors import ElfTelemetryError
from elf_automations.model import AttributeValue, Status
from elf_automations.model.n8n_nodes import capability, short_type
from elf_automations.registry.node_targets import node_targets
from elf_automations.registry.unified import UnifiedRegistry
from elf_automations.registry.words import HEALTH
from elf_automations.storage.target import Target

__all__ = ["ENTITY_TYPE", "STATES", "N8NWorkflowRegistry"]

logger = logging.getLogger(__name__)

ENTITY_TYPE: Final = "n8n_workflow"
STATES: Final = ("registered", "active", "inactive", "archived", "deleted")
_MAX_NODES: Final = 500
_SAYS_NOTHING: Final = frozenset({"noop", "stickynote"})


class N8NWorkflowRegistry:
    """Registers n8n workflows and keeps their state, health and activity.

    Making one does no I/O and needs no database. What writes never raises: it answers with what became of it and logs
    one line when nothing did. What reads raises as `UnifiedRegistry` does, for an empty answer would be untrue.
    """

    def __init__(self, database_url: str | None = None, *, node_capabilities: Mapping[str, str] | None = None) -> None:
        """Use the database at `database_url`, else the one the environment names.

        `node_capabilities` extends the table of `elf_automations.model.n8n_nodes`: node type, whole or without its
        package, to the capability it gives a workflow.
        """
        self.entities = UnifiedRegistry(database_url)
        self._node_capabilities = {name.lower(): gives for name, gives in (node_capabilities or {}).items()}

    @classmethod
    def over(cls, target: Target) -> Self:
        """Return a registry over a target that is chosen already; see `elf_automations.storage.target`."""
        registry = cls()
        registry.entities = UnifiedRegistry.over(target)
        return registry

    def register_workflow(
        self,
        workflow_id: str,
        workflow_name: str,
        description: str | None = None,
        tags: Sequence[str | Mapping[str, object]] | None = None,
        nodes: Sequence[Mapping[str, object]] | None = None,
        webhook_url: str | None = None,
        schedule: str | None = None,
        created_by: str = "n8n",
        metadata: Mapping[str, AttributeValue] | None = None,
    ) -> dict[str, Any]:
        """Make a workflow known, or bring what is known of it up to date; its capabilities follow from its nodes.

        Args:
            workflow_id: n8n's id of the workflow.
            workflow_name: its name.
            description: what it is for; empty: nothing, in place of what it was.
            tags: texts, or n8n's tag objects (`id`, `name`).
            nodes: each with `type` and `name`; parameters, which hold secrets, are read for the host that a node calls
                and not kept.
            webhook_url: where it is started.
            schedule: when it starts by itself, a cron expression or words.
            created_by: who registers it.
            metadata: anything else worth keeping.

        Returns:
            `{"status": "success", "action": "registered" | "updated", "workflow_id": …}`, or
            `{"status": "error", "error": …}` with one line that names the cause.
        """
        try:
            # Asked by a write that changes nothing: a Supabase anon key may write, not read.
            known = self.entities.update_state(workflow_id, ENTITY_TYPE, None)
            self.entities.register_entity(
                workflow_id,
                ENTITY_TYPE,
                workflow_name,
                registered_by=created_by,
                metadata=_metadata(description, nodes, schedule, metadata),
                capabilities=self._capabilities(nodes) if nodes is not None else None,
                endpoint_url=webhook_url,
                registration_source="n8n",
                deployment_type="n8n",
                tags=_tags(tags) if tags is not None else None,
            )
        except ElfTelemetryError as error:
            logger.error("n8n workflow %s is not registered: %s", workflow_id, error)  # noqa: TRY400 - one line, no traceback
            return {"status": "error", "error": str(error)}
        return {"status": "success", "action": "updated" if known else "registered", "workflow_id": workflow_id}

    def update_workflow_state(
        self,
        workflow_id: str,
        state: str,
        health_status: str | None = None,
        reason: str | None = None,
        updated_by: str = "system",
    ) -> bool:
        """Set a workflow's state: active, inactive, archived or deleted; and its health, when given.

        Returns whether it is so now: False, with one line in the log, for an unknown workflow, an unknown word, or a
        database that cannot be reached.
        """
        problem = _unknown_word(state, health_status)
        if problem:
            logger.error("n8n workflow %s keeps its state: %s", workflow_id, problem)
            return False
        try:
            changed = self.entities.update_state(
                workflow_id, ENTITY_TYPE, state, health_status=health_status, updated_by=updated_by, reason=reason
            )
        except ElfTelemetryError as error:
            logger.error("n8n workflow %s keeps its state: %s", workflow_id, error)  # noqa: TRY400 - one line, no traceback
            return False
        if not changed:
            logger.warning("n8n workflow %s is not registered: register it before its state is set", workflow_id)
        return changed

    def record_workflow_activity(self, workflow_id: str, is_error: bool = False) -> bool:
        """Count one execution of a workflow, now; its health follows from the recent ones.

        Returns whether it was counted; a failure is one line in the log.
        """
        try:
            counted = self.record_execution(workflow_id, "error" if is_error else "success") is not None
        except ElfTelemetryError as error:
            logger.error("an execution of n8n workflow %s is not counted: %s", workflow_id, error)  # noqa: TRY400 - one line, no traceback
            return False
        if not counted:
            logger.warning("n8n workflow %s is not registered: register it before its executions count", workflow_id)
        return counted

    def record_execution(
        self,
        workflow_id: str,
        status: Status,
        *,
        execution_id: str | None = None,
        ended_at: datetime | None = None,
        count_activity: bool = True,
    ) -> str | None:
        """Note how one execution ended; the workflow's health follows from its recent ones, never from this one alone.

        Args:
            workflow_id: n8n's id of the workflow.
            status: success, error, timeout or cancelled; cancelled ones say nothing of health.
            execution_id: n8n's id of the execution: telling one again changes nothing. None: one of its own.
            ended_at: when it ended; None: now.
            count_activity: whether it counts as activity; it does not when executions of this workflow are rows of the
                table as well, for a row brings its activity.

        Returns:
            The workflow's health, None when the workflow is unknown. Raises as `UnifiedRegistry` does.
        """
        return self.entities.record_workflow_execution(
            workflow_id, execution_id or f"told-{uuid4()}", status, ended_at=ended_at, count_activity=count_activity
        )

    def get_workflow_info(self, workflow_id: str) -> dict[str, Any] | None:
        """Return the workflow's row of the registry, None when it is unknown."""
        return self.entities.get(workflow_id, ENTITY_TYPE)

    def list_workflows(
        self, tags: Sequence[str] | None = None, state: str | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return at most `limit` workflows that have all of `tags`, newest change first; deleted ones if asked."""
        return self.entities.list(ENTITY_TYPE, state=state, tags=tags, limit=limit)

    def _capabilities(self, nodes: Sequence[object]) -> list[str]:
        found: set[str] = set()
        for node in _objects(nodes):
            node_type = node.get("type")
            if not isinstance(node_type, str) or node.get("disabled") is True:
                continue
            short = short_type(node_type).lower()
            more = self._node_capabilities
            given = more.get(node_type.lower()) or more.get(short) or capability(node_type)
            if given and short not in _SAYS_NOTHING:
                found.add(given)
        return sorted(found)

    def close(self) -> None:
        """Let go of the connection; the next use opens a new one."""
        self.entities.close()


def _unknown_word(state: str, health_status: str | None) -> str | None:
    if state not in STATES:
        return f"state {state!r} is unknown: use one of {', '.join(STATES)}"
    if health_status is not None and health_status not in HEALTH:
        return f"health_status {health_status!r} is unknown: use one of {', '.join(sorted(HEALTH))}"
    return None


def _metadata(
    description: str | None,
    nodes: Sequence[Mapping[str, object]] | None,
    schedule: str | None,
    more: Mapping[str, AttributeValue] | None,
) -> dict[str, AttributeValue]:
    known: dict[str, AttributeValue] = dict(more or {})
    if description is not None:
        known["description"] = description
    if schedule:
        known["schedule"] = schedule
    if nodes is not None:
        known["node_count"] = len(nodes)
        known["node_targets"] = dict(node_targets(_objects(nodes)[:_MAX_NODES]))
        known["nodes"] = [
            {word: value for word in ("name", "type") if isinstance(value := node.get(word), str)}
            for node in _objects(nodes)[:_MAX_NODES]
        ]
    return known


def _objects(nodes: Sequence[object]) -> list[Mapping[str, object]]:
    return [cast("Mapping[str, object]", node) for node in nodes if isinstance(node, Mapping)]


def _tags(tags: Sequence[object]) -> list[str]:
    names = [cast("Mapping[str, object]", tag).get("name") if isinstance(tag, Mapping) else tag for tag in tags]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))
