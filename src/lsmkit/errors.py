"""What lsmkit raises. Every class is an `Error`; some are a built-in exception as well.

Wrong arguments raise the built-in `TypeError`, `ValueError` and `BufferError`, and missing memory
`MemoryError`, as everywhere in Python; a missing key is a `KeyError`. All classes can be pickled,
so that they pass between processes with their attributes.
"""

from __future__ import annotations

from errno import EAGAIN

__all__ = [
    "Busy",
    "ChangesLost",
    "ClosedError",
    "ConflictError",
    "CorruptionError",
    "Error",
    "LockedError",
    "OptionsError",
    "ReadOnlyError",
    "StorageError",
    "StoreExistsError",
    "StoreNotFoundError",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_HEX_FROM = 1 << 24


class Error(Exception):
    """The base of all that lsmkit raises beside the built-in exceptions."""


class CorruptionError(Error):
    """Bytes of a file are not the bytes that were written.

    `file` and `offset` (bytes from the file's beginning) say where, `found` what stood there: a
    number (a checksum, a length, a version) where one was compared with `expected`, else the
    message again, with `expected` None. Nothing is skipped or guessed.
    """

    file: str
    offset: int
    found: int | str
    expected: int | str | None

    def __init__(
        self,
        message: str,
        file: str = "",
        offset: int = 0,
        found: int | str | None = None,
        expected: int | str | None = None,
    ) -> None:
        # All arguments go to the base, because unpickling calls the class with `args`.
        super().__init__(message, file, offset, found, expected)
        self.file = file
        self.offset = offset
        self.found = message if found is None else found
        self.expected = expected

    def __str__(self) -> str:
        message: str = self.args[0]
        where = f"{self.file}, byte {self.offset}: " if self.file else ""
        if self.expected is not None:
            found, expected = _number_pair(self.found, self.expected)
            return f"{where}{message} (found {found}, expected {expected})"
        if self.found != message:
            return f"{where}{message} (found {self.found})"
        return f"{where}{message}"


def _number_pair(found: int | str, expected: int | str) -> tuple[str, str]:
    """Both in the same base: lengths read better as decimals, checksums as hexadecimals."""
    numbers = isinstance(found, int) and isinstance(expected, int)
    if numbers and max(int(found), int(expected)) >= _HEX_FROM:
        return f"{found:#x}", f"{expected:#x}"
    return str(found), str(expected)


class LockedError(Error, OSError):
    """Another handle, in this process or another, owns the store.

    `filename` is the store's path, `pid` the owner's process and `since` the time at which it
    took the store (seconds since 1970), each None where the owner did not leave it.
    """

    pid: int | None
    since: float | None

    def __init__(
        self,
        message: str,
        filename: str | None = None,
        pid: int | None = None,
        since: float | None = None,
    ) -> None:
        OSError.__init__(self, EAGAIN, message, filename)
        self.pid = pid
        self.since = since

    def __str__(self) -> str:
        text = str(self.strerror)
        if self.filename is not None:
            text = f"{self.filename}: {text}"
        if self.pid is None:
            return text
        if self.since is None:
            return f"{text} (process {self.pid})"
        from time import localtime, strftime

        when = strftime("%Y-%m-%d %H:%M:%S", localtime(self.since))
        return f"{text} (process {self.pid}, since {when})"

    def __reduce__(self) -> tuple[Callable[..., LockedError], tuple[Any, ...], dict[str, Any]]:
        return type(self), (self.strerror, self.filename, self.pid, self.since), self.__dict__


class ClosedError(Error, ValueError):
    """The store, or the store behind an iterator, cursor, snapshot or keyspace, was closed, or
    the handle was made before a `fork` and this is the child."""


class ReadOnlyError(Error):
    """A write through a handle that was opened with `read_only=True`."""


class OptionsError(Error, ValueError):
    """Options contradict each other, or the store that is being opened."""


class ConflictError(Error):
    """A transaction was not committed, because something that it has read was written by another
    meanwhile. Nothing was applied; do all of it again, as `db.run` does."""


class Busy(Error):
    """Flush and compaction are behind, and the wait would be longer than `timeout` allowed.

    Nothing was applied. `retry_after` (seconds) is when the store expects to have room.
    """

    retry_after: float

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.args[0]} (retry after {self.retry_after:.3g} s)"


class ChangesLost(Error):
    """What was committed next is not kept any more: it is older than the history of the log
    (`retain_log_bytes`), or rows were ingested, which the log never had.

    `oldest` is the sequence from which on everything is there. Who keeps a copy makes it anew from
    a snapshot, and goes on from the snapshot's `seq`.
    """

    oldest: int

    def __init__(self, message: str, oldest: int = 0) -> None:
        super().__init__(message, oldest)
        self.oldest = oldest

    def __str__(self) -> str:
        return str(self.args[0])


class StorageError(Error, OSError):
    """The disk or the operating system failed: `errno`, `strerror` and `filename` say how and
    where, as in every OSError.

    After a failed write or sync of the log the store refuses writes and still reads, until it is
    reopened: the system may have dropped what could not be written, and trying again would
    report success for data that is gone.
    """


class StoreNotFoundError(Error, FileNotFoundError):
    """There is no store at this path, and none may be made."""


class StoreExistsError(Error, FileExistsError):
    """There is a store at this path already."""
