"""Frozen dataclasses for what is made for every span: as safe to a type checker, several times faster when they run.

The `__init__` of a frozen dataclass sets each field through `object.__setattr__`, which takes three times as long as an
assignment, and `dataclasses.replace` looks at each field's declaration anew. A span on its way to a row fills about a
hundred fields. That nobody assigns to one is for the type checker to see.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

    _Record = TypeVar("_Record", bound=DataclassInstance)
    record = dataclass
else:
    _Record = TypeVar("_Record")

    def record(*, frozen: bool, **options: Any) -> Callable[[type], type]:
        """Return the decorator `dataclass(frozen=True, ...)` without the check at run time."""
        return dataclass(unsafe_hash=frozen, **options)


def changed(original: _Record, **changes: object) -> _Record:
    """Return `original` with other values for some fields, as `dataclasses.replace` does."""
    names, values = _reader(type(original))
    return type(original)(**{**dict(zip(names, values(original), strict=True)), **changes})


@cache
def _reader(kind: type[DataclassInstance]) -> tuple[tuple[str, ...], attrgetter[tuple[Any, ...]]]:
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)
