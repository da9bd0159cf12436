"""`elf-telemetry archive`: a day is in a file, value for value, before it leaves the database."""

from __future__ import annotations

import json
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from pyarrow import parquet

from elf_automations.cli import main
from elf_automations.errors import ConfigurationError, StorageRefusedError, StorageUnavailableError
from elf_automations.storage import archive as archiving
from elf_automations.storage.archive import archive_day, days_before

_TODAY = datetime.now(UTC).date()
_LATE = _TODAY - timedelta(days=3)
_AGES_AGO = date(2021, 2, 28)
_INSERT = """
insert into communication_telemetry (
    timestamp, protocol, source_id, source_type, target_id, target_type, operation, duration_ms, status, tool_name,
    capabilities_required, payload_size_bytes, estimated_cost, error_message, metadata, trace_id, counted
)
select
    %(day)s::timestamp at time zone 'UTC' + n * interval '3 seconds' + interval '1 microsecond',
    'mcp', 'planner', 'team', 'files', 'mcp', 'tool_call', case when n %% 3 > 0 then n / 7.0 end, 'success',
    'read ❄ ' || n,
    case when n %% 2 = 0 then array['a', null, n::text] end, n, case when n %% 5 > 0 then n / 1000000.0 end,
    repeat('x', n %% 50), jsonb_build_object('n', n, 'deep', jsonb_build_array(null, 'ü', 1.5)), md5(n::text),
    n %% 4 > 0
from generate_series(1, %(rows)s) as n
"""
_EDGES = """
insert into communication_telemetry
    (timestamp, protocol, source_id, source_type, target_id, target_type, operation, status)
select %s::timestamp at time zone 'UTC' + at, 'a2a', 'edge', 'team', 'b', 'team', 'send_task', 'success'
from (values (interval '-1 microsecond'), (interval '0'), (interval '86399.999999 s'), (interval '1 day')) as edges (at)
"""


@pytest.fixture
def filled_url(database_url: str) -> str:
    """A late day in its partition, a day of years ago in DEFAULT, and the rows around their ends."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_INSERT, {"day": _LATE, "rows": 2500})
        connection.execute(_EDGES, [_LATE])
        connection.execute("select ensure_telemetry_partitions()")
        connection.execute(_INSERT, {"day": _AGES_AGO, "rows": 20})
    return database_url


def _days(url: str) -> dict[date, int]:
    with psycopg.connect(url) as connection:
        query = "select (timestamp at time zone 'UTC')::date, count(*) from communication_telemetry group by 1"
        return dict(connection.execute(query).fetchall())


def _of(url: str, day: date) -> list[dict[str, Any]]:
    query = (
        "select * from communication_telemetry where (timestamp at time zone 'UTC')::date = %s order by timestamp, id"
    )
    with psycopg.connect(url, row_factory=dict_row) as connection:
        return connection.execute(query, [day]).fetchall()


def _file(folder: Path, day: date) -> Path:
    return folder / f"communication_telemetry_{day}.parquet"


def _command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["archive", *arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, " ".join((shown.out + shown.err).split())


def test_file_holds_every_value_of_the_day_and_of_no_other(
    filled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "_BATCH_ROWS", 400)
    archived = archive_day(filled_url, _LATE, tmp_path / "new" / "folder")
    assert archived
    table = parquet.read_table(archived.file)
    expected = [
        {**row, "id": str(row["id"]), "metadata": json.dumps(row["metadata"], ensure_ascii=False)}
        for row in _of(filled_url, _LATE)
    ]
    found = table.to_pylist()
    for row in (*expected, *found):
        row["metadata"] = json.loads(row["metadata"])
    assert len(expected) == 2502
    assert found == expected
    assert {field.name: str(field.type) for field in table.schema if str(field.type) != "string"} == {
        "timestamp": "timestamp[us, tz=UTC]",
        "duration_ms": "double",
        "capabilities_required": "list<element: string>",
        "payload_size_bytes": "int64",
        "tokens_used": "int64",
        "estimated_cost": "decimal128(12, 6)",
        "counted": "bool",
        "created_at": "timestamp[us, tz=UTC]",
    }
    assert parquet.ParquetFile(archived.file).metadata.row_group(0).column(0).compression == "ZSTD"
    assert sorted(path.name for path in archived.file.parent.iterdir()) == [archived.file.name]


def test_drop_takes_what_was_archived_and_nothing_else(
    filled_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rows of DEFAULT go too; days nobody asked for, and what the dashboards counted, stay."""
    before = _days(filled_url)
    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute("select refresh_telemetry_metrics()")
        patterns = connection.execute("select * from communication_patterns order by 1, 2, 3, 4, 5").fetchall()
    arguments = ["--older-than", "2", "--to", str(tmp_path), "--database-url", filled_url, "--drop"]
    code, shown = _command(capsys, *arguments, "--json")
    lines = json.loads(shown)
    expected = {day: count for day, count in before.items() if day < _TODAY - timedelta(days=2)}
    assert code == 0
    assert {date.fromisoformat(line["day"]): line["rows"] for line in lines} == expected
    assert {(line["written"], line["dropped"]) for line in lines} == {(True, True)}
    assert _days(filled_url) == {day: count for day, count in before.items() if day not in expected}
    assert {day: parquet.read_metadata(_file(tmp_path, day)).num_rows for day in expected} == expected
    with psycopg.connect(filled_url) as connection:
        gone = connection.execute(
            "select to_regclass('communication_telemetry_' || %s)", [f"{_LATE:%Y%m%d}"]
        ).fetchone()
        assert connection.execute("select * from communication_patterns order by 1, 2, 3, 4, 5").fetchall() == patterns
    assert gone == (None,)
    assert _command(capsys, *arguments) == (0, "nothing to archive: no calls older than 2 days")
    again = _command(capsys, "--day", str(_LATE), "--to", str(tmp_path), "--database-url", filled_url, "--drop")
    assert again == (0, f"{_LATE} 2502 calls {_file(tmp_path, _LATE)} archived before, nothing to do")


