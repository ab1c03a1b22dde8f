"""A store under the interface of the standard library's `dbm`, for programs that have that.

>>> import lsmkit.dbm, shelve, tempfile
>>> with shelve.Shelf(lsmkit.dbm.open(tempfile.mkdtemp(), "c")) as shelf:
...     shelf["list"] = [1, 2, 3]
...     shelf["list"]
[1, 2, 3]

Keys and values are bytes; a `str` is stored as its UTF-8, and comes back as bytes. What fails is an
`error`, with the `lsmkit.Error` as its cause; only wrong arguments and missing keys are not.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from .db import DB
from .db import open as _open
from .errors import Error
from .tree import Closing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import ParamSpec, TypeVar

    from ._core.core import _BytesLike as Buffer
    from .db import Path

    _P = ParamSpec("_P")
    _T = TypeVar("_T")

__all__ = ["error", "open"]

_FLAGS = ("r", "w", "c", "n")


class error(Error, OSError):
    """What went wrong with the database; `__cause__` is the error of the store."""


def _told(cause: Error) -> error:
    if isinstance(cause, OSError) and cause.errno is not None:
        return error(cause.errno, str(cause.strerror), cause.filename)
    return error(str(cause))


def _call(call: Callable[_P, _T], *args: _P.args, **named: _P.kwargs) -> _T:
    """The call, with the errors of this module."""
    try:
        return call(*args, **named)
    except Error as cause:
        raise _told(cause) from cause


def _each(scan: Iterator[bytes]) -> Iterator[bytes]:
    """The scan, with the errors of this module."""
    try:
        yield from scan
    except Error as cause:
        raise _told(cause) from cause


def _encoded(item: str | Buffer) -> Buffer:
    return item.encode() if isinstance(item, str) else item


class _Database(Closing, MutableMapping[bytes, bytes]):
    """What `open` gives: a mapping, and what the standard library's databases can do beside it.

    Keys come in their order. `keys`, `values` and `items` are lists, as of one moment.
    """

    __hash__ = object.__hash__

    def __init__(self, db: DB) -> None:
        self._db = db

    def __getitem__(self, key: str | Buffer) -> bytes:
        return _call(self._db.__getitem__, _encoded(key))

    def __setitem__(self, key: str | Buffer, value: str | Buffer) -> None:
        _call(self._db.put, _encoded(key), _encoded(value))

    def __delitem__(self, key: str | Buffer) -> None:
        _call(self._db.__delitem__, _encoded(key))

    def __contains__(self, key: object) -> bool:
        item = key.encode() if isinstance(key, str) else key
        return _call(self._db.__contains__, item)

    def __iter__(self) -> Iterator[bytes]:
        return _each(_call(self._db.scan_keys))

    def __len__(self) -> int:
        return _call(len, self._db)

    def __bool__(self) -> bool:
        return _call(bool, self._db)

    def keys(self) -> list[bytes]:  # type: ignore[override]
        return list(self)

    def values(self) -> list[bytes]:  # type: ignore[override]
        return _call(lambda: list(self._db.scan_values()))

    def items(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        return _call(lambda: list(self._db.scan()))

    def get(self, key: str | Buffer, default: _T | None = None) -> bytes | _T | None:  # type: ignore[override]
        return _call(self._db.get, _encoded(key), default)

    def setdefault(self, key: str | Buffer, default: str | Buffer = b"") -> bytes:
        """The value of `key`; where there is none, `default` is stored first. Atomic."""
        return _call(self._db.setdefault, _encoded(key), _encoded(default))

    def pop(self, key: str | Buffer, *default: _T) -> bytes | _T:
        return _call(self._db.pop, _encoded(key), *default)

    def popitem(self) -> tuple[bytes, bytes]:
        return _call(self._db.popitem)

    def clear(self) -> None:
        _call(self._db.clear)

    def firstkey(self) -> bytes | None:
        """The first key, None where there is none."""
        return _call(lambda: next(self._db.scan_keys(), None))

    def nextkey(self, key: str | Buffer) -> bytes | None:
        """The first key behind `key`, which need not be there itself; None at the end."""
        after = _encoded(key)
        return _call(lambda: next(self._db.scan_keys(after, include_start=False), None))

    def reorganize(self) -> None:
        """Gives back the space of what was overwritten or deleted: rewrites the database."""
        _call(self._db.compact)

    def sync(self) -> None:
        """Returns when everything that was written is on the disk."""
        _call(self._db.sync)

    def close(self) -> None:
        """Gives the database up; may be called again."""
        _call(self._db.close)

    def __repr__(self) -> str:
        return f"<lsmkit.dbm database at {self._db.path!r}{', closed' if self._db.closed else ''}>"


def open(file: Path, flag: str = "r", mode: int = 0o666) -> _Database:
    """Opens the database in directory `file`.

    `flag` is "r" (to be read, also beside a process that writes it: as it is now), "w" (to be
    written), "c" (the same, made where it is absent) or "n" (the same, always empty: what was there
    is replaced). `mode` is that of a directory that is made, with the right to search wherever
    there is one to read; the process's umask applies.

    Raises `error` for what cannot be opened or is owned by another writer, ValueError for a flag
    that does not exist.
    """
    if flag not in _FLAGS:
        raise ValueError(f"flag is {flag!r}; it must be one of 'r', 'w', 'c', 'n'")
    where = os.fspath(file)
    if flag in ("c", "n"):
        _make_room(where, mode, flag == "n")
    db = _call(_open, where, create_if_missing=flag in ("c", "n"), read_only=flag == "r")
    if flag == "n" and db:
        _call(db.clear)
        _call(db.compact)
    return _Database(db)


def _make_room(path: str | bytes, mode: int, replace: bool) -> None:
    """A directory for the database, also in the place of a file when what is there is replaced."""
    try:
        if replace and os.path.isfile(path):
            os.unlink(path)
        os.mkdir(path, mode | (mode & 0o444) >> 2)
    except FileExistsError:
        pass
    except OSError as cause:
        raise error(cause.errno, cause.strerror, cause.filename) from cause
