"""The registry of a Supabase project, reached over HTTPS."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from elf_automations.errors import SchemaMissingError, StorageUnavailableError
from elf_automations.storage.entities import EntityQuery
from elf_automations.storage.supabase import StorageThrottledError, SupabaseRpc

_TABLE: Final = "unified_registry"
_PAUSES_SECONDS: Final = (0.1, 0.4)
_LONGEST_PAUSE_SECONDS: Final = 2.0
# A gateway that gives up may have passed the call on, and this one adds each time.
_NOT_REPEATABLE: Final = frozenset({"record_entity_activity"})

_T = TypeVar("_T")


class SupabaseEntities:
    """The registry over Supabase's RPC and table endpoints; rows look as those read from Postgres.

    What may pass by itself (a busy gateway, a deadlock, a restart) is tried three times within a few seconds.
    """

    def __init__(self, rpc: SupabaseRpc) -> None:
        self._rpc = rpc

    def call(self, function: str, arguments: Mapping[str, Any]) -> Any:
        """Return what `function` answers to named `arguments`."""
        if function in _NOT_REPEATABLE:
            return self._rpc.call(function, arguments)
        return _patiently(lambda: self._rpc.call(function, arguments))

    def find(self, query: EntityQuery) -> list[dict[str, Any]]:
        """Return the rows of `unified_registry` that fit; needs a key that may read the table."""
        filters: list[tuple[str, str]] = [("select", "*")]
        filters += [
            (column, f"eq.{value}")
            for column, value in (("entity_id", query.entity_id), ("entity_type", query.entity_type))
            if value is not None
        ]
        if query.state is not None:
            filters.append(("current_state", f"eq.{query.state}"))
        elif query.hide_deleted:
            filters.append(("current_state", "neq.deleted"))
        if query.tags:
            filters.append(("tags", f"cs.{{{','.join(map(_quoted, query.tags))}}}"))
        filters += [("order", "last_updated.desc,entity_type.asc,entity_id.asc"), ("limit", str(query.limit))]
        return [{name: _moment(name, value) for name, value in row.items()} for row in self._select(dict(filters))]

    def close(self) -> None:
        """Close the HTTPS connection."""
        self._rpc.close()

    def _select(self, parameters: dict[str, str]) -> list[dict[str, Any]]:
        return _patiently(lambda: self._rpc.select(_TABLE, parameters))


def _patiently(ask: Callable[[], _T]) -> _T:
    for pause in _PAUSES_SECONDS:
        try:
            return ask()
        except SchemaMissingError:
            raise
        except StorageThrottledError as error:
            if error.retry_after > _LONGEST_PAUSE_SECONDS:
                raise
            time.sleep(error.retry_after)
        except StorageUnavailableError:
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  (spreads clients, protects nothing)
    return ask()


def _quoted(tag: str) -> str:
    escaped = tag.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _moment(name: str, value: object) -> object:
    """Return JSON's text of a time column as the datetime that Postgres gives."""
    if not isinstance(value, str) or not (name.endswith("_at") or name.startswith("last_")):
        return value
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return value