def test_without_drop_everything_stays_and_a_second_run_changes_no_file(
    filled_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _days(filled_url)
    arguments = ["--day", str(_LATE), "--to", str(tmp_path), "--database-url", filled_url]
    file = _file(tmp_path, _LATE)
    assert _command(capsys, *arguments) == (0, f"{_LATE} 2502 calls {file} written")
    stamp = file.stat().st_mtime_ns
    assert _command(capsys, *arguments) == (0, f"{_LATE} 2502 calls {file} archived before, nothing to do")
    assert file.stat().st_mtime_ns == stamp
    assert _days(filled_url) == before
    dropped = _command(capsys, *arguments, "--drop")
    assert dropped == (0, f"{_LATE} 2502 calls {file} archived before, dropped from the database")
    assert _LATE not in _days(filled_url)


def test_file_with_other_rows_is_never_overwritten_nor_trusted(filled_url: str, tmp_path: Path) -> None:
    """A call that came late is in the database and not in the file: neither may be lost."""
    archived = archive_day(filled_url, _LATE, tmp_path)
    assert archived
    content = archived.file.read_bytes()
    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute("update communication_telemetry set error_code = 'E1' where tool_name = 'read ❄ 1'")
    before = _days(filled_url)
    with pytest.raises(StorageRefusedError, match=r"is there with other rows .*; nothing was dropped$"):
        archive_day(filled_url, _LATE, tmp_path, drop=True)
    assert archived.file.read_bytes() == content
    assert _days(filled_url) == before


def test_damaged_file_is_found_before_anything_is_dropped(filled_url: str, tmp_path: Path) -> None:
    archived = archive_day(filled_url, _LATE, tmp_path)
    assert archived
    damaged = bytearray(archived.file.read_bytes())
    damaged[len(damaged) // 3] ^= 0xFF
    archived.file.write_bytes(damaged)
    before = _days(filled_url)
    with pytest.raises(StorageRefusedError, match="move it away, then archive again"):
        archive_day(filled_url, _LATE, tmp_path, drop=True)
    assert _days(filled_url) == before


def test_call_that_comes_between_file_and_drop_saves_the_day(
    filled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = archiving._verify

    def verify_while_a_call_comes(file: Path, rows: int, digest: str) -> None:
        verify(file, rows, digest)
        with psycopg.connect(filled_url, autocommit=True) as connection:
            connection.execute(_INSERT, {"day": _LATE, "rows": 1})

    monkeypatch.setattr(archiving, "_verify", verify_while_a_call_comes)
    with pytest.raises(StorageUnavailableError, match="came or changed while"):
        archive_day(filled_url, _LATE, tmp_path, drop=True)
    assert _days(filled_url)[_LATE] == 2503


def test_adopted_history_goes_with_its_last_day(database_url: str, tmp_path: Path) -> None:
    """What setup took over from the original system waits for exactly this."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        bounds = sql.SQL("for values from ('-infinity') to ({})").format(sql.Literal(str(_TODAY - timedelta(days=30))))
        connection.execute(
            sql.SQL("create table communication_telemetry_adopted partition of communication_telemetry {}").format(
                bounds
            )
        )
        for day in (_AGES_AGO, _AGES_AGO + timedelta(days=1)):
            connection.execute(_INSERT, {"day": day, "rows": 5})
    days = days_before(database_url, _TODAY)
    left: list[object] = []
    for day in days:
        archive_day(database_url, day, tmp_path, drop=True)
        with psycopg.connect(database_url) as connection:
            left.extend(
                connection.execute("select to_regclass('communication_telemetry_adopted')::text").fetchone() or ()
            )
    assert left == ["communication_telemetry_adopted", None]
    assert _days(database_url) == {}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["--day", str(_TODAY)],
            f"error: {_TODAY} is not over (days are UTC): its calls are still being written; archive a day before",
        ),
        ([], "error: Invalid value: pass either --older-than or --day; see"),
    ],
)
def test_wrong_days_are_refused_in_one_line(
    filled_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    code, shown = _command(capsys, *arguments, "--to", str(tmp_path), "--database-url", filled_url)
    assert code == 2
    assert shown.startswith(line)
    assert list(tmp_path.iterdir()) == []


def test_value_parquet_cannot_hold_leaves_no_file_and_every_row(filled_url: str, tmp_path: Path) -> None:
    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute("update communication_telemetry set estimated_cost = 'NaN' where tool_name = 'read ❄ 2000'")
    before = _days(filled_url)
    with pytest.raises(StorageRefusedError, match=r"^cannot write .*; nothing was dropped$"):
        archive_day(filled_url, _LATE, tmp_path, drop=True)
    assert list(tmp_path.iterdir()) == []
    assert _days(filled_url) == before


def test_missing_library_names_the_extra(filled_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'elf-automations\[archive\]'"):
        archive_day(filled_url, _LATE, tmp_path)
