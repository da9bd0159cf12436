"""Files of OTLP requests: JSON or protobuf, one request a file or one after the other, plain or gzip.

Source of the framing: the Collector's file exporter writes one JSON request a line, and before each protobuf request
its length as four bytes, most significant first.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final

from elf_automations.errors import ConfigurationError
from elf_automations.model.from_otlp import OtlpSpans
from elf_automations.model.from_otlp_bytes import MalformedRequestError, from_json, from_protobuf, json_document

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_LENGTH: Final = struct.Struct(">I")
_SAMPLE: Final = 64 * 1024
# A request begins with the tag of resource_spans, its first item with that of resource or scope_spans. Control
# characters are in every protobuf request and in no JSON.
_REQUEST_TAG: Final = 0x0A
_ONE_REQUEST: Final = re.compile(rb"\x0a[\x80-\xff]{0,9}[\x00-\x7f][\x0a\x12]")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_OBJECT_LINE: Final = re.compile(rb'^[ \t]*\{[ \t]*"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One request of a file: its `place` for people, the `read` bytes of the file up to its end, and what it holds.

    `spans` is None and `problem` says why when it cannot be read.
    """

    place: str
    read: int
    spans: OtlpSpans | None
    problem: str = ""


def requests_of(file: Path, limit: int, *, skip: int = 0) -> Iterator[FileRequest]:
    """Yield the requests of `file` after the first `skip`, at most `limit` bytes each; a damaged one as such.

    Raises ConfigurationError for a file that cannot be opened or is of no known kind.
    """
    with reading(file):
        layout = _layout(file, limit)
        with _opened(file) as source:
            yield from layout(file, source, limit, skip).each()


@contextmanager
def reading(file: Path) -> Generator[None]:
    """Make a ConfigurationError that names `file` of what reading it raises."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror or error}") from None


def _layout(file: Path, limit: int) -> type[_Requests]:
    """Return how the requests of a file follow one another, by what its undamaged parts look like."""
    with _opened(file) as source:
        start = source.content.read(_SAMPLE)
    if start.startswith(_ZSTD):
        raise ConfigurationError(f"{file} is compressed with zstd: unpack it first (zstd -d), or use gzip")
    if _CONTROL.search(start):
        if start[_LENGTH.size :][:1] == bytes([_REQUEST_TAG]) and _LENGTH.unpack_from(start)[0] <= limit:
            return _Framed
        if _ONE_REQUEST.match(start):
            return _OneRequest
        if not _OBJECT_LINE.search(start):
            return _Framed
    with _opened(file) as source:
        return _Lines if _has_whole_lines(source.content, limit) else _OneDocument


def _has_whole_lines(content: BinaryIO, limit: int) -> bool:
    """Return whether a line is a document by itself: the first, or one that is not indented, as within a document."""
    read = 0
    for line in _lines(content, limit):
        if line is None or not line.strip():
            continue
        if (read == 0 or line.startswith(b"{")) and _is_whole(line):
            return True
        read += len(line)
        if read > limit:
            break
    return False


class _Source(io.RawIOBase):
    """The bytes of a file, inflated; they end where nothing more can be read, and `damage` then says what and why."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._content = gzip.GzipFile(fileobj=file) if file.peek(2).startswith(_GZIP) else file
        self.damage: tuple[str, str] | None = None
        self.content: BinaryIO = io.BufferedReader(self, _SAMPLE)
        self.position = file.tell

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        into = memoryview(buffer).cast("B")
        try:
            found = b"" if self.damage else self._content.read1(len(into))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            self.damage, found = ("the gzip data is damaged", str(error)), b""
        except OSError as error:
            self.damage, found = ("it cannot be read further", error.strerror or str(error)), b""
        into[: len(found)] = found
        return len(found)


@contextmanager
def _opened(file: Path) -> Generator[_Source]:
    with file.open("rb") as opened:
        yield _Source(opened)


@dataclass(slots=True)
class _Requests:
    file: Path
    source: _Source
    limit: int
    skip: int
    numbered: ClassVar[str] = ""
    """What people count in such a file."""

    def each(self) -> Iterator[FileRequest]:
        number = self.skip
        for request in self._requests():
            # What the damage cut off is no problem of its own.
            if request.spans is not None or self.source.damage is None:
                number += 1
                yield request
        if self.source.damage:
            what, why = self.source.damage
            after = f" after {self.numbered} {number}" if self.numbered and number else ""
            yield self._problem(str(self.file), f"{what}{after}: {why}")

    def _requests(self) -> Iterator[FileRequest]:
        raise NotImplementedError

    def _read(self, place: str, decode: Callable[[bytes], OtlpSpans], body: bytes | None) -> FileRequest:
        if body is None or len(body) > self.limit:
            return self._problem(place, f"it is larger than {self.limit} bytes (ELF_SINK_MAX_BYTES)")
        try:
            return FileRequest(place, self.source.position(), decode(body))
        except MalformedRequestError as error:
            return self._problem(place, str(error))

    def _problem(self, place: str, problem: str) -> FileRequest:
        return FileRequest(place, self.source.position(), None, problem)


class _OneRequest(_Requests):
    """A file that is one protobuf request."""

    def _requests(self) -> Iterator[FileRequest]:
        if self.skip == 0:
            yield self._read(str(self.file), from_protobuf, self.source.content.read(self.limit + 1))


class _OneDocument(_Requests):
    """A file that is one JSON request, in any number of lines."""

    def _requests(self) -> Iterator[FileRequest]:
        if self.skip == 0:
            body = self.source.content.read(self.limit + 1)
            if body.strip():
                yield self._read(str(self.file), from_json, body.removeprefix(_BYTE_ORDER_MARK))


class _Lines(_Requests):
    """A JSON request a line; a blank line is one that holds nothing."""

    numbered = "line"

    def _requests(self) -> Iterator[FileRequest]:
        for number, line in enumerate(_lines(self.source.content, self.limit), 1):
            if number > self.skip:
                yield self._read(f"{self.file}:{number}", _from_line, line)


class _Framed(_Requests):
    """Protobuf requests, each after its length."""

    numbered = "request"

    def _requests(self) -> Iterator[FileRequest]:
        content, number = self.source.content, 0
        while head := content.read(_LENGTH.size):
            number += 1
            place = f"{self.file} request {number}"
            size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else self.limit + 1
            if size > self.limit:
                yield self._problem(place, "its length cannot be right; nothing after it can be read")
                return
            body = content.read(size)
            if len(body) < size:
                yield self._problem(place, "the file ends in the middle of it")
                return
            if number > self.skip:
                yield self._read(place, from_protobuf, body)


def _lines(content: BinaryIO, limit: int) -> Iterator[bytes | None]:
    """Yield the lines of a text without a byte order mark, None for one of more than `limit` bytes."""
    begin = _BYTE_ORDER_MARK
    while line := content.readline(limit + 1):
        yield line.removeprefix(begin) if len(line) <= limit else None
        while len(line) > limit and not line.endswith(b"\n"):
            line = content.readline(limit + 1)
        begin = b""


def _from_line(line: bytes) -> OtlpSpans:
    return from_json(line if line.strip() else b"{}")


def _is_whole(text: bytes) -> bool:
    try:
        json_document(text)
    except MalformedRequestError:
        return False
    return True
