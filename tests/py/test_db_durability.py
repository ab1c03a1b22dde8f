"""Claim: what a write promises is done when its call returns: the bytes are in the file, or on the
disk.

Method: after each kind of write the files are read by ordinary means and the log is dumped; calls
of fdatasync are counted; writes beside each other share them. Loss of power is tested in C, killing
in tests/crash.
"""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit._core.core import dump_manifest, dump_wal

KINDS = ("process", "periodic", "sync")
LOG_IO = ("mapped", "written")


def logs(path: str) -> list[Path]:
    """But for the next one, while the keeper is just making it."""
    return sorted(log for log in Path(path).glob("*.log") if log.stat().st_size > 0)


def frames(path: str) -> list[tuple[int, int]]:
    """(byte, how far the log was known to be synced when it was written) of each frame."""
    lines = [line for log in logs(path) for line in dump_wal(os.fsencode(log))]
    found = [re.match(r"frame at (\d+) .* synced (\d+)", line) for line in lines]
    return [(int(m[1]), int(m[2])) for m in found if m]


def writes_of(db: lsmkit.DB) -> dict[str, Any]:
    """Every way of writing."""

    def batch(**options: Any) -> None:
        with db.batch(**options) as b:
            b.put(b"batch", b"1")

    hand = lsmkit.WriteBatch()
    hand.put(b"by hand", b"1")
    return {
        "put": lambda **options: db.put(b"put", b"1", **options),
        "delete": lambda **options: db.delete(b"absent", **options),
        "put_many": lambda **options: db.put_many([b"many"], [b"1"], **options),
        "put_many tuple": lambda **options: db.put_many((b"many",), [b"1"], **options),
        "delete_many": lambda **options: db.delete_many([b"absent"], **options),
        "batch": batch,
        "write": lambda **options: db.write(hand, **options),
    }


@pytest.mark.parametrize("log_io", LOG_IO)
@pytest.mark.parametrize("durability", KINDS)
def test_the_bytes_are_in_the_file_when_the_call_returns(
    store_path: str, durability: str, log_io: str
) -> None:
    options: dict[str, Any] = {"durability": durability, "log_io": log_io, "segment_bytes": 65536}
    with lsmkit.open(store_path, **options) as db:
        for i, write in enumerate(writes_of(db).values()):
            write()
            db.put(b"mark %d" % i, b"of this write")
            assert b"mark %d" % i in b"".join(log.read_bytes() for log in logs(store_path))
        assert len(frames(store_path)) == 14


@pytest.mark.parametrize("log_io", LOG_IO)
def test_process_makes_no_sync_and_sync_makes_one(store_path: str, log_io: str) -> None:
    with lsmkit.open(store_path, log_io=log_io) as db:
        for write in writes_of(db).values():
            write()
            write(durability="process")
        assert db.stats().writes.syncs == 0
        for n, write in enumerate(writes_of(db).values(), start=1):
            write(durability="sync")
            assert db.stats().writes.syncs == n


@pytest.mark.parametrize("log_io", LOG_IO)
def test_a_store_that_syncs_does_so_unless_the_call_says_otherwise(
    store_path: str, log_io: str
) -> None:
    with lsmkit.open(store_path, durability="sync", log_io=log_io) as db:
        for n, write in enumerate(writes_of(db).values(), start=1):
            write()
            assert db.stats().writes.syncs == n
        db[b"item"] = b"1"
        db.update({b"a": b"1"})
        syncs = db.stats().writes.syncs
        assert syncs == n + 2
        for write in writes_of(db).values():
            write(durability="process")
            write(durability="periodic")
        assert db.stats().writes.syncs == syncs


@pytest.mark.parametrize("log_io", LOG_IO)
def test_a_page_that_was_synced_is_not_written_again(store_path: str, log_io: str) -> None:
    """Each frame behind a sync begins a page, and says how far the log is safe."""
    with lsmkit.open(store_path, log_io=log_io) as db:
        db[b"a"] = b"1"
        db[b"b"] = b"1"
        db.put(b"c", b"1", durability="sync")
        db[b"d"] = b"1"
        db.sync()
        db[b"e"] = b"1"
        places = frames(store_path)
    assert [synced for _, synced in places[:3]] == [0, 0, 0]
    assert [place % 4096 for place, _ in places[3:]] == [0, 0]
    assert places[2][0] < places[3][1] <= 4096 < places[4][1] <= 8192


@pytest.mark.parametrize("log_io", LOG_IO)
def test_sync_covers_what_was_written_before_it(store_path: str, log_io: str) -> None:
    with lsmkit.open(store_path, log_io=log_io) as db:
        db.sync()
        assert db.stats().writes.syncs == 0, "there was nothing to sync"
        db[b"a"] = b"1"
        db.sync()
        assert db.stats().writes.syncs == 1
        db.sync()
        assert db.stats().writes.syncs == 1, "nothing came since"


