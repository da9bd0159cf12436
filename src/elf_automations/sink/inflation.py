"""Compressed bodies, inflated up to a limit: a bomb costs its limit and no more."""

from __future__ import annotations

import zlib
from typing import Final

from elf_automations.model.from_otlp_bytes import MalformedRequestError

_WINDOW_BITS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS: Final = ("gzip", "deflate", "identity")
_CHUNK_BYTES: Final = 16 * 1024


class TooLargeError(Exception):
    """The body is larger than the sink takes."""


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return `body` without its `Content-Encoding` (gzip, deflate, identity), at most `limit` bytes of it.

    Raises TooLargeError when there are more, MalformedRequestError when the body is not of that encoding or the
    encoding unknown.
    """
    if encoding in {"", "identity"}:
        return body
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise MalformedRequestError(f"the content encoding {encoding[:40]!r} is not one of {', '.join(ENCODINGS)}")
    made = bytearray()
    inflater = zlib.decompressobj(bits)
    for start in range(0, len(body), _CHUNK_BYTES):
        rest = body[start : start + _CHUNK_BYTES]
        while rest:
            # gzip allows one member after the other, and each leaves a copy of what is behind it: of a chunk, no more.
            if inflater.eof:
                inflater = zlib.decompressobj(bits)
            try:
                made += inflater.decompress(rest, limit + 1 - len(made))
            except zlib.error as error:
                raise MalformedRequestError(f"the body is not valid {encoding}: {error}") from None
            if len(made) > limit:
                raise TooLargeError(f"the body is larger than {limit} bytes when inflated")
            rest = inflater.unused_data
    if body and not inflater.eof:
        raise MalformedRequestError(f"the body is not valid {encoding}: it ends too early")
    return bytes(made)
