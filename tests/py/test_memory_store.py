"""`lsmkit.open(":memory:")`: a whole store, flush and compaction too, that leaves nothing."""

from __future__ import annotations

import os
import pickle

import pytest

import lsmkit


def test_a_store_in_memory_does_all_that_one_on_disk_does(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    expected = {b"%05d" % i: b"v%d" % i for i in range(3000)}
    with lsmkit.open(
        ":memory:", segment_bytes=16384, block_bytes=1024, table_bytes=16384, cache_bytes=65536
    ) as db:
        db.update(expected)
        snapshot = db.snapshot()
        db.delete_many([b"%05d" % i for i in range(0, 3000, 2)])
        db.compact()
        assert len(db) == 1500
        assert dict(snapshot) == expected
        assert db.verify().ok
        assert db.stats().flushes.count > 0
        assert db.path == ":memory:"
        db.sync()
    assert os.listdir() == []


def test_each_is_a_store_of_its_own_and_gone_when_closed() -> None:
    with lsmkit.open(":memory:") as one, lsmkit.open(":memory:") as other:
        one[b"k"] = b"v"
        assert b"k" not in other
    with lsmkit.open(":memory:") as again:
        assert not again


def test_there_is_none_to_be_opened() -> None:
    with pytest.raises(lsmkit.StoreNotFoundError):
        lsmkit.open(":memory:", create_if_missing=False)
    with pytest.raises(lsmkit.StoreNotFoundError):
        lsmkit.open(":memory:", read_only=True)


def test_the_same_name_on_a_disk_of_ones_own_stays() -> None:
    from lsmkit.testing import FaultyDisk

    disk = FaultyDisk()
    with lsmkit.open(":memory:", disk=disk) as db:
        db[b"k"] = b"v"
    with lsmkit.open(":memory:", disk=disk) as db:
        assert dict(db) == {b"k": b"v"}


def test_it_is_nowhere_else() -> None:
    with lsmkit.open(":memory:") as db, pytest.raises(TypeError, match="opened elsewhere"):
        pickle.dumps(db)
