"""Rows over HTTPS: the same rows as over Postgres, what is worth trying again, and what a person reads otherwise."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from uuid import UUID

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from elf_automations.errors import SchemaMissingError, StorageRefusedError, StorageUnavailableError
from elf_automations.model import Entity
from elf_automations.storage.columns import COLUMNS
from elf_automations.storage.supabase import StorageThrottledError, SupabaseRpc
from elf_automations.storage.supabase_writer import SupabaseWriter
from postgrest_server import Api, serving
from spans import START, row

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"


@pytest.fixture
def api(database_url: str) -> Iterator[Api]:
    with serving(database_url, keys={"sb_secret_0123456789": None, JWT: None}) as running:
        yield running


@pytest.fixture
def rpc(api: Api) -> Iterator[SupabaseRpc]:
    made = SupabaseRpc(api.url, api.key)
    yield made
    made.close()


@pytest.fixture
def writer(api: Api) -> Iterator[SupabaseWriter]:
    made = SupabaseWriter(lambda: SupabaseRpc(api.url, api.key))
    yield made
    made.close()


def team(calls: int) -> Entity:
    return Entity(
        entity_id="planning-team", entity_type="team", entity_name="Planning", calls=calls, last_activity=START
    )


def stored(url: str) -> list[dict[str, Any]]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        names = ", ".join(COLUMNS)
        return connection.execute(f'SELECT {names} FROM communication_telemetry ORDER BY "timestamp"').fetchall()  # pyright: ignore[reportArgumentType, reportCallIssue]


def activity(rpc: SupabaseRpc) -> int:
    (found,) = rpc.select("unified_registry", {"entity_id": "eq.planning-team", "select": "activity_count"})
    return int(found["activity_count"])


@pytest.mark.parametrize("number", [1, 200])
def test_rows_arrive_whole_and_once(writer: SupabaseWriter, rpc: SupabaseRpc, database_url: str, number: int) -> None:
    batch = [row(n) for n in range(number)]
    for retry in (False, True):
        result = writer.write(batch, [team(number)], retry=retry)
        assert (result.stored, result.duplicate, result.rejected) == ((0, number, ()) if retry else (number, 0, ()))
    assert stored(database_url) == [asdict(sent) for sent in batch]
    assert activity(rpc) == number


def test_bad_rows_are_refused_alone(writer: SupabaseWriter, rpc: SupabaseRpc, database_url: str) -> None:
    batch = [row(n) for n in range(10)]
    bad = [row(1, protocol="smtp"), row(3, tool_name="\ud800"), row(4, error_message="NUL \x00")]
    for refused in bad:
        batch[refused.id.int - 1] = refused
    result = writer.write(batch, [team(10)], retry=False)
    assert (result.stored, result.duplicate) == (7, 0)
    assert {refused.row.id for refused in result.rejected} == {row.id for row in bad}
    assert all(refused.reason for refused in result.rejected)
    assert len(stored(database_url)) == 7
    assert activity(rpc) == 7


def test_a_batch_too_large_for_one_request_goes_in_parts(
    writer: SupabaseWriter, api: Api, rpc: SupabaseRpc, database_url: str
) -> None:
    batch = [row(n, metadata={"text": "x" * 1_500_000}) for n in range(7)]
    api.answer_next(503)
    with pytest.raises(StorageUnavailableError):
        writer.write(batch, [team(7)], retry=False)
    assert writer.write(batch, [team(7)], retry=True).stored == 7
    sizes = [len(asked.body) for asked in api.requests]
    assert max(sizes) < 5_000_000
    assert len(stored(database_url)) == 7
    assert activity(rpc) == 7


def test_activity_that_could_not_be_sent_goes_with_the_next_batch(
    writer: SupabaseWriter, api: Api, rpc: SupabaseRpc
) -> None:
    api.answer_next(200, {"stored": 1, "duplicate": 0, "rejected": []})
    api.answer_next(503)
    assert writer.write([row(1)], [team(1)], retry=False).stored == 1
    assert writer.write([row(2)], [team(1)], retry=False).stored == 1
    assert activity(rpc) == 2


def test_activity_of_a_batch_that_was_there_in_part_is_that_of_its_new_rows(
    writer: SupabaseWriter, rpc: SupabaseRpc, database_url: str
) -> None:
    assert writer.write([row(n) for n in range(4)], [team(4)], retry=False).stored == 4
    batch = [row(2), row(4), row(5), row(5), row(6, protocol="smtp"), row(3)]
    result = writer.write(batch, [team(6)], retry=True)
    assert (result.stored, result.duplicate, len(result.rejected)) == (2, 3, 1)
    assert len(stored(database_url)) == 6
    assert activity(rpc) == 6


def test_a_schema_that_does_not_name_the_new_rows_adds_no_activity_twice(
    writer: SupabaseWriter, api: Api, rpc: SupabaseRpc
) -> None:
    assert writer.write([row(1)], [team(1)], retry=False).stored == 1
    api.answer_next(200, {"stored": 1, "duplicate": 1, "rejected": []})
    assert writer.write([row(1), row(2)], [team(2)], retry=True).stored == 1
    assert activity(rpc) == 1


def test_the_answer_names_new_rows_only_when_some_were_not_new(rpc: SupabaseRpc) -> None:
    def ingest(*numbers: int) -> Any:
        rows = [asdict(row(n)) for n in numbers]
        return rpc.call("ingest_communications", {"p_batch": rows})

    ids = {n: str(row(n).id) for n in range(4)}
    assert ingest(1, 2) == {"stored": 2, "duplicate": 0, "rejected": []}
    assert ingest(1, 2) == {"stored": 0, "duplicate": 2, "rejected": [], "stored_ids": []}
    assert ingest(1, 3, 2) == {"stored": 1, "duplicate": 2, "rejected": [], "stored_ids": [ids[3]]}
    by_trace = {name: value for name, value in asdict(row(0)).items() if name != "id"}
    answer = rpc.call("ingest_communications", {"p_batch": [by_trace, asdict(row(1)), "no row"]})
    assert answer["stored_ids"] == [str(UUID(row(0).trace_id[16:] + row(0).span_id))]
    assert [refused["index"] for refused in answer["rejected"]] == [2]


def test_answers_come_compressed_and_requests_go_as_they_are(api: Api, rpc: SupabaseRpc) -> None:
    rpc.call("ingest_communications", {"p_batch": [asdict(row(n)) for n in range(3)]})
    assert len(rpc.select("communication_telemetry")) == 3
    asked = api.requests[-2]
    assert "gzip" in asked.headers["accept-encoding"]
    assert "content-encoding" not in asked.headers
    with httpx.Client(headers={"apikey": api.key}) as client:
        answer = client.get(f"{api.url}/rest/v1/communication_telemetry")
        assert answer.headers["content-encoding"] == "gzip"
        # Why: PostgREST takes the bytes for JSON.
        body, headers = gzip.compress(b"{}"), {"Content-Encoding": "gzip"}
        refused = client.post(f"{api.url}/rest/v1/rpc/active_alerts", content=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (400, "PGRST102")


def test_what_a_key_may_not_do_is_given_up(writer: SupabaseWriter, api: Api) -> None:
    functions = ["settle_communications_if_due", "settle_communications", "maintain_telemetry_if_due"]
    writer.settle(START)
    for function in functions:
        api.answer_next(403, {"code": "42501", "message": f"permission denied for function {function}"})
    for _ in range(3):
        writer.settle(START)
    asked = [request.path.rpartition("/")[2] for request in api.requests]
    assert asked == ["settle_communications_if_due", "maintain_telemetry_if_due", *functions]


def test_a_schema_that_cannot_settle_what_came_settles_since(writer: SupabaseWriter, api: Api) -> None:
    """A package newer than the project's schema: `setup` comes after the upgrade."""
    api.answer_next(404, {"code": "PGRST202", "message": "Could not find the function"})
    for _ in range(2):
        assert writer.settle(START)
    asked = [request.path.rpartition("/")[2] for request in api.requests]
    settling = ["settle_communications", "maintain_telemetry_if_due"]
    assert asked == ["settle_communications_if_due", *settling, *settling]


