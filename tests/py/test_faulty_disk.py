"""`lsmkit.testing.FaultyDisk`: a store on it keeps what it promised through its faults,
and says which call failed.
"""

from __future__ import annotations

import errno
from typing import Any

import pytest

import lsmkit
from lsmkit.testing import FaultyDisk

TINY: dict[str, Any] = {
    "segment_bytes": 16384,
    "block_bytes": 1024,
    "table_bytes": 16384,
    "cache_bytes": 65536,
}


def opened(disk: FaultyDisk, path: str = "/deep/down/store", **options: Any) -> lsmkit.DB:
    return lsmkit.open(path, disk=disk, **{**TINY, **options})


def until_refused(db: lsmkit.DB) -> lsmkit.StorageError:
    """Puts rows until one is refused."""
    try:
        for i in range(10_000):
            db.put(b"%d" % i, b"v" * 100)
    except lsmkit.StorageError as error:
        return error
    raise AssertionError("all of them were taken")


@pytest.mark.parametrize("keep", ["all", "synced", "random"])
def test_what_was_synced_survives_a_power_cut(keep: str) -> None:
    disk = FaultyDisk(seed=7)
    expected = {}
    for round_ in range(8):
        db = opened(disk)
        assert expected.items() <= dict(db).items()
        for i in range(20):
            key, value = b"%d/%d" % (round_, i), b"v" * i
            db.put(key, value, durability="sync")
            expected[key] = value
        db.put_many([b"unsynced %d" % i for i in range(300)], [b"x" * 50] * 300)
        disk.power_cut(keep)
        assert db.closed
    with opened(disk) as db:
        assert expected.items() <= dict(db).items()
        assert db.verify().ok


def test_a_power_cut_takes_what_nothing_had_synced() -> None:
    disk = FaultyDisk()
    db = opened(disk)
    db.put(b"kept", b"", durability="sync")
    db.put(b"lost", b"")
    disk.power_cut("synced")
    with pytest.raises(lsmkit.ClosedError):
        db.put(b"k", b"v")
    with opened(disk) as db:
        assert dict(db) == {b"kept": b""}


def test_a_kill_takes_nothing_that_was_acknowledged() -> None:
    disk = FaultyDisk()
    db = opened(disk)
    db.put_many([b"%d" % i for i in range(500)], [b"v" * 100] * 500)
    disk.kill()
    assert db.closed
    with opened(disk) as db:
        assert len(db) == 500


def test_a_failed_sync_is_an_error_and_ends_writing() -> None:
    disk = FaultyDisk()
    db = opened(disk)
    db.put(b"k", b"v", durability="sync")
    disk.fail("fdatasync", errno=errno.EDQUOT)
    with pytest.raises(lsmkit.StorageError) as caught:
        db.put(b"k", b"w", durability="sync")
    assert caught.value.errno == errno.EDQUOT
    with pytest.raises(lsmkit.StorageError):
        db.put(b"k", b"x")
    assert db[b"k"] in (b"v", b"w"), "reads go on"
    disk.power_cut("synced")
    with opened(disk) as db:
        assert db[b"k"] == b"v"


def test_the_nth_call_fails_and_only_for_the_path() -> None:
    disk = FaultyDisk()
    with opened(disk, "/one") as one, opened(disk, "/two") as two:
        disk.fail("fdatasync", nth=2, path="/one/")
        two.put(b"k", b"v", durability="sync")
        two.put(b"k", b"v", durability="sync")
        one.put(b"k", b"v", durability="sync")
        with pytest.raises(lsmkit.StorageError):
            one.put(b"k", b"v", durability="sync")
        disk.kill()


def test_a_full_disk_is_enospc_and_reads_go_on() -> None:
    disk = FaultyDisk()
    db = opened(disk)
    db.put(b"first", b"v")
    disk.fill(after_bytes=40_000)
    caught = until_refused(db)
    assert caught.errno == errno.ENOSPC
    assert db[b"first"] == b"v"
    written = len(db)
    disk.heal()
    disk.kill()
    with opened(disk) as db:
        assert len(db) == written
        db.put(b"and on", b"v")


def test_a_capacity_bounds_the_disk_from_the_start() -> None:
    disk = FaultyDisk(capacity=100)
    with pytest.raises(lsmkit.StorageError) as caught:
        opened(disk).put(b"k", b"v")
    assert caught.value.errno == errno.ENOSPC
    assert disk.used_bytes <= 4096


def test_calls_are_counted_and_traced() -> None:
    disk = FaultyDisk()
    with opened(disk) as db:
        disk.trace()
        before = disk.calls("fdatasync")
        db.put(b"k", b"v", durability="sync")
        assert disk.calls("fdatasync") > before
        assert "datasync /deep/down/store/" in disk.trace()
        assert disk.calls() > disk.calls("fdatasync")


def test_stores_of_one_disk_are_told_apart_and_locked() -> None:
    disk = FaultyDisk()
    with opened(disk, "/a") as a, opened(disk, "/b") as b:
        a[b"k"] = b"a"
        b[b"k"] = b"b"
        assert (a[b"k"], b[b"k"]) == (b"a", b"b")
        with pytest.raises(lsmkit.LockedError):
            opened(disk, "/a")
    with lsmkit.open("a", disk=disk, read_only=True) as reader:
        assert reader[b"k"] == b"a"


def test_wrong_arguments_are_named() -> None:
    disk = FaultyDisk()
    with pytest.raises(ValueError, match="call is 'levitate'"):
        disk.fail("levitate")
    with pytest.raises(ValueError, match="nth is 0"):
        disk.fail("fsync", nth=0)
    with pytest.raises(ValueError, match="keep is 'some'"):
        disk.power_cut("some")
    with pytest.raises(ValueError, match="after_bytes is -1"):
        disk.fill(-1)
    with pytest.raises(ValueError, match="path has 64 bytes"):
        disk.fail("fsync", path="x" * 64)
    for _ in range(16):
        disk.fail("fsync", nth=1000)
    with pytest.raises(ValueError, match="16 faults"):
        disk.fail("fsync")
