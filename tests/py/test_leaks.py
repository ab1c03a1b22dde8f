"""Claim: what was closed, dropped or refused leaves nothing behind in the process or on the disk.

Method: something is done a few times, so that all that is kept on purpose is there, and then many
times more. The process then has as many descriptors, threads and mapped files of the store as
before, and its memory has grown by less than a small leak each time would add up to.
"""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lsmkit

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

SMALL: dict[str, Any] = {
    "segment_bytes": 64 << 10,
    "block_bytes": 1024,
    "table_bytes": 64 << 10,
    "cache_bytes": 1 << 20,
}
KEYS = [b"key %04d" % i for i in range(1000)]
VALUES = [b"value %04d" % i * 3 for i in range(1000)]
MIB = 1 << 20


def resources(path: str, *, of_log: bool = True) -> dict[str, int]:
    """How many descriptors and threads the process has, and how many maps of files below `path`.

    Without those of log segments (`of_log`) while a store is open: as many of these wait for their
    next use as the last flushes left, and none when nothing was written for a while.
    """
    gc.collect()  # of what other tests have left, too
    maps = Path("/proc/self/maps").read_text("utf-8").splitlines()
    files = [name for name in map(_file_of, os.listdir("/proc/self/fd")) if name]
    return {
        "descriptors": sum(of_log or not name.endswith(".log") for name in files),
        "threads": len(os.listdir("/proc/self/task")),
        "maps": sum(
            path in line and (of_log or not line.endswith((".log", ".log (deleted)")))
            for line in maps
        ),
    }


