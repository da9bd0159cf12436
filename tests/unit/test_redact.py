"""Secrets never reach the table, and redaction costs linear time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elf_automations.model.redact import bounded_metadata, redact, safe_text

SECRETS = [
    "Authorization: Bearer abc.def-ghi_jkl0123456789",
    "key sk-fakefakefakefakefakefake",
    "sb_secret_fakefakefakefake",
    "AKIAFAKEFAKEFAKE0000",
    "postgresql://user:fakepassword@db/x",
    "https://x.example/hook?token=fakefakefake&a=1",
    "password=fakefakefake",
    'api_key: "fakefakefake"',
    "-----BEGIN RSA PRIVATE KEY-----\nMIIfakefake\n-----END RSA PRIVATE KEY-----",
    "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYW5vbiJ9.fakesignature",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_is_replaced_and_the_rest_stays(secret):
    cleaned = redact(f"before {secret} after")
    assert "[REDACTED]" in cleaned
    assert "fake" not in cleaned.lower().replace("[redacted]", "")
    assert cleaned.startswith("before ")


def test_ordinary_prose_is_left_alone():
    prose = "Generate a proposal for the sales team; see https://example.com/a?page=2 and call +47 22 00 00 00."
    assert redact(prose) == prose


def test_bait_for_the_patterns_comes_to_an_end():
    for bait in ("Bearer " * 60_000, "eyJ" + "a" * 400_000, "https://" + "a:" * 200_000, "password=" * 45_000):
        assert len(redact(bait)) <= len(bait)


@given(st.text(max_size=300), st.integers(1, 50))
def test_any_text_becomes_text_that_utf8_and_postgres_take(text, limit):
    cleaned = safe_text(text, limit)
    assert len(cleaned) <= limit
    assert "\x00" not in cleaned
    cleaned.encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=10), _JSON, max_size=5))
def test_any_metadata_becomes_strict_json(metadata):
    import orjson

    orjson.dumps(bounded_metadata(metadata))
