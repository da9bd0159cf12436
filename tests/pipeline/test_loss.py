"""Nothing is lost and nothing doubled while the sink, a Collector and the database go and come back.

`python tests/benchmarks/pipeline_loss.py` is the same with 100,000 spans and 20 kills.
"""

from __future__ import annotations

from pathlib import Path

from loss_run import run


def test_every_call_is_there_once_after_kills_and_a_restart(tmp_path: Path) -> None:
    books = run(tmp_path, 3000, 3, together=200, tell=lambda _: None)
    assert (books.sent, books.stored, books.lost, books.doubled) == (3000, 3000, 0, 0)
    # A client's span and its server's are one call, also when they were stored apart.
    assert books.calls == books.counted == books.rolled_up == 2252
