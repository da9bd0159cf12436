"""Files of OTLP requests: JSON or protobuf, one request a file or one after the other, plain or gzip.

Source of the framing: the Collector's file exporter writes one JSON request a line, and before each protobuf request
its length as four bytes, most significant first.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

import orjson

from elf_automations.errors import ConfigurationError
from elf_automations.model.from_otlp import OtlpSpans
from elf_automations.model.from_otlp_bytes import MalformedRequestError, from_json, from_protobuf

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_LENGTH: Final = struct.Struct(">I")
# The first byte of a protobuf request is the tag of resource_spans; that of a framed one its length, far below.
_REQUEST_TAG: Final = 0x0A


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

    Raises ConfigurationError for a file that cannot be read or is of no known kind.
    """
    try:
        with file.open("rb") as raw:
            start = raw.read(4)
            raw.seek(0)
            if start == _ZSTD:
                raise ConfigurationError(f"{file} is compressed with zstd: unpack it first (zstd -d), or use gzip")
            if start[:2] == _GZIP:
                with gzip.open(raw) as inflated:
                    yield from _Requests(file, cast("IO[bytes]", inflated), raw.tell, limit, skip).each()
            else:
                yield from _Requests(file, raw, raw.tell, limit, skip).each()
    except gzip.BadGzipFile as error:
        raise ConfigurationError(f"{file} is no gzip file: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror or error}") from None


@dataclass(slots=True)
class _Requests:
    file: Path
    stream: IO[bytes]
    tell: Callable[[], int]
    limit: int
    skip: int

    def each(self) -> Iterator[FileRequest]:
        try:
            first = self.stream.read(1)
            self.stream.seek(0)
            if first and first[0] == _REQUEST_TAG:
                if self.skip == 0:
                    yield self._read(str(self.file), from_protobuf, self.stream.read(self.limit + 1))
            elif first and first in b" \t\r{[":
                yield from self._json()
            else:
                yield from self._framed()
        except (EOFError, zlib.error) as error:
            yield FileRequest(str(self.file), self.tell(), None, f"the gzip data is damaged: {error}")

    def _json(self) -> Iterator[FileRequest]:
        """Yield a request a line; a document that takes several lines is the only one of its file."""
        first = self.stream.readline(self.limit + 1)
        if not _is_whole(first):
            rest = self.stream.read(max(0, self.limit + 1 - len(first)))
            second = rest.partition(b"\n")[0]
            if not second.strip() or not _is_whole(second):
                if self.skip == 0:
                    yield self._read(str(self.file), from_json, first + rest)
                return
        self.stream.seek(0)
        for number, line in enumerate(iter(lambda: self.stream.readline(self.limit + 1), b""), 1):
            if number > self.skip:
                yield self._read(f"{self.file}:{number}", from_json, line if line.strip() else b"{}")

    def _framed(self) -> Iterator[FileRequest]:
        number = 0
        while head := self.stream.read(_LENGTH.size):
            number += 1
            place = f"{self.file} request {number}"
            size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else self.limit + 1
            if size > self.limit:
                yield FileRequest(place, self.tell(), None, "its length cannot be right; nothing after it can be read")
                return
            body = self.stream.read(size)
            if len(body) < size:
                yield FileRequest(place, self.tell(), None, "the file ends in the middle of it")
            elif number > self.skip:
                yield self._read(place, from_protobuf, body)

    def _read(self, place: str, decode: Callable[[bytes], OtlpSpans], body: bytes) -> FileRequest:
        if len(body) > self.limit:
            return FileRequest(place, self.tell(), None, f"it is larger than {self.limit} bytes (ELF_SINK_MAX_BYTES)")
        try:
            return FileRequest(place, self.tell(), decode(body))
        except MalformedRequestError as error:
            return FileRequest(place, self.tell(), None, str(error))


def _is_whole(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
