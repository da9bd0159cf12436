"""`elf-telemetry import`: what is in files becomes rows, once."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import orjson
import psycopg
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind

from otlp import as_json, request_of
from spans import eventually, other_span, tool_call


def _import(database_url: str, *arguments: object, state: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_command(database_url), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"XDG_STATE_HOME": str(state)} | environment,
    )


def _command(database_url: str) -> list[str]:
    return [str(Path(sys.executable).with_name("elf-telemetry")), "import", "--database-url", database_url]


def _rows(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute("select count(*) from communication_telemetry").fetchone()
    return found[0] if found else 0


_REQUESTS = [request_of([tool_call(3 * at + step) for step in range(3)]) for at in range(4)]
_LINES = b"".join(orjson.dumps(as_json(request)) + b"\n" for request in _REQUESTS)
_FRAMED = b"".join(
    struct.pack(">I", len(body)) + body for body in (request.SerializeToString() for request in _REQUESTS)
)
_KINDS = {
    "lines.json": (_LINES, 12),
    "lines.json.gz": (gzip.compress(_LINES), 12),
    "rotated.json.gz": (gzip.compress(_LINES[: len(_LINES) // 4]) + gzip.compress(_LINES[len(_LINES) // 4 :]), 12),
    "one.json": (json.dumps(as_json(_REQUESTS[0]), indent=2).encode(), 3),
    "one-line.json": (orjson.dumps(as_json(_REQUESTS[0])), 3),
    "one.pb": (_REQUESTS[0].SerializeToString(), 3),
    "one.pb.gz": (gzip.compress(_REQUESTS[0].SerializeToString()), 3),
    "framed.pb": (_FRAMED, 12),
    "empty.json": (b"", 0),
    "blank-first.json": (b"\n \r\n" + _LINES, 12),
    "blank-first-one.json": (b"\n\n" + json.dumps(as_json(_REQUESTS[0]), indent=2).encode(), 3),
    "byte-order-mark.json": (b"\xef\xbb\xbf" + _LINES, 12),
    "byte-order-mark-one.json": (b"\xef\xbb\xbf" + json.dumps(as_json(_REQUESTS[0]), indent=2).encode(), 3),
    "half-characters.json": (_LINES.replace(b'"search"', b'"\\ud83d"'), 12),
}


@pytest.mark.parametrize("name", _KINDS)
def test_every_kind_of_file_is_read_once(database_url: str, tmp_path: Path, name: str) -> None:
    content, spans = _KINDS[name]
    file = tmp_path / name
    file.write_bytes(content)
    first, again = (_import(database_url, "--json", file, state=tmp_path) for _ in range(2))
    assert (first.returncode, first.stderr) == (0, "")
    nothing = {"duplicate": 0, "ignored": 0, "refused": 0, "problems": 0}
    assert json.loads(first.stdout) == nothing | {"spans": spans, "stored": spans}
    assert json.loads(again.stdout) == nothing | {"spans": spans, "stored": 0, "duplicate": spans}
    assert _rows(database_url) == spans


def test_several_files_are_one_import(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(_LINES)
    (tmp_path / "b.json").write_bytes(orjson.dumps(as_json(request_of([other_span(1), tool_call(100)]))))
    done = _import(database_url, tmp_path / "a.json", tmp_path / "b.json", state=tmp_path)
    assert (done.returncode, done.stdout) == (0, "14 spans: 13 stored, 0 already there, 1 no calls\n")


_GZIP = gzip.compress(_LINES)
_NO_JSON = b"".join(_LINES.partition(b"\n")[0][:50] + b"\n" for _ in range(2))


@pytest.mark.parametrize(
    ("content", "said", "stored"),
    [
        (_LINES.replace(b'"tools/call search"', b'"tools', 1), ":1: the body is not JSON", 9),
        (_LINES + b'{"resourceSpans": 7}\n', ":5: resourceSpans is not a list; skipped", 12),
        (gzip.compress(_LINES)[:-300], ": the gzip data is damaged", None),
        (_FRAMED[:-10], " request 4: the file ends in the middle of it", 9),
        (_FRAMED + b"\xff\xff\xff\xff\xff", " request 5: its length cannot be right", 12),
        (b'{\n "resourceSpans": [\n', ": the body is not JSON", 0),
        (_REQUESTS[0].SerializeToString()[:-5], ": the body ends in the middle of a message", 0),
        (_GZIP[:-6] + bytes([_GZIP[-6] ^ 1]) + _GZIP[-5:], ": the gzip data is damaged after line 4: CRC check", 12),
        (_GZIP + b"garbage", ": the gzip data is damaged after line 4: Not a gzipped file", 12),
        (gzip.compress(_LINES[:-1])[:-9], ": the gzip data is damaged after line ", None),
        (gzip.compress(_FRAMED)[:-9], ": the gzip data is damaged after request ", None),
        (b'{"cut\n\n' + _LINES, ":1: the body is not JSON", 12),
        (b"garbage\n" + _LINES, ":1: the body is not JSON", 12),
        (bytes(5000) + b"\n" + _LINES, ":1: the body is not JSON", 12),
        (_NO_JSON, ": the body is not JSON", 0),
        (b"\x7f\x00\x01" + _FRAMED, " request 1: its length cannot be right", 0),
    ],
    ids=[
        "json",
        "shape",
        "gzip",
        "cut",
        "length",
        "document",
        "protobuf",
        "checksum",
        "after gzip",
        "gzip cut at its end",
        "gzip of frames",
        "first line, then a blank one",
        "first line",
        "first line of zeros",
        "every line",
        "first length",
    ],
)
def test_what_is_damaged_is_named_and_the_rest_stored(
    database_url: str, tmp_path: Path, content: bytes, said: str, stored: int | None
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    done = _import(database_url, file, state=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"{file}{said}")
    assert done.stderr.count("\n") == 1
    if stored is not None:
        assert _rows(database_url) == stored


def test_each_damaged_line_is_named_by_its_number(database_url: str, tmp_path: Path) -> None:
    """Also those at the beginning, from which it is told what kind of file it is, and one beyond the limit."""
    large = b'{"resourceSpans": [' + b" " * 70_000 + b"]}\n"
    (tmp_path / "file").write_bytes(b'{"cut\n{"also cut\n' + _LINES + large + b"<\n" + _LINES)
    done = _import(database_url, tmp_path / "file", state=tmp_path, ELF_SINK_MAX_BYTES="65536")
    places = [line.removeprefix(f"{tmp_path}/file:").partition(":")[0] for line in done.stderr.splitlines()]
    assert places == ["1", "2", "7", "8"], done.stderr
    assert "it is larger than 65536 bytes (ELF_SINK_MAX_BYTES)" in done.stderr.splitlines()[2]
    assert (done.returncode, _rows(database_url)) == (1, 12)


def test_a_file_that_cannot_be_read_costs_no_other(database_url: str, tmp_path: Path) -> None:
    names = ("a.json", "b.zst", "c.gz", "d.json")
    contents = (_LINES, b"\x28\xb5\x2f\xfd rest", _GZIP[:40], orjson.dumps(as_json(request_of([tool_call(100)]))))
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_bytes(content)
    done = _import(database_url, *(tmp_path / name for name in names), state=tmp_path)
    assert (done.returncode, _rows(database_url)) == (2, 13)
    assert done.stdout == "13 spans: 13 stored, 0 already there, 0 no calls\n"
    problems = done.stderr.splitlines()
    assert problems[0].startswith(f"{tmp_path}/c.gz: the gzip data is damaged: ")
    assert problems[1].startswith(f"error: {tmp_path}/b.zst is compressed with zstd")


def test_a_file_that_cannot_be_opened_or_read_is_one_clear_line(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(_LINES)
    done = _import(database_url, "/proc/self/mem", tmp_path / "a.json", state=tmp_path)
    assert (done.returncode, _rows(database_url)) == (2, 12)
    assert done.stderr == "error: cannot read /proc/self/mem: Input/output error\n"


def test_what_was_stored_is_settled_though_a_file_cannot_be_read(database_url: str, tmp_path: Path) -> None:
    """The two sides of a call come from two files: until they are settled they are two calls."""
    client = tool_call(1)
    assert client.context
    server = ReadableSpan(
        name=client.name,
        context=SpanContext(client.context.trace_id, 7, is_remote=False),
        parent=client.context,
        resource=client.resource,
        kind=SpanKind.SERVER,
        attributes=client.attributes,
        start_time=client.start_time,
        end_time=client.end_time,
        instrumentation_scope=client.instrumentation_scope,
    )
    files = [tmp_path / name for name in ("client.json", "server.json", "b.zst")]
    for file, span in zip(files, (client, server), strict=False):
        file.write_bytes(orjson.dumps(as_json(request_of([span]))))
    files[2].write_bytes(b"\x28\xb5\x2f\xfd rest")
    assert _import(database_url, *files, state=tmp_path).returncode == 2
    with psycopg.connect(database_url) as connection:
        found = connection.execute("select counted from communication_telemetry order by counted").fetchall()
    assert found == [(False,), (True,)]


def test_a_span_that_cannot_be_a_row_is_named(database_url: str, tmp_path: Path) -> None:
    request = request_of([tool_call(1), tool_call(2)])
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b""
    (tmp_path / "file").write_bytes(orjson.dumps(as_json(request)))
    done = _import(database_url, tmp_path / "file", state=tmp_path)
    assert (done.returncode, done.stdout) == (1, "2 spans: 1 stored, 0 already there, 0 no calls, 1 refused\n")
    assert (
        done.stderr == f"{tmp_path}/file:1: span 'tools/call search' has no valid trace id (16 bytes, not all zero)\n"
    )


def test_an_interrupted_import_goes_on_where_it_stopped(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "large.json"
    with file.open("wb") as opened:
        for at in range(300):
            spans = [tool_call(100 * at + step) for step in range(100)]
            opened.write(orjson.dumps(as_json(request_of(spans))) + b"\n")
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    running = subprocess.Popen([*_command(database_url), str(file)], env=environment)
    eventually(lambda: _rows(database_url) > 5000, within=60)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = _rows(database_url)
    done = _import(database_url, "--json", file, state=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["stored"] == 30_000 - before
    assert found["duplicate"] <= 2100, "it began anew"
    assert _rows(database_url) == 30_000


def test_a_missing_file_is_one_clear_line(database_url: str, tmp_path: Path) -> None:
    done = _import(database_url, tmp_path / "none.json", state=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: there is no file {tmp_path}/none.json\n")
    (tmp_path / "zstd").write_bytes(b"\x28\xb5\x2f\xfd rest")
    done = _import(database_url, tmp_path / "zstd", state=tmp_path)
    assert done.returncode == 2
    assert "compressed with zstd" in done.stderr
