"""What a database error means for the data: wait, set up, give up, or refuse one row.

Source of the classes: PostgreSQL documentation, Appendix A.
"""

from __future__ import annotations

import struct
from typing import Final

import psycopg

from elf_automations.errors import (
    ElfTelemetryError,
    SchemaMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)

SETUP_HINT: Final = "run `elf-telemetry setup` against this database"

_SCHEMA_MISSING: Final = frozenset({"42P01", "42883", "42703", "3F000"})
_ROW_CLASSES: Final = ("22", "23", "54")
_REFUSED_CLASSES: Final = ("28", "0L", "0P")
_REFUSED: Final = frozenset({"42501", "3D000"})
_TRANSIENT_CLASSES: Final = ("08", "40", "53", "55", "57", "58", "XX")
_READ_ONLY: Final = "25006"

ROW_ERRORS: Final = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.OperationalError,
    TypeError,
    ValueError,
    OverflowError,
    RecursionError,
    struct.error,
)
"""What storing one row may raise; `is_row_error` says which of these are the row's own fault."""


def is_row_error(error: BaseException) -> bool:
    """Say whether `error` is the fault of a row's values, so that the other rows can still be stored.

    Values the driver cannot encode (NUL, lone surrogates, integers out of range) never reach the server and
    carry no SQLSTATE.
    """
    if isinstance(error, psycopg.Error):
        if error.sqlstate is None:
            return isinstance(error, psycopg.DataError)
        return error.sqlstate.startswith(_ROW_CLASSES)
    return isinstance(error, ROW_ERRORS)


def row_reason(error: BaseException) -> str:
    """Return one line that says why a row was refused, without the row's values."""
    if isinstance(error, psycopg.Error):
        diagnosis = error.diag
        text = diagnosis.message_primary or str(error).partition("\n")[0]
        named = diagnosis.constraint_name or diagnosis.column_name
        state = f" [{error.sqlstate}]" if error.sqlstate else ""
        return f"{text}{f' ({named})' if named and named not in text else ''}{state}"
    # The text of an encoding error quotes the value.
    return f"a value cannot be encoded ({type(error).__name__})"


def classified(error: psycopg.Error, place: str) -> ElfTelemetryError:
    """Return the error a person can act on for a failed statement; `place` is the URL without its password."""
    return classified_state(error.sqlstate, row_reason(error), place, lost=isinstance(error, psycopg.OperationalError))


def classified_state(state: str | None, reason: str, place: str, *, lost: bool = False) -> ElfTelemetryError:
    """Return the error a person can act on for an SQLSTATE; `lost` says that a stateless error is a lost connection."""
    if state is None:
        kind = StorageUnavailableError if lost else StorageRefusedError
        return kind(f"the database at {place} cannot be used: {reason}; is it running?")
    if state in _SCHEMA_MISSING:
        return SchemaMissingError(f"the database at {place} has no telemetry schema: {reason}; {SETUP_HINT}")
    if state.startswith(_REFUSED_CLASSES) or state in _REFUSED:
        return StorageRefusedError(
            f"the database at {place} refuses this user: {reason}; check the user, its password and its grants"
        )
    if state.startswith(_TRANSIENT_CLASSES) or state == _READ_ONLY:
        return StorageUnavailableError(f"the database at {place} cannot take data now: {reason}; trying again")
    return StorageRefusedError(
        f"the database at {place} refuses the data: {reason}; is its schema current? {SETUP_HINT}"
    )
