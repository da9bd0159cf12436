"""Rows of a table as a Parquet file that is true to its columns, written and read back in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from elf_automations.errors import ConfigurationError, StorageRefusedError

_DIGEST: Final = b"elf.rows_digest"
# How a column is asked for, so that neither times before year 1 nor jsonb take a detour through Python objects.
_SELECTED: Final[Mapping[str, str]] = {
    "timestamp with time zone": "(extract(epoch from {}) * 1000000)::int8",
    "double precision": "{}",
    "bigint": "{}",
    "integer": "{}",
    "boolean": "{}",
    "text[]": "{}",
    "text": "{}",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, type as `format_type` spells it, and for numeric its digits in all and after the point."""

    name: str
    type: str
    precision: int = 0
    scale: int = 0

    @property
    def selected(self) -> str:
        """SQL expression, with `{}` for the quoted name, that gives what the file holds; others than known as text."""
        return "{}" if self.precision else _SELECTED.get(self.type, "{}::text")


@dataclass(frozen=True, slots=True)
class Archived:
    """What a file holds: its number of rows and the digest of the rows it was written from; None in foreign files."""

    rows: int
    digest: str | None


def require_parquet() -> None:
    """Raise ConfigurationError, which names the extra to install, when pyarrow is not there."""
    _pyarrow()


def write_parquet(
    path: Path, columns: Sequence[Column], batches: Iterable[Sequence[Sequence[Any]]], digest: str
) -> None:
    """Write `batches` of rows, values in the order of `columns`, as one file; on an error nothing is left.

    The file appears under `path` at once and complete, or not at all. Raises StorageRefusedError for a value
    Parquet cannot hold (NaN in a decimal) and for a folder or disk that does not take the file.
    """
    arrow, parquet = _pyarrow()
    schema = arrow.schema(
        [arrow.field(column.name, _type(arrow, column)) for column in columns], metadata={_DIGEST: digest.encode()}
    )
    part = path.with_name(f"{path.name}.part")
    try:
        with (
            part.open("wb") as file,
            parquet.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True) as writer,
        ):
            for rows in batches:
                arrays = [
                    arrow.array(values, type=field.type)
                    for values, field in zip(zip(*rows, strict=True), schema, strict=True)
                ]
                writer.write_batch(arrow.record_batch(arrays, schema=schema))
        _settle(part, path)
    except (arrow.ArrowException, OSError) as error:
        message = f"cannot write {path}: {error}; nothing was dropped"
        raise StorageRefusedError(message) from error
    finally:
        part.unlink(missing_ok=True)


def read_archived(path: Path) -> Archived:
    """Read the whole file and return what it holds; raises StorageRefusedError when it is damaged."""
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path, page_checksum_verification=True) as file:
            rows: int = file.metadata.num_rows
            noted: Mapping[bytes, bytes] | None = file.schema_arrow.metadata
            read = sum(batch.num_rows for batch in file.iter_batches())
    except (arrow.ArrowException, OSError) as error:
        message = f"{path} cannot be read ({error}): move it away, then archive again"
        raise StorageRefusedError(message) from error
    if read != rows:
        message = f"{path} says {rows} rows and holds {read}: move it away, then archive again"
        raise StorageRefusedError(message)
    return Archived(rows, noted[_DIGEST].decode() if noted and _DIGEST in noted else None)


def _pyarrow() -> tuple[Any, Any]:
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        message = "archiving needs pyarrow, which is not installed: pip install 'elf-automations[archive]'"
        raise ConfigurationError(message) from None


def _type(arrow: Any, column: Column) -> Any:
    if column.precision:
        return arrow.decimal128(column.precision, column.scale)
    known: Mapping[str, Any] = {
        "timestamp with time zone": arrow.timestamp("us", tz="UTC"),
        "double precision": arrow.float64(),
        "bigint": arrow.int64(),
        "integer": arrow.int32(),
        "boolean": arrow.bool_(),
        "text[]": arrow.list_(arrow.string()),
    }
    return known.get(column.type, arrow.string())


def _settle(part: Path, path: Path) -> None:
    """Give the finished file its name once it is on the disk: after a crash it is whole or not there."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
