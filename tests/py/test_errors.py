"""Every exception says what happened and where, is what its name promises, and can be pickled.

Method: exceptions made by hand, and every status of the core turned into one.
"""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys

import pytest

import lsmkit.errors
from lsmkit._core.core import _probe_error
from lsmkit.errors import (
    Busy,
    ChangesLost,
    ClosedError,
    CorruptionError,
    Error,
    LockedError,
    OptionsError,
    ReadOnlyError,
    StorageError,
    StoreExistsError,
    StoreNotFoundError,
)

# The values of lk_status, in the order of status.h.
FULL, MISS, IO, CORRUPT, NOMEM, INVALID, LOCKED, CLOSED = range(1, 9)
READONLY, BUSY, NOT_FOUND, EXISTS, CANCELLED, UNSUPPORTED = range(9, 15)


def raised(code, *, sys_errno=0, path=b"", offset=0, expected=0, found=0, message=b"it went wrong"):
    with pytest.raises(Exception) as caught:
        _probe_error(code, sys_errno, path, offset, expected, found, message)
    return caught.value


EXAMPLES = [
    Error("plain"),
    CorruptionError("bad checksum", "/s/1.sst", 4096, 0xDEADBEEF, 0xFEEDFACE),
    CorruptionError("bad line", "/s/MANIFEST", 7, "'{'"),
    LockedError("the store is open", "/s", 42, 1_700_000_000.0),
    LockedError("the store is open"),
    ClosedError("the store is closed"),
    ReadOnlyError("opened with read_only=True"),
    OptionsError("merge operator differs"),
    Busy("behind", 0.25),
    ChangesLost("too late", 17),
    StorageError(errno.ENOSPC, "No space left on device", "/s/1.log"),
    StoreNotFoundError(errno.ENOENT, "no store", "/s"),
    StoreExistsError(errno.EEXIST, "a store", "/s"),
]


@pytest.mark.parametrize("original", EXAMPLES, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_type_text_and_attributes(original, protocol):
    original.note = "kept as well"

    copy = pickle.loads(pickle.dumps(original, protocol))

    assert type(copy) is type(original)
    assert str(copy) == str(original)
    assert vars(copy) == vars(original)
    for name in ("errno", "strerror", "filename"):
        assert getattr(copy, name, None) == getattr(original, name, None)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_every_class_is_an_error(example):
    assert isinstance(example, Error)


def test_all_names_every_class():
    classes = {n for n, v in vars(lsmkit.errors).items() if isinstance(v, type)}

    assert set(lsmkit.errors.__all__) == classes


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (LockedError, OSError),
        (StorageError, OSError),
        (ClosedError, ValueError),
        (OptionsError, ValueError),
        (StoreNotFoundError, FileNotFoundError),
        (StoreExistsError, FileExistsError),
    ],
)
def test_class_is_the_builtin_too(cls, builtin):
    assert issubclass(cls, builtin)


def test_text_of_corruption_names_file_offset_and_numbers():
    error = CorruptionError("frame checksum", "/s/1.log", 64, found=0x1234567, expected=0xFEDCBA98)

    assert str(error) == (
        "/s/1.log, byte 64: frame checksum (found 0x1234567, expected 0xfedcba98)"
    )
    assert (error.file, error.offset, error.found) == ("/s/1.log", 64, 0x1234567)


def test_small_numbers_of_corruption_are_decimal():
    error = CorruptionError("length of a frame", "/s/1.log", 64, found=70, expected=64)

    assert str(error).endswith("(found 70, expected 64)")


def test_corruption_without_numbers_has_the_message_as_what_was_found():
    error = CorruptionError("no footer", "/s/1.sst", 9)

    assert (error.found, error.expected) == ("no footer", None)
    assert str(error) == "/s/1.sst, byte 9: no footer"


def test_text_of_locked_names_store_process_and_time():
    error = LockedError("the store is open", "/s", 42, 1_700_000_000.0)

    assert str(error).startswith("/s: the store is open (process 42, since 2023-11-1")
    assert error.errno == errno.EAGAIN
    assert error.filename == "/s"


def test_status_corrupt_becomes_corruption():
    error = raised(CORRUPT, path=b"/s/1.sst", offset=16, expected=5, found=6, message=b"count")

    assert type(error) is CorruptionError
    assert (error.file, error.offset, error.found, error.expected) == ("/s/1.sst", 16, 6, 5)


def test_status_io_keeps_errno_and_file():
    error = raised(IO, sys_errno=errno.ENOSPC, path=b"/s/1.log", offset=32, message=b"write")

    assert type(error) is StorageError
    assert error.errno == errno.ENOSPC
    assert error.filename == "/s/1.log"
    assert "write: No space left on device, at byte 32" in str(error)


def test_reason_of_the_system_is_not_said_twice():
    error = raised(IO, sys_errno=errno.EIO, message=b"fsync: Input/output error")

    assert str(error).count("Input/output error") == 1


def test_status_locked_says_who_and_since_when():
    error = raised(LOCKED, path=b"/s", found=77, offset=1_700_000_000)

    assert type(error) is LockedError
    assert (error.pid, error.since, error.filename) == (77, 1_700_000_000.0, "/s")


def test_status_locked_without_owner_has_none():
    error = raised(LOCKED, path=b"/s")

    assert (error.pid, error.since) == (None, None)


def test_status_busy_says_when_to_retry_in_seconds():
    error = raised(BUSY, offset=250_000_000)

    assert type(error) is Busy
    assert error.retry_after == 0.25
    assert "0.25 s" in str(error)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (NOMEM, MemoryError),
        (INVALID, ValueError),
        (CLOSED, ClosedError),
        (CANCELLED, ClosedError),
        (READONLY, ReadOnlyError),
        (NOT_FOUND, StoreNotFoundError),
        (EXISTS, StoreExistsError),
        (FULL, Error),
        (MISS, Error),
    ],
)
def test_status_becomes_class_with_message(code, cls):
    error = raised(code, path=b"/s")

    assert type(error) is cls
    assert "it went wrong" in str(error)


def test_status_unsupported_blames_the_file_or_else_the_options():
    assert type(raised(UNSUPPORTED, path=b"/s/1.sst", found=9, expected=1)) is CorruptionError
    assert type(raised(UNSUPPORTED)) is OptionsError


def test_path_that_is_not_utf8_comes_back_as_the_system_names_it():
    error = raised(IO, sys_errno=errno.EIO, path=b"/s/\xff.log")

    assert error.filename == b"/s/\xff.log".decode(sys.getfilesystemencoding(), "surrogateescape")


def test_message_cut_within_a_character_is_readable():
    error = raised(INVALID, message="é".encode()[:1] + b" rest")

    assert "rest" in str(error)


def test_errors_cost_no_import():
    listing = (
        "import sys; before = set(sys.modules); "
        "exec(compile(open(sys.argv[1]).read(), 'errors', 'exec'), {'__name__': 'errors'}); "
        "print(*sorted(set(sys.modules) - before))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", listing, lsmkit.errors.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert set(loaded) <= {"__future__", "errno"}
