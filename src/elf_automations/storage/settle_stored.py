"""Which stored rows count: asking the database to settle what came, in short transactions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import psycopg

_LIMITS: Final = "SET LOCAL statement_timeout = '30s'"
_SETTLE_DUE: Final = "SELECT settle_communications_if_due(p_wait => %s)"
_SETTLE_SINCE: Final = "SELECT settle_communications(%s)"
_NOT_OURS: Final = (psycopg.errors.UndefinedFunction, psycopg.errors.InsufficientPrivilege)
# A pass gives way after two seconds; who waits comes again, as long as that can matter.
_PASSES: Final = 30
_DEADLOCKS: Final = 3


def settle_stored(connection: psycopg.Connection[Any], since: datetime, *, wait: bool) -> bool:
    """Settle what came and return whether nothing is left; see `Writer.settle`.

    Raises psycopg.Error; a deadlock with somebody's own upkeep is tried again.
    """
    deadlocks = 0
    for _ in range(_PASSES if wait else 1):
        try:
            with connection.transaction():
                connection.execute(_LIMITS)
                row = connection.execute(_SETTLE_DUE, (wait,)).fetchone()
        except _NOT_OURS:
            with connection.transaction():
                connection.execute(_LIMITS)
                connection.execute(_SETTLE_SINCE, (since,))
            return True
        except psycopg.errors.DeadlockDetected:
            deadlocks += 1
            if deadlocks > _DEADLOCKS:
                raise
            continue
        if row and row[0]:
            return True
    return False
