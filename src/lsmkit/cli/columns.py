"""What a reader of rows yields, and how columns become a key."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

import lsmkit
from lsmkit.cli.form import KEY_BYTES_MAX, PART_PARSERS
from lsmkit.cli.source import InputError, Source


@dataclass(slots=True)
class BadRow:
    """A row that gives no key and value; `before` counts the good rows of its chunk before it."""

    before: int
    line: int
    reason: str


@dataclass(slots=True)
class Chunk:
    keys: list[bytes] = field(default_factory=list)
    values: list[bytes] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)

    def reject(self, line: int, reason: object) -> None:
        self.bad.append(BadRow(len(self.keys), line, str(reason)))

    def add(self, line: int, key: bytes, value: bytes) -> None:
        if len(key) > KEY_BYTES_MAX:
            self.reject(line, f"the key has {len(key):,} bytes, and may have {KEY_BYTES_MAX:,}")
            return
        self.keys.append(key)
        self.values.append(value)


@dataclass(frozen=True, slots=True)
class KeyColumns:
    """The columns that make a key, and how their texts become one."""

    names: tuple[str, ...]
    kinds: tuple[str | None, ...]

    @classmethod
    def parse(cls, texts: Sequence[str], columns: Sequence[str] | None) -> KeyColumns:
        """Of what --key says. `columns` are the file's, where it tells them: a name that is one
        of them is taken whole, also when it ends like a type."""
        names: list[str] = []
        kinds: list[str | None] = []
        # The csv module takes apart names in which there are commas.
        for name in (name for row in csv.reader(texts) for name in row):
            stem, colon, kind = name.rpartition(":")
            known = columns is not None and name in columns
            if colon and kind in PART_PARSERS and not known:
                names.append(stem)
                kinds.append(kind)
            else:
                names.append(name)
                kinds.append(None)
        return cls(tuple(names), tuple(kinds))

    @property
    def is_plain(self) -> bool:
        """The key is the text of one column."""
        return self.kinds in ((None,), ("str",), ("bytes",))

    def maker(self) -> Callable[[Sequence[bytes]], bytes]:
        """The function that makes a key of the columns' texts; ValueError when it cannot."""
        encode = lsmkit.encode_key
        if self.is_plain:
            return itemgetter(0)
        if all(kind in (None, "str", "bytes") for kind in self.kinds):
            return lambda texts: encode(*texts)
        parsers = [PART_PARSERS[kind or "str"] for kind in self.kinds]

        def make(texts: Sequence[bytes]) -> bytes:
            try:
                return encode(*[parse(text) for parse, text in zip(parsers, texts, strict=True)])
            except ValueError:
                self._explain(texts)
                raise

        return make

    def _explain(self, texts: Sequence[bytes]) -> None:
        """Names the column at fault."""
        for name, kind, text in zip(self.names, self.kinds, texts, strict=True):
            try:
                PART_PARSERS[kind or "str"](text)
            except ValueError as error:
                shown = text[:40].decode("utf-8", "backslashreplace")
                raise ValueError(f"column {name!r} holds {shown!r}: {error}") from None


def find_column(name: str, columns: Sequence[str], source: Source) -> int:
    """The column's place; an InputError that lists the columns when it is not one of them."""
    if name not in columns:
        raise InputError(f"{source.name}: no column {name!r}; there are {', '.join(columns)}")
    if columns.count(name) > 1:
        raise InputError(f"{source.name}: {columns.count(name)} columns are called {name!r}")
    return columns.index(name)
