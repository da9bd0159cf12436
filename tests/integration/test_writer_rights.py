"""A writer whose role row security holds for, or that was granted the functions alone, stores the same rows."""

from __future__ import annotations

from dataclasses import replace

import psycopg
import pytest

from elf_automations.errors import StorageRefusedError
from elf_automations.model import Entity
from elf_automations.storage.writer import PostgresWriter
from spans import row
from supabase_roles import Project, asked, login_role

_FUNCTIONS = "ingest_communications, record_observed_entities, settle_communications"
_WRITERS = {
    "as service_role without bypass": ["grant service_role to {}"],
    "functions alone": [f"grant execute on function {_FUNCTIONS} to {{}}"],
    "table without a policy": [
        "grant select, insert on communication_telemetry to {}",
        f"grant execute on function {_FUNCTIONS} to {{}}",
    ],
}


@pytest.mark.parametrize("grants", _WRITERS.values(), ids=list(_WRITERS))
def test_a_writer_that_row_security_holds_for_stores_the_same(hosted: Project, grants: list[str]) -> None:
    """Such a role cannot COPY into the table at all (0A000); it writes through the function instead, by itself."""
    batch = [row(number) for number in range(100)]
    bad = {3: row(3, protocol="smtp"), 5: row(5, tool_name="NUL \x00"), 7: row(7, tokens_used=2**70)}
    team = Entity(entity_id="planning-team", entity_type="team", entity_name="Planning", calls=100)
    with login_role(hosted, *grants) as url:
        writer = PostgresWriter(url)
        try:
            assert writer.write(batch[:40], [], retry=False).stored == 40
            mixed = [bad.get(number, sent) for number, sent in enumerate(batch)]
            result = writer.write(mixed[40:] + mixed[:8], [team], retry=False)
            assert (result.stored, result.duplicate) == (60, 5)
            assert [refused.row for refused in result.rejected if refused.row not in bad.values()] == []
            assert len(result.rejected) == 3
            again = writer.write(batch, [team], retry=True)
            assert (again.stored, again.duplicate, again.rejected) == (0, 100, ())
            assert asked(hosted.owner, "select count(*) from communication_telemetry") == [(100,)]
            writer.settle(batch[0].timestamp)
        finally:
            writer.close()
    assert asked(hosted.owner, "select activity_count from unified_registry") == [(60,)]


@pytest.mark.parametrize("grants", _WRITERS.values(), ids=list(_WRITERS))
def test_such_a_writer_can_ask_whether_the_database_takes_rows(hosted: Project, grants: list[str]) -> None:
    with login_role(hosted, *grants) as url:
        writer = PostgresWriter(url)
        try:
            writer.check()
        finally:
            writer.close()
    assert asked(hosted.owner, "select count(*) from communication_telemetry") == [(0,)]


def test_the_same_row_twice_through_the_function_is_one_row(hosted: Project) -> None:
    ok = row(1, status="success", error_message=None, error_code=None)
    bad = replace(ok, protocol="smtp")
    late = replace(ok, status="error", error_code="late")
    team = Entity(entity_id="planning-team", entity_type="team", entity_name="Planning", calls=5, errors=1)
    with login_role(hosted, *_WRITERS["functions alone"]) as url:
        writer = PostgresWriter(url)
        try:
            result = writer.write([bad, ok, late, row(2), row(2)], [team], retry=False)
            assert (result.stored, result.duplicate) == (2, 2)
            assert [refused.row for refused in result.rejected] == [bad]
        finally:
            writer.close()
    status = "select status from communication_telemetry order by timestamp limit 1"
    assert asked(hosted.owner, status) == [("success",)]
    activity = "select activity_count, error_count from unified_registry where entity_id = 'planning-team'"
    failed = int(row(2).status in {"error", "timeout"})
    assert asked(hosted.owner, activity) == [(2, failed)]


def test_row_security_forbids_copy_to_who_does_not_bypass_it(hosted: Project) -> None:
    """PostgreSQL's own rule, which the writer is built around."""
    with (
        login_role(hosted, "grant service_role to {}") as url,
        psycopg.connect(url) as connection,
        pytest.raises(psycopg.errors.FeatureNotSupported),
        connection.cursor().copy("copy communication_telemetry (id) from stdin") as copy,
    ):
        copy.write_row(["x"])


def test_a_role_without_any_grant_is_refused_in_one_line(hosted: Project) -> None:
    with login_role(hosted) as url:
        writer = PostgresWriter(url)
        for number in (1, 100):
            with pytest.raises(StorageRefusedError, match="refuses this user"):
                writer.write([row(at) for at in range(number)], [], retry=False)
        with pytest.raises(StorageRefusedError, match="refuses this user"):
            writer.check()
        writer.close()
