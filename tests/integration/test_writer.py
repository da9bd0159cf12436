"""What the database holds after a batch: every row once and whole, whatever way it went and however often."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from elf_automations.errors import SchemaMissingError, StorageRefusedError, StorageUnavailableError
from elf_automations.model import Communication, Entity
from elf_automations.storage.columns import COLUMNS
from elf_automations.storage.migrate import migrate
from elf_automations.storage.writer import PostgresWriter
from spans import START, row

SIZES = [1, 63, 64, 300]


@pytest.fixture
def writer(database_url: str) -> Iterator[PostgresWriter]:
    made = PostgresWriter(database_url)
    yield made
    made.close()


def rows(number: int) -> list[Communication]:
    return [row(n) for n in range(number)]


def team(calls: int, errors: int = 0, *, observed: bool = True) -> Entity:
    return Entity(
        entity_id="planning-team",
        entity_type="team",
        entity_name="Planning",
        observed=observed,
        calls=calls,
        errors=errors,
        last_activity=START,
    )


def ask(url: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        cursor = connection.execute(query)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return cursor.fetchall() if cursor.description else []


def stored(url: str) -> list[dict[str, Any]]:
    names = ", ".join(COLUMNS)
    return ask(url, f'SELECT {names} FROM communication_telemetry ORDER BY "timestamp"')


def activity(url: str) -> tuple[int, int]:
    (found,) = ask(url, "SELECT activity_count, error_count FROM unified_registry WHERE entity_id = 'planning-team'")
    return found["activity_count"], found["error_count"]


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("number", SIZES)
def test_rows_come_back_whole_by_every_way_in(
    writer: PostgresWriter, database_url: str, number: int, *, retry: bool
) -> None:
    result = writer.write(rows(number), [team(number)], retry=retry)
    assert (result.stored, result.duplicate, result.rejected) == (number, 0, ())
    assert stored(database_url) == [asdict(sent) for sent in rows(number)]


@pytest.mark.parametrize("number", SIZES)
def test_a_batch_delivered_again_changes_nothing(writer: PostgresWriter, database_url: str, number: int) -> None:
    batch, entities = rows(number), [team(number, 3)]
    writer.write(batch, entities, retry=False)
    before = stored(database_url), activity(database_url)
    for retry in (False, True):
        again = writer.write(batch, entities, retry=retry)
        assert (again.stored, again.duplicate) == (0, number)
    assert (stored(database_url), activity(database_url)) == before
    assert activity(database_url) == (number, 3)


@pytest.mark.parametrize("number", [40, 200])
def test_activity_is_added_for_the_new_part_of_a_batch_only(
    writer: PostgresWriter, database_url: str, number: int
) -> None:
    half = number // 2
    writer.write(rows(half), [team(half, half // 10)], retry=False)
    result = writer.write(rows(number), [team(number, number // 10)], retry=False)
    assert (result.stored, result.duplicate) == (half, half)
    assert activity(database_url) == (number, number // 10)


@pytest.mark.parametrize("number", [10, 200])
def test_bad_rows_are_refused_alone_each_with_its_reason(
    writer: PostgresWriter, database_url: str, number: int
) -> None:
    batch = rows(number)
    bad = {
        1: {"protocol": "smtp"},
        3: {"error_message": "NUL \x00"},
        4: {"tool_name": "\ud800"},
        6: {"tokens_used": 2**70},
        8: {"source_id": None},
        9: {"duration_ms": -1.0},
    }
    for number_of, changes in bad.items():
        batch[number_of] = row(number_of, **changes)
    result = writer.write(batch, [team(number)], retry=False)
    assert (result.stored, result.duplicate) == (number - len(bad), 0)
    assert [refused.row for refused in result.rejected] == [batch[at] for at in bad]
    reasons = [refused.reason for refused in result.rejected]
    assert "communication_telemetry_protocol_known" in reasons[0]
    assert "source_id" in reasons[4]
    assert all(reason and "\n" not in reason for reason in reasons)
    assert len(stored(database_url)) == number - len(bad)
    assert activity(database_url)[0] == number - len(bad)


def test_a_bad_registry_entry_does_not_cost_the_rows(writer: PostgresWriter, database_url: str) -> None:
    bad = Entity(entity_id="x\x00y", entity_type="team")
    result = writer.write(rows(100), [bad, team(100)], retry=False)
    assert result.stored == 100
    assert len(result.rejected_entities) == 1
    assert activity(database_url)[0] == 100


def test_two_writers_of_the_same_entities_do_not_deadlock_or_lose_a_call(database_url: str) -> None:
    ids = [f"team-{n}" for n in range(20)]
    failures: list[BaseException] = []

    def write(offset: int) -> None:
        mine = PostgresWriter(database_url)
        try:
            for batch in range(15):
                at = offset + batch * 70
                order = ids if offset else ids[::-1]
                entities = [Entity(entity_id=i, entity_type="team", entity_name=i, calls=1) for i in order]
                mine.write([row(at + n) for n in range(70)], entities, retry=False)
        except BaseException as error:
            failures.append(error)
        finally:
            mine.close()

    threads = [threading.Thread(target=write, args=(offset,)) for offset in (0, 100_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert ask(database_url, "SELECT DISTINCT activity_count FROM unified_registry") == [{"activity_count": 30}]


def test_a_connection_the_server_ended_is_replaced_without_a_word(writer: PostgresWriter, database_url: str) -> None:
    writer.write(rows(1), [], retry=False)
    ask(
        database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert writer.write(rows(100), [], retry=False).stored == 99


def test_settling_joins_what_came_in_two_batches(writer: PostgresWriter, database_url: str) -> None:
    now = datetime.now(UTC)
    client = row(1, timestamp=now, status="success", error_message=None, error_code=None)
    server = row(
        2,
        timestamp=now + timedelta(milliseconds=1),
        trace_id=client.trace_id,
        parent_span_id=client.span_id,
        observed_by="server",
        status="error",
        error_code="E1",
    )
    writer.write([server], [], retry=False)
    writer.write([client], [], retry=False)
    writer.settle(now - timedelta(minutes=1))
    found = {
        seen["observed_by"]: (seen["counted"], seen["status"], seen["error_code"]) for seen in stored(database_url)
    }
    assert found == {"client": (True, "error", "E1"), "server": (False, "error", "E1")}


def test_a_forked_child_opens_its_own_connection_and_leaves_the_parents(database_url: str) -> None:
    writer = PostgresWriter(database_url)
    writer.write([row(1)], [], retry=False)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if writer.write([row(2)], [], retry=False).stored == 1 else 2
            writer.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert writer.write([row(3)], [], retry=False).stored == 1
    writer.close()
    assert len(stored(database_url)) == 3


def test_a_database_without_the_schema_names_setup(empty_database_url: str) -> None:
    writer = PostgresWriter(empty_database_url)
    for number in (1, 100):
        with pytest.raises(SchemaMissingError, match="run `elf-telemetry setup`"):
            writer.write(rows(number), [], retry=False)
    migrate(empty_database_url)
    assert writer.write(rows(100), [], retry=True).stored == 100
    writer.close()


def test_an_unreachable_database_is_unavailable_and_a_wrong_user_is_refused(database_url: str) -> None:
    with pytest.raises(StorageUnavailableError, match="cannot reach the database"):
        PostgresWriter("postgresql://u:hunter2@127.0.0.1:1/db").write(rows(1), [], retry=False)
    name = f"elf_reader_{uuid.uuid4().hex[:8]}"
    ask(database_url, f"CREATE ROLE {name} LOGIN PASSWORD 'hunter2'")
    try:
        reader = PostgresWriter(database_url.replace("postgres@", f"{name}@"))
        with pytest.raises(StorageRefusedError, match="refuses this user"):
            reader.write(rows(1), [], retry=False)
        reader.close()
    finally:
        ask(database_url, f"DROP ROLE {name}")


@pytest.mark.parametrize("number", [5, 100])
def test_a_lock_that_does_not_come_free_is_waited_for_later(
    writer: PostgresWriter, database_url: str, number: int
) -> None:
    name = ask(database_url, "SELECT current_database() AS name")[0]["name"]
    ask(database_url, f"ALTER DATABASE {name} SET lock_timeout = 100")
    with psycopg.connect(database_url) as blocker:
        blocker.execute("LOCK TABLE communication_telemetry IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StorageUnavailableError, match="cannot take data now"):
            writer.write(rows(number), [], retry=False)
    assert writer.write(rows(number), [], retry=True).stored == number


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("number", [10, 70])
def test_the_same_row_twice_in_one_batch_is_one_row(
    writer: PostgresWriter, database_url: str, number: int, *, retry: bool
) -> None:
    """The first is stored, and adds to the registry what it says itself."""
    ok = {"status": "success", "error_message": None, "error_code": None}
    batch = [row(at, **ok) for at in range(number)]
    batch += [replace(batch[5], status="error", error_code="late"), batch[6], batch[6]]
    result = writer.write(batch, [team(number + 3, 1)], retry=retry)
    assert (result.stored, result.duplicate, result.rejected) == (number, 3, ())
    assert stored(database_url) == [asdict(sent) for sent in batch[:number]]
    assert activity(database_url) == (number, 0)


def test_a_row_that_is_bad_once_and_good_once_is_stored_once(writer: PostgresWriter, database_url: str) -> None:
    batch = rows(80)
    batch.insert(5, replace(batch[5], protocol="smtp"))
    result = writer.write(batch, [team(81)], retry=False)
    assert (result.stored, result.duplicate) == (80, 0)
    assert [refused.row for refused in result.rejected] == [batch[5]]
    assert activity(database_url)[0] == 80
