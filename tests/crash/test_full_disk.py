"""Claim: a disk that is full, a limit on the size of files and one on their number are errors that
say so: reads go on, nothing acknowledged is lost, and with room again the store goes on.

Method: a small tmpfs, where one can be mounted (by root), filled by the store itself, with a file
beside it that is removed to make room; and children with limits, which are ours everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {"segment_bytes": 16384, "block_bytes": 1024, "table_bytes": 32768}
BALLAST = 512 << 10


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MiB, a third of it taken by the file `ballast`."""
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1536k", "lsmkit-test", str(where)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root only")
    try:
        (where / "ballast").write_bytes(bytes(BALLAST))
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(db: lsmkit.DB, written: dict[bytes, bytes]) -> lsmkit.Error:
    """Puts rows and batches until one fails; gives the error, and in `written` the others."""
    for i in range(100_000):
        rows = {b"key%06d.%d" % (i, row): os.urandom(200) for row in range(1 + i % 3)}
        try:
            if len(rows) == 1:
                ((key, value),) = rows.items()
                db.put(key, value, timeout=5)
            else:
                db.put_many(list(rows), list(rows.values()), timeout=5)
        except lsmkit.Error as error:
            return error
        written.update(rows)
    raise AssertionError("the disk was never full")


def says_full(error: lsmkit.Error) -> bool:
    if isinstance(error, lsmkit.StorageError):
        return error.errno == errno.ENOSPC and bool(error.filename)
    return isinstance(error, lsmkit.Busy)


@contextlib.contextmanager
def opened(path: Path, **options: Any) -> Iterator[lsmkit.DB]:
    """An open store. Closing flushes; where there is no room it says so, and the log keeps what is
    in no table."""
    db = lsmkit.open(path, **options)
    try:
        yield db
    finally:
        try:
            db.close()
        except lsmkit.StorageError as error:
            if not says_full(error):
                raise
    assert db.closed


def check(db: lsmkit.DB, written: dict[bytes, bytes]) -> None:
    assert dict(db.scan()) == written
    assert db.get_many(list(written)) == list(written.values())
    assert db.verify().ok


@pytest.mark.parametrize("durability", ["process", "periodic", "sync"])
@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_a_full_disk_is_an_error_and_loses_nothing(
    disk: Path, log_io: str, durability: str
) -> None:
    written: dict[bytes, bytes] = {}
    store = disk / "store"
    with opened(store, log_io=log_io, durability=durability, **TINY) as db:
        assert says_full(fill(db, written))
        check(db, written)
        # Again and again: whatever room the background finds is used, and then there is none.
        for _ in range(3):
            assert says_full(fill_more(db, written))
        check(db, written)
        with pytest.raises(lsmkit.Error):
            db.compact()
        check(db, written)

    # Opened while there is no room: an error that says so, or a store that can be read.
    for _ in range(3):
        try:
            with opened(store) as db:
                check(db, written)
        except lsmkit.StorageError as error:
            if not says_full(error):
                raise
    with lsmkit.open(store, read_only=True) as db:
        check(db, written)

    (disk / "ballast").unlink()
    with lsmkit.open(store) as db:
        check(db, written)
        db[b"with room"] = written[b"with room"] = b"again"
        db.flush()
        check(db, written)
    with lsmkit.open(store) as db:
        check(db, written)


def fill_more(db: lsmkit.DB, written: dict[bytes, bytes]) -> lsmkit.Error:
    """As `fill`, with other keys."""
    more: dict[bytes, bytes] = {}
    error = fill(db, more)
    written.update(more)
    return error


def test_room_made_beside_an_open_store_is_used(disk: Path) -> None:
    written: dict[bytes, bytes] = {}
    with opened(disk / "store", log_io="mapped", **TINY) as db:
        assert says_full(fill(db, written))
        (disk / "ballast").unlink()
        # The log itself never failed: a segment is made with all its blocks before it is used.
        db.put(b"with room", b"again", timeout=20)
        written[b"with room"] = b"again"
        db.flush()
        assert db.wait_idle(30)
        check(db, written)


def test_a_store_that_cannot_be_made_leaves_nothing_in_the_way(disk: Path) -> None:
    with contextlib.suppress(OSError), open(disk / "more", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(lsmkit.StorageError) as caught:
        lsmkit.open(disk / "store", **TINY)
    assert caught.value.errno == errno.ENOSPC
    (disk / "ballast").unlink()
    with lsmkit.open(disk / "store", **TINY) as db:
        db[b"key"] = b"value"
    with lsmkit.open(disk / "store") as db:
        assert dict(db) == {b"key": b"value"}


# --- Limits of a process -------------------------------------------------------------------------


def run(code: str, *arguments: str) -> str:
    """What a child that runs `code` to its end has printed."""
    source = str(Path(lsmkit.__file__).parents[1])
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    assert child.returncode == 0
    return child.stdout


# From the thousandth row on no file can have more than 20,000 bytes: neither a log nor a table.
SMALL_FILES = """
import errno, resource, sys, lsmkit
path, log_io = sys.argv[1:]
db = lsmkit.open(path, log_io=log_io, segment_bytes=65536, table_bytes=1 << 20)
written = {}
try:
    for i in range(100_000):
        if i == 1000:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        key, value = b"key%06d" % i, b"%d " % i * 50
        db.put(key, value, timeout=3)
        written[key] = value
    print("never")
except lsmkit.StorageError as error:
    assert error.errno == errno.EFBIG, error
except lsmkit.Busy:
    pass
assert dict(db.scan()) == written
assert db.verify().ok
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
try:
    db.close()
except lsmkit.StorageError as error:
    assert error.errno == errno.EFBIG, error
with lsmkit.open(path) as db:
    assert dict(db.scan()) == written
    db[b"more"] = b"room"
    db.compact()
    assert db[b"more"] == b"room"
print(len(written))
"""


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_a_limit_on_the_size_of_files(store_path: str, log_io: str) -> None:
    assert int(run(SMALL_FILES, store_path, log_io)) >= 1000


# The store has more tables than the process may open files.
FEW_FILES = """
import errno, os, resource, sys, lsmkit
path = sys.argv[1]
rows = {b"key%06d" % i: b"%d " % i * 30 for i in range(3000)}
with lsmkit.open(path, segment_bytes=8192, block_bytes=512, table_bytes=8192,
                 compression="none") as db:
    db.update(rows)
    db.compact()
tables = sum(name.endswith(".sst") for name in os.listdir(path))
assert tables > 20, tables
used = len(os.listdir("/dev/fd"))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
opened = 0
for more in [*range(20), *range(20, tables + 40, 7)]:
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + more, hard))
    for read_only in (True, False):
        try:
            db = lsmkit.open(path, read_only=read_only)
        except lsmkit.StorageError as error:
            assert error.errno == errno.EMFILE, error
            continue
        try:
            assert dict(db.scan()) == rows
            assert db.get_many(list(rows)) == list(rows.values())
            opened += 1
        except lsmkit.StorageError as error:
            assert error.errno == errno.EMFILE, error
        try:
            if not read_only:
                db[b"key000000"] = rows[b"key000000"]
                db.flush()
        except lsmkit.StorageError as error:
            assert error.errno == errno.EMFILE, error
        try:
            db.close()
        except lsmkit.StorageError as error:
            assert error.errno == errno.EMFILE, error
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
with lsmkit.open(path) as db:
    assert dict(db.scan()) == rows
    assert db.verify().ok
print(opened)
"""


def test_a_limit_on_the_number_of_files(store_path: str) -> None:
    assert int(run(FEW_FILES, store_path)) > 0
