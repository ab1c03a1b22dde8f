"""Rows of a file as keys and values: CSV, TSV, JSON lines, Parquet, and the lines of ``scan``.

A reader yields `Chunk`s: some thousand keys and values at a time, in the order of the file, and
the rows that are none, each with its line and the reason. The bytes of text files are never
decoded as a whole, so their encoding does not matter: a value is what stood in the file.

*Keys.* One column is its text, as bytes. Several columns are ``lsmkit.encode_key`` of the parts.
Parts are text too, unless the column is named with a type (``time:int``): then they sort as such.
That holds for all formats, so that the same data gives the same keys: a number in JSON or Parquet
is its shortest decimal text until a type is named.

*Values.* Without a value column the whole row: its bytes as they stood, without the line's end, or
a JSON object where the file has no text (Parquet).
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from lsmkit.cli.columns import Chunk, KeyColumns, find_column
from lsmkit.cli.delimited import Delimited
from lsmkit.cli.form import unescape
from lsmkit.cli.source import InputError, Source

PARQUET_ROWS = 8192


def open_rows(
    source: Source,
    format_name: str,
    key: Sequence[str],
    value: str | None,
    *,
    header: bool = True,
    quotes: bool = True,
) -> Iterator[Chunk]:
    """The rows of a source. What can be told from the file's beginning is told here: an unknown
    column, a file of another format."""
    if format_name == "pairs":
        return read_pairs(source)
    if format_name == "jsonl":
        return read_json_lines(source, KeyColumns.parse(key, None), value)
    if format_name == "parquet":
        return read_parquet(source, key, value)
    separator = b"\t" if format_name == "tsv" else b","
    return iter(Delimited(source, separator, key, value, header=header, quotes=quotes))


def read_json_lines(source: Source, key: KeyColumns, value: str | None) -> Iterator[Chunk]:
    """An object a line; empty lines are nothing."""
    make_key = key.maker()
    number = 1
    last = False
    while not last:
        block, last = source.block()
        chunk = Chunk()
        for raw in block.removesuffix(b"\n").split(b"\n"):
            line = raw.removesuffix(b"\r")
            if line.strip():
                try:
                    row = _parse_object(line)
                    texts = [scalar_text(name, row) for name in key.names]
                    data = line if value is None else value_bytes(value, row)
                    chunk.add(number, make_key(texts), data)
                except ValueError as error:
                    chunk.reject(number, error)
            number += 1
        yield chunk


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("no JSON: nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    return row


def scalar_text(name: str, row: dict[str, Any]) -> bytes:
    """A part of a key as text; ValueError for what is no single value."""
    if name not in row:
        raise ValueError(f"no column {name!r}")
    part = row[name]
    if isinstance(part, (str, bytes)):
        return _as_bytes(name, part)
    if isinstance(part, bool):
        return b"true" if part else b"false"
    if part is None or isinstance(part, (list, dict)):
        raise ValueError(f"column {name!r} holds {'null' if part is None else 'no single value'}")
    if hasattr(part, "isoformat"):
        part = part.isoformat()
    return str(part).encode()


def value_bytes(name: str, row: dict[str, Any]) -> bytes:
    """A value column: strings and bytes as they are, everything else as JSON."""
    if name not in row:
        raise ValueError(f"no column {name!r}")
    if isinstance(row[name], (str, bytes)):
        return _as_bytes(name, row[name])
    return json_bytes(row[name])


def _as_bytes(name: str, text: str | bytes) -> bytes:
    try:
        return text if isinstance(text, bytes) else text.encode()
    except UnicodeEncodeError:
        # JSON can spell half a surrogate pair, which has no bytes.
        raise ValueError(f"column {name!r} holds text that UTF-8 cannot write") from None


def read_parquet(source: Source, key: Sequence[str], value: str | None) -> Iterator[Chunk]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise InputError(
            f"{source.name}: reading Parquet needs pyarrow: pip install 'lsmkit[arrow]'"
        ) from None
    try:
        file = pyarrow.parquet.ParquetFile(source.seekable())
    except pyarrow.ArrowException as error:
        raise InputError(f"{source.name}: {_first_line(error)}") from None
    columns = file.schema_arrow.names
    key_columns = KeyColumns.parse(key, columns)
    for name in (*key_columns.names, *(() if value is None else (value,))):
        find_column(name, columns, source)
    return _parquet_chunks(source, file, key_columns, value)


def _parquet_chunks(
    source: Source, file: Any, key: KeyColumns, value: str | None
) -> Iterator[Chunk]:
    import pyarrow

    make_key = key.maker()
    wanted = None if value is None else list({*key.names, value})
    number = 1
    try:
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
            chunk = Chunk()
            # By columns: pyarrow takes thrice as long to make the rows itself.
            names = batch.schema.names
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                row = dict(zip(names, cells, strict=True))
                try:
                    texts = [scalar_text(name, row) for name in key.names]
                    data = json_bytes(row) if value is None else value_bytes(value, row)
                    chunk.add(number, make_key(texts), data)
                except ValueError as error:
                    chunk.reject(number, error)
                number += 1
            yield chunk
    except pyarrow.ArrowException as error:
        raise InputError(f"{source.name}: row {number} or later: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def json_bytes(value: Any) -> bytes:
    """Compact JSON. Numbers that JSON has not (NaN, infinities) are null, times are ISO 8601,
    decimals are strings, and bytes are text or, where not UTF-8, {"base64": ...}."""
    try:
        text = _ENCODE(value)
    except ValueError:
        text = _ENCODE(_without_nan(value))
    return text.encode("utf-8", "surrogatepass")


def _json_default(value: Any) -> Any:
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(value).decode()}
    return str(value)


_ENCODE = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_default
).encode


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_pairs(source: Source) -> Iterator[Chunk]:
    """The lines that ``scan`` prints: key, tab, value, escaped."""
    number = 1
    last = False
    while not last:
        block, last = source.block()
        chunk = Chunk()
        for line in block.removesuffix(b"\n").split(b"\n"):
            if line:
                key, tab, value = line.partition(b"\t")
                try:
                    if not tab:
                        raise ValueError("no tab between a key and a value")
                    chunk.add(number, unescape(key), unescape(value))
                except ValueError as error:
                    chunk.reject(number, error)
            number += 1
        yield chunk
