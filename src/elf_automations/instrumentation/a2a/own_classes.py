"""Classes that an application derives from the SDK's: those that exist, and those that are made from here on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any

from elf_automations.instrumentation.patches import ClassPoint, PatchPoint, Point


def own_class_points(
    base: type,
    known: Container[type],
    points_of: Callable[[type], Iterable[ClassPoint]],
    wrap: Callable[[Sequence[Point]], None],
) -> tuple[Point, ...]:
    """Return the points of what is derived from `base`, but for `known`; `wrap` takes those of later classes."""

    def make(_original: Any) -> Any:
        def init_subclass(cls: type[Any], **kwargs: Any) -> None:
            super(base, cls).__init_subclass__(**kwargs)
            wrap(tuple(points_of(cls)))

        return classmethod(init_subclass)

    found = (point for cls in _below(base) if cls not in known for point in points_of(cls))
    return (*found, PatchPoint(base.__module__, f"{base.__name__}.__init_subclass__", make))


def _below(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)
