"""Classes that an application derives from the SDK's: those that exist, and those that are made from here on."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from inspect import isfunction
from typing import Any

from elf_automations.instrumentation.patches import ClassPoint, MakeWrapper, PatchPoint, Point


def own_class_points(
    base: type,
    known: Container[type],
    wrappers: Mapping[str, MakeWrapper],
    wrap: Callable[[Sequence[Point]], None],
) -> tuple[Point, ...]:
    """Return the points of what is derived from `base`, but for `known`; `wrap` takes those of later classes.

    `wrappers` says by its name what wraps a method that such a class has of its own.
    """

    def make(_original: Any) -> Any:
        def init_subclass(cls: type[Any], **kwargs: Any) -> None:
            super(base, cls).__init_subclass__(**kwargs)
            wrap(tuple(_own_points(cls, wrappers)))

        return classmethod(init_subclass)

    found = (point for cls in _below(base) if cls not in known for point in _own_points(cls, wrappers))
    return (*found, PatchPoint(base.__module__, f"{base.__name__}.__init_subclass__", make))


def _below(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)


def _own_points(cls: type, wrappers: Mapping[str, MakeWrapper]) -> Iterator[ClassPoint]:
    for name, own in vars(cls).items():
        if name in wrappers and isfunction(own) and not getattr(own, "__isabstractmethod__", False):
            yield ClassPoint(cls, name, wrappers[name])