@pytest.mark.parametrize("key", ["sb_secret_0123456789", JWT])
def test_only_a_token_is_sent_as_a_bearer(api: Api, key: str) -> None:
    client = SupabaseRpc(api.url + "/", key)
    client.call("active_alerts", {})
    client.close()
    headers = api.requests[-1].headers
    assert headers["apikey"] == key
    assert headers.get("authorization") == (f"Bearer {key}" if key == JWT else None)
    assert headers["user-agent"] == "elf-telemetry"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, ""),
        (502, ""),
        (503, "PGRST002"),
        (504, "PGRST003"),
        (500, "40001"),
        (500, "40P01"),
        (500, "57014"),
        (500, "57P01"),
    ],
)
def test_what_passes_is_worth_trying_again(api: Api, rpc: SupabaseRpc, status: int, code: str) -> None:
    api.answer_next(status, {"code": code, "message": "later"} if code else None)
    with pytest.raises(StorageUnavailableError, match=rf"cannot take data now.*{status}.*{code}"):
        rpc.call("active_alerts", {})


@pytest.mark.parametrize(
    ("status", "code", "error", "says"),
    [
        (404, "PGRST202", SchemaMissingError, "run `elf-telemetry setup`"),
        (401, "", StorageRefusedError, "check SUPABASE_SERVICE_KEY"),
        (403, "42501", StorageRefusedError, "the grants of its role"),
        (413, "", StorageRefusedError, "make batches smaller"),
        (400, "22P02", StorageRefusedError, "22P02"),
        (500, "XX000", StorageRefusedError, "500 XX000"),
    ],
)
def test_what_does_not_pass_is_one_clear_line(
    api: Api, rpc: SupabaseRpc, status: int, code: str, error: type[Exception], says: str
) -> None:
    api.answer_next(status, {"code": code, "message": "no\nsecond line"})
    with pytest.raises(error, match=says) as raised:
        rpc.call("active_alerts", {})
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert "0123456789" not in str(raised.value)


