"""Rows into a Supabase project over HTTPS: one idempotent call a batch."""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import orjson

from elf_automations.errors import SchemaMissingError, StorageRefusedError, StorageUnavailableError
from elf_automations.model import Communication, Entity
from elf_automations.storage.activity import recounted
from elf_automations.storage.columns import json_bytes
from elf_automations.storage.contract import RejectedRow, WriteResult
from elf_automations.storage.sqlstate import ROW_ERRORS, row_reason
from elf_automations.storage.supabase import SupabaseRpc

_Encoded: TypeAlias = tuple[Communication, bytes]
_PART_BYTES: Final = 4 * 1024 * 1024
# A pass gives way after two seconds; who waits comes again, as long as that can matter.
_PASSES: Final = 30
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class SupabaseWriter:
    """Writes batches by `ingest_communications`; `open_rpc` makes the client, again after a fork.

    Activity is added to the registry for the rows that were new; of a batch that was there in part, the answer names
    them (`stored_ids`).
    """

    def __init__(self, open_rpc: Callable[[], SupabaseRpc]) -> None:
        self._open_rpc = open_rpc
        self._rpc: SupabaseRpc | None = None
        self._owner = 0
        self._forbidden: set[str] = set()
        self._owed: deque[Sequence[Entity]] = deque()

    def write(self, rows: Sequence[Communication], entities: Sequence[Entity], *, retry: bool) -> WriteResult:
        """Store a batch, then its registry entries; see `Writer.write`.

        Entries the project cannot take now are kept and sent with the next batch: the rows are stored already.
        """
        del retry  # the function meets a row twice by itself
        unregistered = self._send_owed()
        fragments, rejected = _encoded(rows)
        stored = duplicate = 0
        for part in _parts(fragments):
            batch = [orjson.Fragment(encoded) for _, encoded in part]
            answer: dict[str, Any] = self._client().call("ingest_communications", {"p_batch": batch})
            refused = {int(row["index"]): str(row["reason"]) for row in answer["rejected"]}
            rejected += [RejectedRow(part[index][0], reason) for index, reason in sorted(refused.items())]
            stored += int(answer["stored"])
            duplicate += int(answer["duplicate"])
            kept = _new_rows([row for row, _ in part], answer, refused)
            self._owed.append(entities if len(kept) == len(rows) else recounted(entities, kept))
        with suppress(StorageUnavailableError):
            unregistered += self._send_owed()
        return WriteResult(stored, duplicate, tuple(rejected), unregistered)

    def check(self) -> None:
        """Ask whether the project takes rows now, see `Writer.check`."""
        self._client().call("ingest_communications", {"p_batch": []})

    def settle(self, since: datetime, *, wait: bool = True) -> bool:
        """Settle what came, see `Writer.settle`, and do all upkeep when nobody did it for ten minutes.

        What a key may not do is asked once; `elf-telemetry maintain` does it then. `since` matters to a schema older
        than 0045.
        """
        left = self._ask("settle_communications_if_due", {"p_wait": wait}) is False
        for _ in range(_PASSES if left and wait else 0):
            left = self._ask("settle_communications_if_due", {"p_wait": wait}) is False
            if not left:
                break
        if "settle_communications_if_due" in self._forbidden:
            self._ask("settle_communications", {"p_since": since})
        self._ask("maintain_telemetry_if_due", {})
        return not left

    def _ask(self, function: str, arguments: Mapping[str, Any]) -> object:
        """Return what `function` answers, None when it is not there for this key; then it is not asked again."""
        if function in self._forbidden:
            return None
        try:
            return self._client().call(function, arguments)
        except (StorageRefusedError, SchemaMissingError):
            self._forbidden.add(function)
            return None

    def close(self) -> None:
        """Close the HTTP client; the next use makes a new one."""
        rpc, self._rpc = self._rpc, None
        if rpc is not None and self._owner == os.getpid():
            rpc.close()

    def _client(self) -> SupabaseRpc:
        if self._rpc is None or self._owner != os.getpid():
            self._rpc, self._owner = self._open_rpc(), os.getpid()
        return self._rpc

    def _send_owed(self) -> tuple[str, ...]:
        """Send the registry entries that are due; entries the project refuses are given up and named."""
        refused: tuple[str, ...] = ()
        while self._owed:
            if self._owed[0]:
                try:
                    self._client().call("record_observed_entities", {"p_entities": self._owed[0]})
                except StorageRefusedError as error:
                    refused += (str(error),)
            self._owed.popleft()
        return refused


def _new_rows(
    part: Sequence[Communication], answer: Mapping[str, Any], refused: Container[int]
) -> Sequence[Communication]:
    """Return the rows of `part` that were stored now."""
    named: Sequence[str] | None = answer.get("stored_ids")
    if named is None:
        # All of it was new, or a schema older than 0030 answers: then which rows were is not known.
        return [] if answer["duplicate"] else [row for at, row in enumerate(part) if at not in refused]
    left = Counter(map(UUID, named))
    kept: list[Communication] = []
    for row in part:
        if left[row.id] > 0:  # the same row twice in one batch is new once
            left[row.id] -= 1
            kept.append(row)
    return kept


def _encoded(rows: Sequence[Communication]) -> tuple[list[_Encoded], list[RejectedRow]]:
    """Encode row by row, so that one that is no JSON, or makes Postgres refuse the whole argument, is refused alone."""
    fragments: list[_Encoded] = []
    rejected: list[RejectedRow] = []
    for row in rows:
        try:
            encoded = json_bytes(row)
        except ROW_ERRORS as error:
            rejected.append(RejectedRow(row, row_reason(error)))
            continue
        if _NUL.search(encoded):
            rejected.append(RejectedRow(row, "a text holds NUL, which Postgres does not store"))
        else:
            fragments.append((row, encoded))
    return fragments, rejected


def _parts(fragments: Sequence[_Encoded]) -> Iterator[Sequence[_Encoded]]:
    """Cut a batch so that no request is larger than gateways take; the same batch is always cut the same way."""
    part: list[_Encoded] = []
    size = 0
    for row, encoded in fragments:
        if part and size + len(encoded) > _PART_BYTES:
            yield part
            part, size = [], 0
        part.append((row, encoded))
        size += len(encoded)
    if part:
        yield part