def test_sync_covers_full_segments_too(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=4096) as db:
        for i in range(500):
            db[b"%d" % i] = b"v" * 50
        db.sync()
        with lsmkit.open(store_path, read_only=True) as reader:
            assert len(reader) == 500


@pytest.mark.parametrize("log_io", LOG_IO)
@pytest.mark.parametrize("by_call", [False, True], ids=["store", "call"])
def test_periodic_syncs_by_itself(store_path: str, log_io: str, by_call: bool) -> None:
    durability = "process" if by_call else "periodic"
    options: dict[str, Any] = {"durability": "periodic"} if by_call else {}
    with lsmkit.open(store_path, durability=durability, log_io=log_io, sync_interval_ms=10) as db:
        for i in range(3):
            before = db.stats().writes.syncs
            db.put(b"%d" % i, b"1", **options)
            deadline = time.monotonic() + 30
            while db.stats().writes.syncs == before:
                assert time.monotonic() < deadline, "no sync within 30 s"
                time.sleep(0.001)


def test_periodic_does_not_sync_what_does_not_change(store_path: str) -> None:
    with lsmkit.open(store_path, durability="periodic", sync_interval_ms=1) as db:
        db[b"a"] = b"1"
        db.sync()
        before = db.stats().writes.syncs
        other = lsmkit.open(store_path + "-other", durability="periodic", sync_interval_ms=1)
        for i in range(20):  # as long as it takes another keeper to come round 20 times
            syncs = other.stats().writes.syncs
            other[b"%d" % i] = b"1"
            deadline = time.monotonic() + 30
            while other.stats().writes.syncs == syncs and time.monotonic() < deadline:
                time.sleep(0.001)
        other.close()
        assert db.stats().writes.syncs == before


@pytest.mark.parametrize("log_io", LOG_IO)
def test_writers_that_wait_share_a_sync(store_path: str, log_io: str) -> None:
    with lsmkit.open(store_path, durability="sync", log_io=log_io) as db:

        def write(n: int) -> None:
            for i in range(40):
                db.put(b"%d-%d" % (n, i), b"v")

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writes = db.stats().writes
        assert len(db) == writes.frames == 320
        assert 40 <= writes.syncs < 320


def test_files_of_a_store(store_path: str) -> None:
    """What README and FORMAT.md name: nothing else stands in the directory."""
    pattern = re.compile(r"CURRENT|LOCK|PULSE|MANIFEST-\d{6}|\d{6}\.(log|sst|blob)")
    with lsmkit.open(store_path, segment_bytes=4096) as db:
        for i in range(300):
            db[b"%d" % i] = b"v" * 50
        db[b"large"] = b"v" * 4097
        db.compact()
        db[b"x"] = b"1"
        names = os.listdir(store_path)
        assert all(pattern.fullmatch(name) for name in names), names
        assert {"CURRENT", "LOCK"} < set(names)
        assert any(name.endswith(".log") for name in names)
        owner, _since = Path(store_path, "LOCK").read_text().split()
        assert int(owner) == os.getpid()
    assert logs(store_path) == [], "a clean close leaves everything in tables"
    lines = dump_manifest(os.fsencode(store_path))
    assert '"clean":true' in lines[-1]
    assert Path(store_path, "CURRENT").read_text().startswith("MANIFEST-")
    manifest = Path(store_path, Path(store_path, "CURRENT").read_text().split()[0])
    assert manifest.read_text().splitlines() == lines


def test_files_do_not_pile_up(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=4096, table_bytes=4096) as db:
        for round_ in range(30):
            for i in range(100):
                db[b"%d" % i] = b"round %d" % round_ * 5
        db.compact()
        db.wait_idle()
        stats = db.stats()
        expected = sum(level.tables for level in stats.levels)
        deadline = time.monotonic() + 30  # the keeper removes what readers have left behind
        while len(list(Path(store_path).glob("*.sst"))) > expected or len(logs(store_path)) > 6:
            assert time.monotonic() < deadline, os.listdir(store_path)
            time.sleep(0.001)
        tables = list(Path(store_path).glob("*.sst"))
        assert len(tables) == expected
        assert sum(table.stat().st_size for table in tables) == stats.table_bytes


def test_a_tail_that_was_not_flushed_is_flushed_at_closing(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db[b"a"] = b"1"
        assert not list(Path(store_path).glob("*.sst"))
    assert len(list(Path(store_path).glob("*.sst"))) == 1
    with lsmkit.open(store_path) as db:
        assert db.stats().recovery.records == 0
        assert db[b"a"] == b"1"


def test_closing_an_untouched_store_writes_no_table(store_path: str) -> None:
    for _ in range(3):
        lsmkit.open(store_path).close()
    assert not list(Path(store_path).glob("*.sst"))
    assert logs(store_path) == []
