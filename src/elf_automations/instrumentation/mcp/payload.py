"""What goes over the wire of a call, looked at and not kept: fields of typed or raw messages, and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import orjson
from pydantic import BaseModel


def field(message: object, *names: str) -> object:
    """Return the first of `names` that a message has: a key of a wire mapping, else an attribute of a model."""
    if type(message) is dict:  # what the wire is, and the quicker question
        wire = cast("dict[str, object]", message)
        for name in names:
            if name in wire:
                return wire[name]
        return None
    if hasattr(message, "model_dump"):  # a model; asking pydantic's metaclass costs more
        for name in names:
            value = getattr(message, name, None)
            if value is not None:
                return value
        return None
    if isinstance(message, Mapping):
        other = cast("Mapping[str, object]", message)
        return next((other[name] for name in names if name in other), None)
    return None


def text(message: object, *names: str) -> str | None:
    """Return the first of `names` as text, None when it is missing or empty."""
    value = field(message, *names)
    return str(value) or None if value is not None else None


def size(message: object) -> int | None:
    """Return the size in bytes of a message as JSON, None when there is none or it is no JSON."""
    if not message:
        return None
    try:
        if isinstance(message, BaseModel):
            return len(message.model_dump_json(by_alias=True, exclude_none=True).encode())
        return len(orjson.dumps(message, default=str))
    except Exception:
        return None
