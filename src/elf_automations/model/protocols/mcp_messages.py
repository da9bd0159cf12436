"""Reading the JSON of MCP messages that some libraries put on their spans: names and ends, never content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import orjson

from elf_automations.model.call import Outcome
from elf_automations.model.outcome import failure
from elf_automations.model.records import AttributeValue

_MAX_PARSED: Final = 1_048_576
_Json: TypeAlias = Mapping[str, Any]
_NOTHING: Final[_Json] = {}


@dataclass(frozen=True, slots=True)
class Request:
    """What a request names, and the size of its arguments in bytes of JSON."""

    name: str | None = None
    uri: str | None = None
    size_bytes: int | None = None


def read_request(said: AttributeValue) -> Request:
    """Return what the JSON of a request says; of text that is no JSON (cut off, too long) only its size."""
    if not isinstance(said, str) or not said:
        return Request()
    message = _parsed(said)
    if message is None:
        return Request(size_bytes=len(said.encode("utf-8", "replace")))
    params = _mapping(message.get("params")) or message
    return Request(
        name=_text(params.get("name")),
        uri=_text(params.get("uri")),
        size_bytes=_size(params.get("arguments")),
    )


def read_failure(said: AttributeValue) -> Outcome | None:
    """Return the failure that the JSON of an answer reports: a JSON-RPC error or a result flagged `isError`."""
    message = _parsed(said) if isinstance(said, str) else None
    if message is None:
        return None
    code = message.get("code")
    if isinstance(code, int) and "message" in message:
        return failure(str(code), _text(message["message"]))
    return failure("tool_error", _first_text(message.get("content"))) if message.get("isError") is True else None


def _size(arguments: object) -> int | None:
    try:
        return len(orjson.dumps(arguments)) if arguments else None
    except orjson.JSONEncodeError:
        # What is nested too deeply to be written can still be read.
        return None


def _parsed(said: str) -> _Json | None:
    if len(said) > _MAX_PARSED:
        return None
    try:
        return _mapping(orjson.loads(said))
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None


def _mapping(value: object) -> _Json | None:
    return cast("_Json", value) if isinstance(value, Mapping) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _first_text(content: object) -> str | None:
    if not isinstance(content, list):
        return None
    texts = ((_mapping(block) or _NOTHING).get("text") for block in cast("list[object]", content))
    return next((text for text in texts if isinstance(text, str) and text), None)