def test_a_throttled_client_knows_how_long_to_wait(api: Api, rpc: SupabaseRpc) -> None:
    api.answer_next(429, headers={"Retry-After": "7"})
    with pytest.raises(StorageThrottledError) as raised:
        rpc.call("active_alerts", {})
    assert raised.value.retry_after == 7.0


def test_nobody_there_and_something_else_there_are_told_apart(api: Api, rpc: SupabaseRpc) -> None:
    nobody = SupabaseRpc("http://127.0.0.1:1", api.key)
    with pytest.raises(StorageUnavailableError, match=r"cannot reach Supabase at http://127\.0\.0\.1:1"):
        nobody.call("active_alerts", {})
    nobody.close()
    api.answer_next(200, "a web page")
    assert rpc.call("active_alerts", {}) == "a web page"


def test_the_emulation_refuses_what_postgrest_refuses(rpc: SupabaseRpc) -> None:
    with pytest.raises(SchemaMissingError, match="PGRST202"):
        rpc.call("update_entity_state", {"no_such_argument": 1})
    assert (
        rpc.call("update_entity_state", {"p_entity_id": "x", "p_entity_type": "team", "p_new_state": "active"}) is False
    )
    assert rpc.select("unified_registry", {"entity_id": "in.(a,b)", "order": "entity_id.desc", "limit": "3"}) == []


def test_a_statement_that_takes_too_long_for_the_role_is_worth_another_try(
    database_url: str,
) -> None:
    role = "elf_hasty"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE FUNCTION nap() RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(10)'")
        connection.execute(f"CREATE ROLE {role} NOLOGIN")
        try:
            connection.execute(f"ALTER ROLE {role} SET statement_timeout = '50ms'")
            with serving(database_url, keys={"sb_secret_1": role}) as api:
                client = SupabaseRpc(api.url, api.key)
                with pytest.raises(StorageUnavailableError, match="500 57014"):
                    client.call("nap", {})
                client.close()
        finally:
            connection.execute(f"DROP ROLE {role}")
