"""Compressed bodies, whole and hostile."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest

from elf_automations.sink.inflation import TooLargeError, inflate

_LIMIT = 1_000_000
_BODY = random.Random(1).randbytes(300_000)
_EMPTY_MEMBERS = 1_000_000


@pytest.mark.parametrize("cut", [0, 1, 5_000, 150_000, len(_BODY)])
def test_members_one_after_the_other_are_one_body(cut: int) -> None:
    members = [gzip.compress(_BODY[:cut]), gzip.compress(b""), gzip.compress(_BODY[cut:])]
    assert inflate(b"".join(members), "gzip", _LIMIT) == _BODY


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_nothing_is_nothing(encoding: str) -> None:
    assert inflate(b"", encoding, _LIMIT) == b""


@pytest.mark.timeout(120)
def test_a_body_of_empty_members_costs_what_it_is_long() -> None:
    """20 MB of them: as many copies of what is left would be ten terabytes."""
    assert inflate(gzip.compress(b"") * _EMPTY_MEMBERS, "gzip", _LIMIT) == b""


def test_all_members_together_are_held_to_the_limit() -> None:
    member = gzip.compress(bytes(_LIMIT // 2))
    assert len(inflate(2 * member, "gzip", _LIMIT)) == _LIMIT
    with pytest.raises(TooLargeError, match="when inflated"):
        inflate(2 * member + gzip.compress(b"x"), "gzip", _LIMIT)


@pytest.mark.parametrize(
    ("body", "encoding", "said"),
    [
        (gzip.compress(_BODY)[:-1], "gzip", "it ends too early"),
        (gzip.compress(_BODY)[:100_000], "gzip", "it ends too early"),
        (zlib.compress(_BODY)[:-1], "deflate", "it ends too early"),
        (gzip.compress(_BODY) + b"rest", "gzip", "incorrect header check"),
        (gzip.compress(_BODY) + gzip.compress(_BODY)[:5], "gzip", "it ends too early"),
    ],
)
def test_what_is_not_whole_is_refused(body: bytes, encoding: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"the body is not valid {encoding}: .*{said}"):
        inflate(body, encoding, _LIMIT)
