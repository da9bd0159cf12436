"""Rows into a Supabase project over HTTPS: one idempotent call a batch."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final, TypeAlias

import orjson

from elf_automations.errors import StorageRefusedError, StorageUnavailableError
from elf_automations.model import Communication, Entity
from elf_automations.storage.activity import recounted
from elf_automations.storage.columns import json_bytes
from elf_automations.storage.contract import RejectedRow, WriteResult
from elf_automations.storage.sqlstate import ROW_ERRORS, row_reason
from elf_automations.storage.supabase import SupabaseRpc

_Encoded: TypeAlias = tuple[Communication, bytes]
_PART_BYTES: Final = 4 * 1024 * 1024
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class SupabaseWriter:
    """Writes batches by `ingest_communication_telemetry`; `open_rpc` makes the client, again after a fork.

    The answer says how many rows were stored, not which: of a batch that was there in part, activity is not
    added to the registry. In-process retries repeat whole batches, so that case takes another producer.
    """

    def __init__(self, open_rpc: Callable[[], SupabaseRpc]) -> None:
        self._open_rpc = open_rpc
        self._rpc: SupabaseRpc | None = None
        self._owner = 0
        self._may_settle = True
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
            answer: dict[str, Any] = self._client().call("ingest_communication_telemetry", {"p_batch": batch})
            refused = {int(row["index"]): str(row["reason"]) for row in answer["rejected"]}
            rejected += [RejectedRow(part[index][0], reason) for index, reason in sorted(refused.items())]
            stored += int(answer["stored"])
            duplicate += int(answer["duplicate"])
            kept = [] if answer["duplicate"] else [row for at, (row, _) in enumerate(part) if at not in refused]
            self._owed.append(entities if len(kept) == len(rows) else recounted(entities, kept))
        with suppress(StorageUnavailableError):
            unregistered += self._send_owed()
        return WriteResult(stored, duplicate, tuple(rejected), unregistered)

    def settle(self, since: datetime) -> None:
        """Run `settle_communications`; a key that may not is asked once, `elf-telemetry maintain` does it then."""
        if not self._may_settle:
            return
        try:
            self._client().call("settle_communications", {"p_since": since})
        except StorageRefusedError:
            self._may_settle = False

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
