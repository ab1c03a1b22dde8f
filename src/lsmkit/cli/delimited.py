"""CSV and TSV as keys and values, at the speed of bytes.split where there are no quotes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any

from lsmkit.cli.columns import Chunk, KeyColumns, find_column
from lsmkit.cli.form import KEY_BYTES_MAX
from lsmkit.cli.source import ROW_BYTES_MAX, InputError, Source

# Line, bytes as they stood, and fields, or the reason why there are none.
Record = tuple[int, bytes, list[bytes] | str]


class Delimited:
    """CSV and TSV, in pieces of about a megabyte.

    A piece without quotes is taken apart with bytes.split, a row in half a microsecond. One with
    quotes goes through the csv module, as Latin-1, which maps every byte to one character and
    back; the lines that a row took give its bytes as they stood.
    """

    def __init__(
        self,
        source: Source,
        separator: bytes,
        key: Sequence[str],
        value: str | None,
        *,
        header: bool,
        quotes: bool,
    ) -> None:
        self._source = source
        self._separator = separator
        self._dialect: dict[str, Any] = {
            "delimiter": separator.decode(),
            "strict": True,
            "quoting": csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        }
        self._quotes = quotes
        csv.field_size_limit(ROW_BYTES_MAX)
        block, self._last = source.block()
        self._block = block.removeprefix(b"\xef\xbb\xbf")
        self._line = 1
        columns = self._read_columns(header)
        self._count = len(columns)
        key_columns = KeyColumns.parse(key, columns)
        self._key_at = [find_column(name, columns, source) for name in key_columns.names]
        self._value_at = None if value is None else find_column(value, columns, source)
        self._make_key = key_columns.maker()
        self._is_plain = key_columns.is_plain

    def _read_columns(self, header: bool) -> list[str]:
        """The columns' names, and the header taken off; or their numbers from 1."""
        lines = io.BytesIO(self._block)
        reader = csv.reader((line.decode("latin-1") for line in lines), **self._dialect)
        try:
            fields = next(filter(None, reader), None)
        except csv.Error as error:
            raise InputError(f"{self._source.name}:1: {_csv_reason(error)}") from None
        if fields is None:
            raise InputError(f"{self._source.name}: there is no row in it")
        if not header:
            return [str(number) for number in range(1, len(fields) + 1)]
        self._block = self._block[lines.tell() :]
        self._line += reader.line_num
        return [name.encode("latin-1").decode("utf-8", "surrogateescape") for name in fields]

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            chunk = self._fast_chunk()
            left = b""
            if chunk is None:
                chunk = Chunk()
                records, left = self._records()
                for line, raw, fields in records:
                    self._add(chunk, line, raw, fields)
            yield chunk
            if self._last:
                return
            self._line += self._block.count(b"\n") - left.count(b"\n")
            self._block, self._last = self._source.block(left)

    def _lines(self) -> list[bytes] | None:
        """The piece's lines, when each is a row; None when only the csv module can tell."""
        block = self._block
        if self._quotes and b'"' in block:
            return None
        if b"\r" in block:
            if self._quotes and block.count(b"\r") != block.count(b"\r\n"):
                return None
            block = block.replace(b"\r\n", b"\n")
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        return lines

    def _fast_chunk(self) -> Chunk | None:
        """All rows of the piece in a few comprehensions, when each line is one and none is bad."""
        lines = self._lines()
        if lines is None:
            picked = self._pick_quoted(lines := self._raw_lines())
        else:
            picked = self._pick_plain(lines)
        if picked is None:
            return None
        keys, values = picked
        if not self._is_plain:
            make = self._make_key
            try:
                keys = [make(texts) for texts in keys]
            except ValueError:
                return None
        if max(map(len, keys), default=0) > KEY_BYTES_MAX:
            return None
        return Chunk(keys, lines if values is None else values)

    def _pick_plain(self, lines: list[bytes]) -> tuple[list[Any], list[bytes] | None] | None:
        """The key's text (texts, unless it is plain) and the value's, of every line."""
        separator, more = self._separator, self._count - 1
        if any(line.count(separator) != more for line in lines) or not all(lines):
            return None
        splits = max(self._key_at) + 1
        if self._is_plain:
            [key_at] = self._key_at
            keys: list[Any] = [line.split(separator, splits)[key_at] for line in lines]
        else:
            pick = itemgetter(*self._key_at, self._key_at[0])  # always a tuple
            keys = [pick(line.split(separator, splits))[:-1] for line in lines]
        value_at = self._value_at
        if value_at is None:
            return keys, None
        return keys, [line.split(separator, value_at + 1)[value_at] for line in lines]

    def _pick_quoted(self, lines: list[bytes]) -> tuple[list[Any], list[bytes] | None] | None:
        """The same through the csv module, when no row takes two lines."""
        try:
            rows = list(csv.reader([line.decode("latin-1") for line in lines], **self._dialect))
        except csv.Error:
            return None
        if len(rows) != len(lines) or any(len(row) != self._count for row in rows):
            return None
        if self._is_plain:
            [key_at] = self._key_at
            keys: list[Any] = [row[key_at].encode("latin-1") for row in rows]
        else:
            keys = [[row[at].encode("latin-1") for at in self._key_at] for row in rows]
        value_at = self._value_at
        if value_at is None:
            return keys, None
        return keys, [row[value_at].encode("latin-1") for row in rows]

    def _raw_lines(self) -> list[bytes]:
        return [_without_newline(line) for line in io.BytesIO(self._block)]

    def _records(self) -> tuple[list[Record], bytes]:
        """The piece's rows one by one, and its end that may be no whole row yet."""
        lines = self._lines()
        if lines is None:
            return self._quoted_records()
        separator = self._separator
        return [
            (line, raw, raw.split(separator)) for line, raw in enumerate(lines, self._line) if raw
        ], b""

    def _quoted_records(self) -> tuple[list[Record], bytes]:
        """As `_records`, by the csv module.

        After a row that it refuses it goes on with the next line: a quote that is never closed
        costs its own line and not the rest of the file.
        """
        raws = list(io.BytesIO(self._block))
        texts = [raw.decode("latin-1") for raw in raws]
        records: list[Record] = []
        start, end = 0, len(raws)
        while start < end:
            base = start
            reader = csv.reader(texts[start:], **self._dialect)
            try:
                for fields in reader:
                    upto = base + reader.line_num
                    if fields:
                        raw = raws[start] if upto == start + 1 else b"".join(raws[start:upto])
                        columns = [field.encode("latin-1") for field in fields]
                        records.append((self._line + start, _without_newline(raw), columns))
                    start = upto
            except csv.Error as error:
                if base + reader.line_num == end and not self._last and "limit" not in str(error):
                    return records, b"".join(raws[start:])
                records.append((self._line + start, b"", _csv_reason(error)))
                start += 1
        return records, b""

    def _add(self, chunk: Chunk, line: int, raw: bytes, fields: list[bytes] | str) -> None:
        if isinstance(fields, str):
            chunk.reject(line, fields)
            return
        if len(fields) != self._count:
            chunk.reject(line, f"{len(fields)} fields where there are {self._count} columns")
            return
        try:
            key = self._make_key([fields[at] for at in self._key_at])
        except ValueError as error:
            chunk.reject(line, error)
            return
        chunk.add(line, key, raw if self._value_at is None else fields[self._value_at])


def _without_newline(raw: bytes) -> bytes:
    return raw.removesuffix(b"\n").removesuffix(b"\r")


def _csv_reason(error: csv.Error) -> str:
    """The csv module's words, where they speak of its own interface, in words for a file."""
    text = str(error)
    if "end of data" in text:
        return "a quote that begins here is never closed"
    if "new-line character" in text:
        return "a carriage return without a newline"
    if "limit" in text:
        return f"a field of more than {ROW_BYTES_MAX >> 20} MiB, or a quote that is never closed"
    return text
