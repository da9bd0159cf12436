"""Patch points of a library: put a wrapper in place, and put the very same object back.

A patch point that a new release moved or removed costs that part of the instrumentation, one WARNING line
and nothing else.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

logger = logging.getLogger(__name__)

MakeWrapper: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class PatchPoint:
    """An attribute to wrap: `module`, the dotted `path` inside it, and what makes the wrapper from the original."""

    module: str
    path: str
    make_wrapper: MakeWrapper


@dataclass(frozen=True, slots=True)
class OpenerPoint:
    """A function made by `@asynccontextmanager`: what it wraps is replaced inside, for everyone who imported it.

    Transports are opened by such functions, which applications import by name before anything is instrumented.
    """

    module: str
    path: str
    make_wrapper: MakeWrapper


@dataclass(frozen=True, slots=True)
class ClassPoint:
    """A method that `owner` itself defines; for classes of the application, which no module's path leads to."""

    owner: type
    name: str
    make_wrapper: MakeWrapper


Point: TypeAlias = PatchPoint | OpenerPoint | ClassPoint


@dataclass(frozen=True, slots=True)
class _Applied:
    owner: Any
    name: str
    original: Any
    inherited: bool


class Patches:
    """The patches of one instrumentor; `apply` and `restore` may be called any number of times."""

    def __init__(self, library: str) -> None:
        self._library = library
        self._applied: list[_Applied] = []

    @property
    def in_place(self) -> bool:
        """Whether anything is patched now."""
        return bool(self._applied)

    def apply(self, points: Sequence[Point]) -> None:
        """Wrap every point that exists; points already in place are left alone."""
        if not self._applied:
            self.extend(points)

    def extend(self, points: Sequence[Point]) -> None:
        """Wrap more points, of a module that was loaded later."""
        for point in points:
            if isinstance(point, ClassPoint):
                self._wrap(point.owner, point.name, point.make_wrapper)
                continue
            try:
                self._apply(point)
            except (ImportError, AttributeError):
                logger.warning(
                    "%s has no %s.%s: this part of its telemetry stays off; a newer elf-automations may know it",
                    self._library,
                    point.module,
                    point.path,
                )

    def restore(self) -> None:
        """Put every original back, last patched first."""
        while self._applied:
            done = self._applied.pop()
            if done.inherited:
                delattr(done.owner, done.name)
            else:
                setattr(done.owner, done.name, done.original)

    def _apply(self, point: PatchPoint | OpenerPoint) -> None:
        owner: Any = importlib.import_module(point.module)
        *parents, name = point.path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original = getattr(owner, name)
        if isinstance(point, OpenerPoint):
            cell = _cell_of_wrapped(original)
            inner = cell.cell_contents
            cell.cell_contents = point.make_wrapper(inner)
            self._applied.append(_Applied(cell, "cell_contents", inner, inherited=False))
            return
        self._wrap(owner, name, point.make_wrapper)

    def _wrap(self, owner: Any, name: str, make_wrapper: MakeWrapper) -> None:
        original = getattr(owner, name)
        own: Any = cast("dict[str, Any]", vars(owner)).get(name)
        setattr(owner, name, make_wrapper(original))
        self._applied.append(_Applied(owner, name, own if own is not None else original, inherited=own is None))


def _cell_of_wrapped(function: Any) -> Any:
    """Return the closure cell that holds what a decorated `function` wraps; AttributeError when there is none."""
    wrapped = function.__wrapped__
    for cell in function.__closure__ or ():
        if cell.cell_contents is wrapped:
            return cell
    raise AttributeError(function)
