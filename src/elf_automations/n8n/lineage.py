"""Where an execution comes from: the executions that started it, asked for as they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from elf_automations.model.n8n_excerpt import excerpt
from elf_automations.model.n8n_execution import Execution, read_execution
from elf_automations.model.n8n_fields import Json

_KEPT: Final = 500
_DEEPEST: Final = 32
# A node tells which execution it started once its own has ended; a longer wait than this is not worth that.
_PATIENCE: Final = timedelta(minutes=15)


class Lineage:
    """Finds the executions above one, nearest first; `ask` gets one by its id, None when it is gone."""

    def __init__(self, ask: Callable[[str], Json | None]) -> None:
        self._ask = ask
        self._known: OrderedDict[str, tuple[Execution | None, bool]] = OrderedDict()

    def above(self, execution: Execution, now_ns: int) -> tuple[Execution, ...] | None:
        """Return the executions above `execution`; None while one of them runs and it is worth the wait."""
        found: list[Execution] = []
        current = execution
        patient = now_ns - (execution.end_ns or 0) < _PATIENCE // timedelta(microseconds=1) * 1000
        while current.parent and current.retry_of is None and current.incoming is None and len(found) < _DEEPEST:
            parent, ended = self._execution(current.parent.execution_id)
            if parent is None:
                break
            if not ended and patient:
                return None
            found.append(parent)
            current = parent
        return tuple(found)

    def know(self, document: Json) -> None:
        """Remember an execution that was read anyway."""
        workflow, told = excerpt(document)
        ended = read_execution(workflow, told)
        # What still runs is known as well: it may have said where it came from.
        as_it_is = ended or read_execution(workflow, {**told, "status": "success"})
        if as_it_is and as_it_is.ref.execution_id:
            self._keep(as_it_is.ref.execution_id, (as_it_is, ended is not None))

    def forget_unfinished(self) -> None:
        """Forget what had not ended, so that it is asked for again."""
        for execution_id in [known for known, (_, ended) in self._known.items() if not ended]:
            del self._known[execution_id]

    def _execution(self, execution_id: str) -> tuple[Execution | None, bool]:
        if execution_id not in self._known:
            document = self._ask(execution_id)
            if document is None:
                self._keep(execution_id, (None, True))
            else:
                self.know(document)
        return self._known.get(execution_id, (None, True))

    def _keep(self, execution_id: str, found: tuple[Execution | None, bool]) -> None:
        self._known[execution_id] = found
        self._known.move_to_end(execution_id)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
