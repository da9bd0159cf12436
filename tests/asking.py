"""Asking a database in a test: rows, one value, many connections at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg


def rows(connection: psycopg.Connection[Any], query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return what `query` answers."""
    return connection.execute(query.encode(), parameters or None).fetchall()


def value(connection: psycopg.Connection[Any], query: str, *parameters: object) -> Any:
    """Return the one value `query` answers."""
    [[answer]] = rows(connection, query, *parameters)
    return answer


def asked(url: str, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Return what `query` answers on a connection of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        return rows(connection, query, *parameters)


def span_ids(url: str) -> set[str]:
    """Return the span id of every row."""
    return {found for (found,) in asked(url, "select span_id from communication_telemetry")}


def together(url: str, workers: int, work: Callable[[psycopg.Connection[Any], int], object]) -> list[object]:
    """Run `work` on as many connections as workers, all let go at the same moment."""
    start = Barrier(workers)

    def run(number: int) -> object:
        with psycopg.connect(url, autocommit=True) as connection:
            start.wait(timeout=60)
            return work(connection, number)

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(run, range(workers)))
