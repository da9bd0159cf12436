"""Polling an n8n: every execution once, whatever is slow, broken, killed or goes on."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter

import pytest

from command import COMMAND, eventually, run, running
from n8n_api_server import KEY, Instance, serving
from n8n_syncing import counts, execution, executions, sync


def test_every_execution_is_one_row_and_again_none(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(1, 131)]
    assert counts(sync(database_url)) == {"read": 130, "stored": 260}
    assert executions(database_url) == Counter(str(number) for number in range(1, 131))
    assert n8n.pages() == 3
    n8n.executions += [execution(131), execution(132, "error")]
    asked = n8n.pages()
    assert counts(sync(database_url))["read"] in range(2, 53)  # the page that has them
    assert n8n.pages() == asked + 1
    assert max(executions(database_url).values()) == 1
    assert len(executions(database_url)) == 132
    assert counts(sync(database_url)) == {}
    again = counts(sync(database_url, "--since", "1h"))
    assert again == {"read": 132, "duplicate": 264}


def test_what_goes_on_is_looked_at_again(n8n: Instance, url: str, database_url: str) -> None:
    """They have ids below the newest that has ended: going on from that one would miss them for good."""
    n8n.executions = [
        execution(1, "running"), execution(2, "waiting"), execution(3, "new"), execution(4), execution(5, "running"),
    ]  # fmt: skip
    assert counts(sync(database_url)) == {"read": 1, "waiting": 4, "stored": 2}
    n8n.executions[0] = execution(1)
    n8n.executions[1] = execution(2, "running")
    n8n.executions[2] = execution(3, "canceled")
    del n8n.executions[4]
    assert counts(sync(database_url)) == {"read": 2, "waiting": 1, "gone": 1, "stored": 4}
    n8n.executions[1] = execution(2, "error")
    n8n.executions.append(execution(6))
    assert counts(sync(database_url))["stored"] == 4
    assert executions(database_url) == Counter("12346")


def test_an_execution_that_ends_while_its_page_is_read_is_not_lost(n8n: Instance, url: str, database_url: str) -> None:
    """Of each kind of change between two questions: it is found by one of them, now or next time."""
    n8n.executions = [execution(1, "running"), execution(2, "waiting"), execution(3, "new"), execution(4)]
    changes = iter([("3", "running"), ("1", "success"), ("2", "running"), ("3", "success"), ("2", "success")])

    def change(path: str) -> None:
        if "/executions?" in path and "limit=1&" not in path and (told := next(changes, None)):
            n8n.executions[int(told[0]) - 1] = execution(int(told[0]), told[1])

    n8n.before = change
    sync(database_url)
    sync(database_url)
    assert executions(database_url) == Counter("1234")


def test_an_old_n8n_that_cannot_list_what_runs_is_read_again_an_hour_back(
    n8n: Instance, url: str, database_url: str
) -> None:
    n8n.old = True
    n8n.executions = [execution(1, "running"), execution(2)]
    sync(database_url)
    n8n.executions[0] = execution(1)
    sync(database_url)
    assert executions(database_url) == Counter("12")


def test_an_n8n_with_a_fresh_database_is_read_on_by_time(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(101, 105)]
    sync(database_url)
    n8n.executions = [execution(number + 110, id=str(number)) for number in range(1, 4)]
    told = run(database_url, "n8n", "sync").stderr
    assert told.count("\n") == 1
    assert "execution 3 began after execution 104, which was read last: " in told
    assert len(executions(database_url)) == 4 + 3
    n8n.executions += [execution(120, id="4")]
    again = run(database_url, "n8n", "sync")
    assert again.stderr == ""
    assert executions(database_url)["4"] == 1


def test_a_walk_that_is_killed_goes_on_where_it_was(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(1, 301)]
    n8n.delay_s = 0.1
    arguments = [COMMAND, "n8n", "sync", "--limit-rate", "1000", "--database-url", database_url]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    eventually(lambda: n8n.pages() >= 4)
    process.kill()
    process.wait()
    seen = n8n.pages()
    n8n.delay_s = 0
    n8n.executions += [execution(301), execution(302)]
    sync(database_url)
    assert executions(database_url) == Counter(str(number) for number in range(1, 303))
    # Six pages and one for what came meanwhile, and of those that were killed at most two anew.
    assert n8n.pages() <= seen + 1 + (6 - seen + 2)


def test_two_at_once_store_nothing_twice_and_lose_nothing(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(number) for number in range(1, 301)]
    n8n.delay_s = 0.05
    arguments = [COMMAND, "n8n", "sync", "--limit-rate", "1000", "--database-url", database_url]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL) for _ in range(2)]
    told = sorted((process.communicate()[1], process.returncode) for process in both)
    assert told[0] == ("", 0)
    assert told[1] == ("", 0) or (told[1][1] == 2 and "another process reads n8n:127.0.0.1" in told[1][0])
    sync(database_url)
    assert executions(database_url) == Counter(str(number) for number in range(1, 301))


def test_a_busy_n8n_is_asked_again_when_it_says(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1)]
    over = "Wed, 21 Oct 2015 07:28:00 GMT"
    n8n.trouble = [(429, {"Retry-After": "1"}), (503, {"Retry-After": over}), (502, {"Retry-After": "0"})]
    began = time.monotonic()
    assert counts(sync(database_url)) == {"read": 1, "stored": 2}
    assert time.monotonic() - began >= 1


def test_it_asks_no_faster_than_it_may(n8n: Instance, url: str, database_url: str) -> None:
    n8n.executions = [execution(1)]
    began = time.monotonic()
    run(database_url, "n8n", "sync", "--limit-rate", "5")
    assert time.monotonic() - began >= (len(n8n.asked) - 1) / 5


def test_it_goes_on_for_good_waits_out_a_restart_and_ends_when_asked(
    n8n: Instance, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELF_N8N_EXECUTIONS", "api")
    with serving(n8n) as served:
        port = int(served.rpartition(":")[2])
        environ = {"ELF_N8N_URL": served, "ELF_N8N_API_KEY": KEY}
        command = ("n8n", "sync", "--every", "1", "--limit-rate", "1000")
        n8n.executions = [execution(1)]
        with running(database_url, *command, **environ) as (process, _, errors):
            eventually(lambda: executions(database_url) == Counter("1"))
            n8n.executions.append(execution(2))
            eventually(lambda: executions(database_url) == Counter("12"))
            n8n.trouble = [(500, {"Retry-After": "0"})] * 6
            eventually(lambda: any("is busy (HTTP 500)" in line for line in errors))
            n8n.executions.append(execution(3))
            eventually(lambda: executions(database_url) == Counter("123"))
            _start_up(n8n)
            n8n.executions.append(execution(4))
            eventually(lambda: executions(database_url) == Counter("1234"))
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        assert port


def _start_up(n8n: Instance) -> None:
    """Answer as an n8n does that migrates its database and then has not opened its API yet."""
    for status, page in [(200, "n8n is starting up. Please wait"), (404, "<pre>Cannot GET /api/v1/workflows</pre>")]:
        asked = len(n8n.asked)
        n8n.html, n8n.html_status = page, status
        eventually(lambda before=asked: len(n8n.asked) > before + 1)
    n8n.html = None