def _file_of(descriptor: str) -> str:
    """ "" where it was closed meanwhile, as that of the folder is that was listed."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
    except FileNotFoundError:
        return ""


def settled(path: str, wanted: dict[str, int], *, of_log: bool = True) -> dict[str, int]:
    """The resources, as soon as they are those wanted: the kernel may list a thread that has ended
    for a moment longer."""
    until = time.monotonic() + 5
    now = resources(path, of_log=of_log)
    while now != wanted and time.monotonic() < until:
        time.sleep(0.005)
        now = resources(path, of_log=of_log)
    return now


def resident() -> int:
    """Bytes of memory that the process has of its own: without pages of mapped files."""
    _, total, shared, *_ = Path("/proc/self/statm").read_text("ascii").split()
    return (int(total) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def check_leaks(
    path: str, work: Callable[[], object], *, times: int, warm: int, grown_max: int
) -> None:
    """Does `work` `warm` times and then `times` times: of the latter nothing is left."""
    for _ in range(warm):
        work()
    before, memory = resources(path, of_log=False), resident()
    for _ in range(times):
        work()
    assert settled(path, before, of_log=False) == before
    assert resident() - memory < grown_max


def fill(path: str) -> None:
    """A store with rows in tables and in the log."""
    with lsmkit.open(path, **SMALL) as db:
        db.put_many(KEYS, VALUES)
        db.flush()


@pytest.fixture
def filled(store_path: str) -> str:
    fill(store_path)
    return store_path


# --- Opening and closing ---------------------------------------------------------------------


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_opening_and_closing(store_path: str, log_io: str) -> None:
    bare = resources(store_path)

    def work() -> None:
        with lsmkit.open(store_path, log_io=log_io, **SMALL) as db:
            db.put_many(KEYS[:100], VALUES[:100])
            assert db[KEYS[5]] == VALUES[5]
            assert len(db.get_many(KEYS)) == len(KEYS)

    check_leaks(store_path, work, times=60, warm=10, grown_max=2 * MIB)
    assert settled(store_path, bare) == bare, "nor is anything kept for later"
    assert len(os.listdir(store_path)) < 20


def test_reading_only(filled: str) -> None:
    def work() -> None:
        with lsmkit.open(filled, read_only=True) as reader:
            assert len(reader) == len(KEYS)

    check_leaks(filled, work, times=60, warm=10, grown_max=2 * MIB)
    with lsmkit.open(filled, **SMALL):
        check_leaks(filled, work, times=30, warm=5, grown_max=2 * MIB)


def test_dropping_the_last_reference(filled: str) -> None:
    bare = resources(filled)

    def work() -> None:
        db = lsmkit.open(filled, **SMALL)
        db[b"key"] = b"value"
        scan, snapshot, batch = db.scan(), db.snapshot(), db.batch()
        batch.put(b"lost", b"value")
        assert next(scan)[0] == b"key"
        assert b"key" in snapshot

    check_leaks(filled, work, times=40, warm=10, grown_max=2 * MIB)
    assert settled(filled, bare) == bare


def test_what_outlives_its_store(filled: str) -> None:
    bare = resources(filled)

    def work() -> None:
        with lsmkit.open(filled, **SMALL) as db:
            held = [
                db.scan(),
                db.scan_columns(),
                db.snapshot(),
                db.batch(),
                next(db.scan_columns()),
            ]
        with pytest.raises(lsmkit.ClosedError):
            next(held[0])  # type: ignore[call-overload]
        del held[0]

    check_leaks(filled, work, times=40, warm=10, grown_max=2 * MIB)
    assert settled(filled, bare) == bare


# --- Opening in vain -------------------------------------------------------------------------


def refused(kind: type[Exception], path: str, **options: Any) -> Callable[[], None]:
    def work() -> None:
        with pytest.raises(kind):
            lsmkit.open(path, **options)

    return work


def test_a_store_that_is_locked(filled: str) -> None:
    with lsmkit.open(filled, **SMALL) as db:
        work = refused(lsmkit.LockedError, filled)
        check_leaks(filled, work, times=300, warm=30, grown_max=MIB)
        assert len(db) == len(KEYS)


@pytest.mark.parametrize("reason", ["missing", "there", "options", "durability", "a file"])
def test_a_store_that_cannot_be_had(filled: str, reason: str) -> None:
    work = {
        "missing": refused(FileNotFoundError, filled + "/none", create_if_missing=False),
        "there": refused(FileExistsError, filled, error_if_exists=True),
        "options": refused(ValueError, filled, segment_bytes=1),
        "durability": refused(ValueError, filled, durability="never"),
        "a file": refused(OSError, filled + "/CURRENT"),
    }[reason]
    check_leaks(filled, work, times=200, warm=20, grown_max=MIB)


def damaged(path: str, kind: str) -> str:
    """Changes one byte of a file of this kind. A log is there only while its store is open or
    after a kill, so the files of an open store are copied."""
    if kind == "log":
        with lsmkit.open(path, **SMALL) as db:
            for i in range(100):
                db.put(KEYS[i], VALUES[i])
            shutil.copytree(path, path + "-killed")
        path += "-killed"
    end = {"table": ".sst", "log": ".log"}.get(kind, "")
    file = min(x for x in Path(path).iterdir() if x.name.startswith(kind) or x.suffix == end != "")
    content = bytearray(file.read_bytes())
    at = content.index(VALUES[50]) if kind == "log" else len(content) // 2
    content[at] ^= 0x55
    file.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["CURRENT", "MANIFEST", "table", "log"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_store_that_is_damaged(filled: str, kind: str, read_only: bool) -> None:
    path = damaged(filled, kind)

    def work() -> None:
        try:
            with lsmkit.open(path, read_only=read_only) as db:
                assert not db.verify(), "what is damaged is seen when all is read"
                raise lsmkit.CorruptionError("seen")
        except lsmkit.CorruptionError:
            pass
        else:
            pytest.fail("nothing was seen")

    check_leaks(path, work, times=40, warm=10, grown_max=2 * MIB)


# --- Reading ---------------------------------------------------------------------------------


def first_rows(of: lsmkit.DB | lsmkit.Snapshot) -> list[object]:
    """One row of every kind of scan, which is then left where it is."""
    return [
        next(of.scan()),
        next(of.scan(KEYS[10], reverse=True)),
        next(of.scan_keys(prefix=b"key 00")),
        next(of.scan_values(reverse=True)),
        next(of.scan_columns(rows=10)),
        next(iter(of.items())),
        next(reversed(of)),
    ]


def test_scans_that_are_abandoned(filled: str) -> None:
    with lsmkit.open(filled, **SMALL) as db:
        db.put_many(KEYS[:500], VALUES[:500])
        check_leaks(filled, lambda: first_rows(db), times=2000, warm=200, grown_max=MIB)


def test_snapshots_that_are_abandoned(filled: str) -> None:
    with lsmkit.open(filled, **SMALL) as db:

        def work() -> None:
            db[KEYS[0]] = VALUES[0]
            held = db.snapshot()
            assert held[KEYS[0]] == VALUES[0]
            first_rows(held)

        check_resident(work, times=1000, warm=500, grown_max=2 * MIB)
        db.compact()
        assert db.stats().levels[-1].rows == len(KEYS), "no old version is kept for a snapshot"


def test_what_a_scan_holds_goes_with_it(filled: str) -> None:
    """Tables that were merged away stay until the scan over them ends, and not longer."""
    with lsmkit.open(filled, **SMALL) as db:
        for _ in range(3):
            db.put_many(KEYS, VALUES)
            db.compact()
        before = resources(filled, of_log=False)
        files = set(os.listdir(filled))
        scan, of_columns, of_snapshot = db.scan(), db.scan_columns(), db.snapshot().scan()
        first = next(scan)[0], next(of_columns).keys[0], next(of_snapshot)[0]
        assert first == (KEYS[0],) * 3
        db.put_many(KEYS, VALUES)
        db.compact()
        assert files & {x for x in os.listdir(filled) if x.endswith(".sst")}, "still being read"
        assert [key for key, _ in scan] == KEYS[1:]
        del scan, of_columns, of_snapshot
        gc.collect()
        db.put_many(KEYS, VALUES)
        db.compact()
        assert settled(filled, before, of_log=False) == before
        assert not files & {x for x in os.listdir(filled) if x.endswith(".sst")}


def test_values_of_many_keys(filled: str) -> None:
    numpy = pytest.importorskip("numpy")
    keys = numpy.array(KEYS)
    with lsmkit.open(filled, **SMALL) as db:

        def work() -> None:
            assert db.get_many([*KEYS[:50], b"none"])[-1] is None
            column = db.get_many(keys)
            assert column[7] == VALUES[7]
            views = [column.data, column.offsets, column.validity, column.to_numpy(object)]
            part = column[10:20]
            capsules = part.__arrow_c_array__()
            del column
            assert part[0] == VALUES[10]
            assert len(views) + len(capsules) == 6
            with pytest.raises(ValueError, match="is null"):
                db.get_many([b"a", None])  # type: ignore[list-item]

        check_leaks(filled, work, times=400, warm=50, grown_max=2 * MIB)


def test_columns_of_scans(filled: str) -> None:
    pytest.importorskip("numpy")
    with lsmkit.open(filled, **SMALL) as db:

        def work() -> None:
            for batch in db.scan_columns(rows=300):
                assert len(batch.keys.data) == 8 * len(batch)
                assert len(batch.values.to_numpy()) == len(batch)
            stream = db.scan_columns().__arrow_c_stream__()
            assert stream is not None
            assert batch.__arrow_c_array__() is not None

        check_leaks(filled, work, times=400, warm=50, grown_max=2 * MIB)


# --- Writing ---------------------------------------------------------------------------------


def fail_in_a_batch(db: lsmkit.DB) -> None:
    with db.batch() as batch:
        batch.put(b"a", bytes(10_000))
        _ = 1 / 0


def test_writes_that_are_refused(filled: str) -> None:
    with lsmkit.open(filled, **SMALL) as db:

        def work() -> None:
            with pytest.raises(ValueError, match="null"):
                db.put_many([b"a", b"b"], [b"1", None])  # type: ignore[list-item]
            with pytest.raises(ValueError, match="2 keys and 1"):
                db.put_many([b"a", b"b"], [bytes(10_000)])
            with pytest.raises(TypeError):
                db.put(b"a", "1")  # type: ignore[arg-type]
            with pytest.raises(ZeroDivisionError):
                fail_in_a_batch(db)

        check_leaks(filled, work, times=500, warm=50, grown_max=MIB)
        assert len(db) == len(KEYS)


def test_overwriting_for_long(store_path: str) -> None:
    """Segments, tables and their files go round: neither memory nor the folder grows."""
    with lsmkit.open(store_path, **SMALL) as db:

        def work() -> None:
            db.put_many(KEYS, VALUES)
            db.delete_many(KEYS[::2])
            db.wait_idle()

        check_resident(work, times=60, warm=20, grown_max=4 * MIB)
        db.compact()
        assert len(db) == len(KEYS) // 2
        assert len(os.listdir(store_path)) < 25


def check_resident(work: Callable[[], object], *, times: int, warm: int, grown_max: int) -> None:
    """As check_leaks, but for work after which other files are open than before."""
    for _ in range(warm):
        work()
    before = resident()
    for _ in range(times):
        work()
    assert resident() - before < grown_max
