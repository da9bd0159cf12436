"""Files of OTLP requests into rows, in transactions of a batch each, resumed where an interrupted import stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from elf_automations.model import SpanRecord, map_batch
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.sink.files import FileRequest, reading, requests_of
from elf_automations.sink.intake import SPANS_TOGETHER
from elf_automations.storage.contract import Writer


@dataclass(slots=True)
class Imported:
    """What became of the spans of an import.

    `problems` counts what could not be read, `skipped_requests` what an earlier import had done.
    """

    spans: int = 0
    stored: int = 0
    duplicate: int = 0
    ignored: int = 0
    refused: int = 0
    problems: int = 0
    skipped_requests: int = 0


class Import:
    """Imports files into one database.

    `state_folder` remembers how far an unfinished import of a file came; `place` tells databases apart in it.
    `complain` is told each problem in one line, `progress` how many bytes of the file are done. `n8n_nodes` says which
    steps of n8n are rows, `n8n_exports` whether its own export is.
    """

    def __init__(
        self,
        writer: Writer,
        *,
        state_folder: Path,
        place: str,
        limit: int,
        complain: Callable[[str], None],
        progress: Callable[[int], None],
        n8n_nodes: NodeScope = "external",
        n8n_exports: bool = True,
    ) -> None:
        self._writer, self._limit, self._complain, self._progress = writer, limit, complain, progress
        self._folder, self._place = state_folder, place
        self._map = partial(map_batch, n8n_nodes=n8n_nodes, n8n_exports=n8n_exports)
        self._earliest: datetime | None = None
        self.result = Imported()

    def file(self, file: Path) -> None:
        """Import `file`; raises what `requests_of` and `Writer.write` raise, and can then be called again."""
        mark = self._folder / f"{self._identity(file)}.mark"
        done = _mark(mark)
        self.result.skipped_requests += done
        waiting: list[SpanRecord] = []
        read = 0
        for request in requests_of(file, self._limit, skip=done):
            waiting += self._spans(request)
            done += 1
            read = request.read
            if len(waiting) >= SPANS_TOGETHER:
                self._store(waiting)
                waiting = []
                self._remember(mark, done)
                self._progress(read)
        self._store(waiting)
        mark.unlink(missing_ok=True)
        self._progress(read)

    def settle(self) -> None:
        """Settle what was imported."""
        if self._earliest is not None:
            self._writer.settle(self._earliest)

    def _spans(self, request: FileRequest) -> Sequence[SpanRecord]:
        if request.spans is None:
            self.result.problems += 1
            self._complain(f"{request.place}: {request.problem}; skipped")
            return ()
        self._refuse(f"{request.place}: {line}" for line in request.spans.refused)
        self.result.spans += len(request.spans.records) + len(request.spans.refused)
        return request.spans.records

    def _refuse(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.result.refused += 1
            self._complain(line)

    def _store(self, records: Sequence[SpanRecord]) -> None:
        if not records:
            return
        mapped = self._map(records)
        result = self._writer.write(mapped.rows, mapped.entities, retry=True)
        self.result.stored += result.stored
        self.result.duplicate += result.duplicate + mapped.repeated
        self.result.ignored += mapped.ignored
        self._refuse(
            f"span {fault.span.name!r} cannot be mapped: {type(fault.error).__name__}" for fault in mapped.faults
        )
        self._refuse(f"{bad.row.operation} was refused: {bad.reason}" for bad in result.rejected)
        began = min((row.timestamp for row in mapped.rows), default=None)
        if began is not None and (self._earliest is None or began < self._earliest):
            self._earliest = began

    def _identity(self, file: Path) -> str:
        with reading(file), file.open("rb") as opened:
            begin = opened.read(4096)
        return hashlib.sha256(f"{self._place}\0{file.resolve()}\0".encode() + begin).hexdigest()[:32]

    def _remember(self, mark: Path, done: int) -> None:
        # Without it an interrupted import begins anew, which costs time and nothing else.
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            fresh = mark.with_suffix(".new")
            fresh.write_text(str(done))
            fresh.replace(mark)


def _mark(mark: Path) -> int:
    try:
        return int(mark.read_text())
    except (OSError, ValueError):
        return 0
