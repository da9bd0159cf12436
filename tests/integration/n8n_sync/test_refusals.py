"""What makes polling an n8n impossible is one clear line."""

from __future__ import annotations

import pytest

from command import run
from n8n_api_server import KEY, Instance


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"ELF_N8N_API_KEY": "wrong"}, "refuses the API key (401 unauthorized)"),
        ({"ELF_N8N_API_KEY": ""}, "give ELF_N8N_API_KEY"),
        ({"ELF_N8N_API_KEY": "a b"}, "ELF_N8N_API_KEY is not an API key"),
        ({"ELF_N8N_URL": ""}, "give --url or ELF_N8N_URL"),
        ({"ELF_N8N_URL": "n8n.example.com"}, "write https://n8n.example.com"),
        ({"ELF_N8N_URL": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_what_is_wrong_is_one_line(url: str, database_url: str, environ: dict[str, str], line: str) -> None:
    told = run(database_url, "n8n", "sync", code=2, **environ).stderr
    assert line in told
    assert told.count("\n") == 1
    assert KEY not in told


def test_a_page_of_something_else_is_not_an_api(n8n: Instance, url: str, database_url: str) -> None:
    n8n.html = "<!doctype html><title>Welcome</title>"
    assert "there is no n8n API at" in run(database_url, "n8n", "sync", code=2).stderr
    assert (
        "TLS with https://127.0.0.1"
        in run(database_url, "n8n", "sync", code=2, ELF_N8N_URL=url.replace("http:", "https:")).stderr
    )


@pytest.mark.parametrize("since", ["yesterday", "7 days", "-1d"])
def test_a_time_that_is_none_is_one_line(url: str, database_url: str, since: str) -> None:
    assert "is no time" in run(database_url, "n8n", "sync", "--since", since, code=2).stderr
