"""Who gets into the sink."""

from __future__ import annotations

import pytest

from elf_automations.sink.bearer import Token


@pytest.mark.parametrize("secret", [None, ""])
def test_without_a_secret_everybody_gets_in(secret: str | None):
    assert Token(secret).admits(None)


@pytest.mark.parametrize("said", [None, "", "Bearer", "Bearer ", "Bearer  ", "Bearer None"])
def test_a_secret_of_nothing_but_blanks_lets_nobody_in(said: str | None):
    assert not Token("  ").admits(said)
