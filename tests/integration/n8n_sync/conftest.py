"""An n8n whose executions are rows only by its API."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from n8n_api_server import KEY, Instance, serving
from n8n_syncing import BEGUN, workflow


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let executions have begun shortly before their test, however long the tests before it took."""
    monkeypatch.setitem(BEGUN, "first", datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=8))


@pytest.fixture
def n8n() -> Instance:
    return Instance(workflows=[workflow("wf_1")])


@pytest.fixture
def url(n8n: Instance, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(n8n) as served:
        monkeypatch.setenv("ELF_N8N_URL", served)
        monkeypatch.setenv("ELF_N8N_API_KEY", KEY)
        monkeypatch.setenv("ELF_N8N_EXECUTIONS", "api")
        yield served
