"""The executions of an n8n as its public API tells them, into rows: each once, whatever is interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Protocol

from elf_automations.conventions import n8n, otel
from elf_automations.model import ResourceRecord, SpanRecord, map_batch
from elf_automations.model.n8n_excerpt import excerpt
from elf_automations.model.n8n_execution import read_execution
from elf_automations.model.n8n_fields import Json, instant, mapping, mappings, text
from elf_automations.model.n8n_nodes import NodeScope
from elf_automations.model.n8n_synthesis import spans_of
from elf_automations.n8n.api import N8NApi, UnknownQueryError
from elf_automations.n8n.lineage import Lineage
from elf_automations.n8n.progress import Mark, Progress, Walk
from elf_automations.registry.node_targets import node_targets
from elf_automations.storage.contract import Writer

# Asked in this order, so that an execution that moves on meanwhile is seen by one of them or has ended.
_LISTED: Final = ("new", "running", "waiting", "running")
_MANY: Final = 250
_LOOK_BACK_NS: Final = 3_600_000_000_000
_MANUAL: Final = "manual"
_LOST: Final = "unknown"


class State(Protocol):
    """Where progress is kept."""

    def save(self, state: Mapping[str, object]) -> None:
        """Put it on record."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How one n8n is read.

    `instance` tells it from others, `service` is its name as a caller, `since` (ns since 1970) is how far back the
    first walk goes. With `manual` test runs in n8n's editor are taken too; `page` executions are asked for at once.
    """

    instance: str
    service: str = "n8n"
    since: int
    manual: bool = False
    page: int = 50
    nodes: NodeScope = "external"


@dataclass(slots=True)
class Executions:
    """What became of the executions that were looked at.

    `read` have ended and are rows now, `left_out` are test runs or of an end that n8n does not know, `waiting` go on,
    `gone` were not kept by n8n. `stored`, `duplicate` and `refused` are rows.
    """

    read: int = 0
    left_out: int = 0
    waiting: int = 0
    gone: int = 0
    stored: int = 0
    duplicate: int = 0
    refused: int = 0
    earliest: datetime | None = field(default=None, repr=False)


class ExecutionSync:
    """Reads the executions of one n8n into a writer, and into `export` when it is given.

    A page is stored before progress is kept: what is cut off in between is told again, and is the same rows and spans.
    """

    def __init__(
        self,
        api: N8NApi,
        writer: Writer,
        state: State,
        progress: Progress,
        reading: Reading,
        *,
        projects: Mapping[str, str],
        complain: Callable[[str], None],
        advanced: Callable[[Executions], None],
        export: Callable[[Sequence[SpanRecord]], None] | None = None,
    ) -> None:
        """Go on from `progress`; `advanced` is told after each page, `complain` each problem in one line."""
        self._api, self._writer, self._state, self._progress, self._reading = api, writer, state, progress, reading
        self._projects, self._complain, self._advanced, self._export = projects, complain, advanced, export
        self._lineage = Lineage(api.execution)
        self._going_on: frozenset[str] = frozenset()
        self._resource = ResourceRecord({otel.SERVICE_NAME: reading.service, n8n.N8N_INSTANCE_ID: reading.instance})
        self.result = Executions()

    def once(self, *, again: bool = False) -> Executions:
        """Read all that ended since the last time; with `again` everything since `Reading.since` once more.

        Raises what `N8NApi` and `Writer.write` raise, and can then be called again.
        """
        self.result = Executions()
        self._lineage.forget_unfinished()
        if self._progress.walk is not None:
            self._walk()
        self._begin(again=again)
        if self._progress.walk is not None:
            self._walk()
        self._look_again()
        self.result.waiting = len(self._progress.pending)
        if self.result.earliest is not None:
            self._writer.settle(self.result.earliest)
        return self.result

    def _begin(self, *, again: bool) -> None:
        """Note the newest execution, then what has not ended; and set out when there is anything new."""
        progress = self._progress
        newest = self._api.executions(limit=1).items
        unfinished = self._unfinished()
        self._going_on = frozenset(unfinished or ())
        progress.pending.update(dict.fromkeys(unfinished or ()))
        if newest:
            top = Mark(text(newest[0].get("id")) or "", text(newest[0].get("startedAt")))
            since = self._reading.since if again or progress.done is None else None
            if unfinished is None and since is None and progress.done is not None:
                since = (progress.done.started_ns or self._reading.since) - _LOOK_BACK_NS
            if since is None and progress.done is not None and top.began_anew(progress.done):
                since = progress.done.started_ns
                self._complain(
                    f"execution {top.execution_id} began after execution {progress.done.execution_id}, which was read "
                    f"last: the n8n {self._reading.instance} has a new database; what began since then is read"
                )
            if since is not None or progress.done is None or top.is_newer_than(progress.done.execution_id):
                progress.walk = Walk(top, None, since)
        self._keep()

    def _unfinished(self) -> list[str] | None:
        """Return the executions that go on; None when this n8n cannot list them."""
        found: dict[str, None] = {}
        for status in _LISTED:
            cursor: str | None = None
            while True:
                try:
                    page = self._api.executions(status=status, cursor=cursor, limit=_MANY)
                except UnknownQueryError:
                    if status == "running":
                        return None
                    break
                found.update({execution_id: None for each in page.items if (execution_id := text(each.get("id")))})
                cursor = page.next_cursor
                if cursor is None:
                    break
        return list(found)

    def _walk(self) -> None:
        """Read page after page down to where the last walk began."""
        progress, walk = self._progress, self._progress.walk
        while walk is not None:
            try:
                page = self._api.executions(cursor=walk.cursor, limit=self._reading.page, data=True)
            except UnknownQueryError:
                if walk.cursor is None:
                    raise
                # The cursor of a walk that was cut off is no longer good: the walk starts over.
                walk = progress.walk = replace(walk, cursor=None)
                continue
            wanted = [each for each in page.items if self._is_due(each, walk)]
            self._take(wanted)
            # Start times are not quite in the order of the ids, which the pages are in.
            last = page.items[-1:] if walk.since is not None else page.items
            at_the_end = not all(self._is_due(each, walk) for each in last)
            if page.next_cursor is None or at_the_end:
                progress.done, progress.walk, walk = walk.top, None, None
            else:
                walk = progress.walk = replace(walk, cursor=page.next_cursor)
            self._keep()

    def _is_due(self, execution: Json, walk: Walk) -> bool:
        if walk.since is not None:
            started = instant(execution.get("startedAt")) or instant(execution.get("stoppedAt"))
            return started is None or started >= walk.since
        done = self._progress.done
        return done is None or Mark(text(execution.get("id")) or "").is_newer_than(done.execution_id)

    def _look_again(self) -> None:
        """Ask for each execution that had not ended by its id."""
        asked = [execution_id for execution_id in self._progress.pending if execution_id not in self._going_on]
        for start in range(0, len(asked), self._reading.page):
            found: list[Json] = []
            for execution_id in asked[start : start + self._reading.page]:
                document = self._api.execution(execution_id)
                if document is None:
                    self._progress.pending.pop(execution_id, None)
                    self.result.gone += 1
                else:
                    found.append(document)
            self._take(found)
            self._keep()

    def _take(self, documents: Sequence[Json]) -> None:
        """Store the executions that have ended, and note the others."""
        for document in documents:
            self._lineage.know(document)
        spans: list[SpanRecord] = []
        for document in documents:
            spans += self._spans(document)
        if not spans:
            return
        mapped = map_batch(spans, self._reading.nodes)
        written = self._writer.write(mapped.rows, mapped.entities, retry=True)
        result = self.result
        result.stored += written.stored
        result.duplicate += written.duplicate + mapped.repeated
        for line in (
            *(f"span {fault.span.name!r} cannot be mapped: {type(fault.error).__name__}" for fault in mapped.faults),
            *(f"{bad.row.operation} was refused: {bad.reason}" for bad in written.rejected),
        ):
            result.refused += 1
            self._complain(line)
        began = [row.timestamp for row in mapped.rows] + ([result.earliest] if result.earliest else [])
        result.earliest = min(began, default=None)
        if self._export is not None:
            self._export(spans)

    def _spans(self, document: Json) -> Sequence[SpanRecord]:
        execution_id = text(document.get("id"))
        if execution_id is None:
            return ()
        if document.get("status") == _LOST or (document.get("mode") == _MANUAL and not self._reading.manual):
            self._progress.pending.pop(execution_id, None)
            self.result.left_out += 1
            return ()
        if document.get("dataTooLargeToDisplay") is True:
            document = self._api.execution(execution_id) or document
        saved = mappings(mapping(document.get("workflowData")).get("nodes"))
        workflow, told = excerpt(document, node_targets(saved))
        project = self._projects.get(text(workflow.get("id")) or "")
        execution = read_execution({**workflow, **({"projectId": project} if project else {})}, told)
        now = time.time_ns()
        above = self._lineage.above(execution, now) if execution else None
        if execution is None or above is None:
            self._progress.pending[execution_id] = None
            return ()
        self._progress.pending.pop(execution_id, None)
        # What a test run started says of itself that a workflow did.
        if not self._reading.manual and any(one.mode == _MANUAL for one in above):
            self.result.left_out += 1
            return ()
        self.result.read += 1
        return spans_of(execution, now_ns=now, instance=self._reading.instance, above=above, resource=self._resource)

    def _keep(self) -> None:
        self._state.save(self._progress.as_state())
        self._advanced(self.result)
