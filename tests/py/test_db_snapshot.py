"""Claim: a snapshot is the store at one moment, whatever becomes of the store, until it is closed.

Method: many snapshots of a store that is overwritten, flushed and compacted, each compared with the
dict of its moment through every way of reading.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Mapping
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "block_bytes": 256,
    "table_bytes": 4096,
    "cache_bytes": 0,
}


def assert_is(snapshot: lsmkit.Snapshot, model: dict[bytes, bytes], keys: list[bytes]) -> None:
    """Every way of reading gives the model."""
    ordered = sorted(model.items())
    assert dict(snapshot) == model
    assert list(snapshot.items()) == list(snapshot.scan()) == ordered
    assert list(snapshot.scan(reverse=True)) == list(snapshot.items())[::-1]
    assert list(snapshot) == list(snapshot.keys()) == [key for key, _ in ordered]
    assert list(snapshot.values()) == [value for _, value in ordered]
    assert len(snapshot) == len(model)
    assert bool(snapshot) == bool(model)
    assert [snapshot.get(key) for key in keys] == [model.get(key) for key in keys]
    assert snapshot.get_many(keys, b"-") == [model.get(key, b"-") for key in keys]
    assert [key in snapshot for key in keys] == [key in model for key in keys]
    assert [k for part in snapshot.scan_columns(rows=50) for k in part.keys] == list(snapshot)


@pytest.mark.parametrize("compaction", ["lazy", "leveled"])
def test_snapshots_stay_what_they_were(
    store_path: str, rng: random.Random, compaction: str
) -> None:
    policy = (
        lsmkit.compaction.LazyLeveled() if compaction == "lazy" else lsmkit.compaction.Leveled()
    )
    with lsmkit.open(store_path, compaction=policy, level_base_bytes=8192, **TINY) as db:
        keys = [b"%03d" % i for i in range(150)]
        model: dict[bytes, bytes] = {}
        moments: list[tuple[lsmkit.Snapshot, dict[bytes, bytes]]] = []
        for round_ in range(12):
            moments.append((db.snapshot(), dict(model)))
            for _ in range(150):
                key = rng.choice(keys)
                if rng.random() < 0.3:
                    db.delete(key)
                    model.pop(key, None)
                else:
                    db[key] = model[key] = b"%d-" % round_ + rng.randbytes(rng.randrange(40))
            if round_ % 3 == 1:
                db.flush()
            if round_ % 4 == 3:
                db.compact()
        db.wait_idle()
        rng.shuffle(moments)
        for snapshot, then in moments:
            assert_is(snapshot, then, keys)
            snapshot.close()
        assert dict(db) == model


def test_it_is_a_mapping_that_cannot_be_written(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    with db.snapshot() as snapshot:
        assert isinstance(snapshot, Mapping)
        assert snapshot == {b"a": b"1"}
        assert snapshot in {snapshot}
        assert snapshot[b"a"] == b"1"
        with pytest.raises(KeyError):
            snapshot[b"b"]
        for name in ("put", "delete", "put_many", "batch", "write", "pop", "clear", "flush"):
            assert not hasattr(snapshot, name)
        with pytest.raises(TypeError):
            snapshot[b"a"] = b"2"  # type: ignore[index]


def test_a_snapshot_of_an_empty_store_is_empty(db: lsmkit.DB) -> None:
    with db.snapshot() as snapshot:
        db[b"a"] = b"1"
        assert_is(snapshot, {}, [b"a"])
        db.flush()
        assert_is(snapshot, {}, [b"a"])


def test_a_snapshot_sees_what_was_flushed_before_it(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    db.flush()
    with db.snapshot() as snapshot:
        del db[b"a"]
        db.flush()
        db.compact()
        assert_is(snapshot, {b"a": b"1"}, [b"a"])
    assert not db


def test_a_closed_snapshot_says_so(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    snapshot = db.snapshot()
    scan = snapshot.scan()
    snapshot.close()
    snapshot.close()

    for read in (
        lambda: snapshot.get(b"a"),
        lambda: snapshot[b"a"],
        lambda: b"a" in snapshot,
        lambda: snapshot.get_many([b"a"]),
        lambda: snapshot.scan(),
        lambda: snapshot.scan_keys(),
        lambda: snapshot.scan_values(),
        lambda: snapshot.scan_columns(),
        lambda: iter(snapshot),
        lambda: reversed(snapshot),
        lambda: list(snapshot.items()),
        lambda: len(snapshot),
        lambda: bool(snapshot),
        lambda: snapshot.approximate_size(),
    ):
        with pytest.raises(lsmkit.ClosedError, match="the snapshot is closed"):
            read()
    assert list(scan) == [(b"a", b"1")], "a scan pins its moment itself"
    assert db[b"a"] == b"1"


def test_with_closes_it(db: lsmkit.DB) -> None:
    with db.snapshot() as snapshot:
        assert len(snapshot) == 0
    with pytest.raises(lsmkit.ClosedError):
        len(snapshot)
    with pytest.raises(ZeroDivisionError), db.snapshot() as snapshot:
        1 / 0  # noqa: B018
    with pytest.raises(lsmkit.ClosedError):
        len(snapshot)


def test_closing_the_store_closes_its_snapshots(store_path: str) -> None:
    db = lsmkit.open(store_path)
    db[b"a"] = b"1"
    snapshot = db.snapshot()
    db.close()

    with pytest.raises(lsmkit.ClosedError, match="the store is closed"):
        snapshot.get(b"a")
    with pytest.raises(lsmkit.ClosedError, match="the store is closed"):
        snapshot.scan()
    snapshot.close()


def test_a_snapshot_keeps_its_store_open(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db[b"a"] = b"1"
    snapshot = lsmkit.open(store_path).snapshot()
    gc.collect()
    assert snapshot[b"a"] == b"1"
    snapshot.close()
    del snapshot
    lsmkit.open(store_path).close()


def test_versions_are_kept_for_a_snapshot_and_dropped_after_it(store_path: str) -> None:
    """What a snapshot costs: the versions that it sees, and no longer than it lives."""

    def rows_in_tables(db: lsmkit.DB) -> int:
        return sum(level.rows for level in db.stats().levels)

    with lsmkit.open(store_path, **TINY) as db:
        keys = [b"%04d" % i for i in range(100)]
        db.put_many(keys, [b"old"] * 100)
        snapshot = db.snapshot()
        for round_ in range(5):
            db.put_many(keys, [b"new %d" % round_] * 100)
        db.compact()
        assert rows_in_tables(db) == 200, "the snapshot's and the newest, nothing in between"
        assert snapshot.get_many(keys) == [b"old"] * 100
        snapshot.close()
        db.put_many(keys, [b"newest"] * 100)
        db.compact()
        assert rows_in_tables(db) == 100


def test_deletes_are_kept_from_a_snapshot(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        keys = [b"%04d" % i for i in range(100)]
        db.put_many(keys, keys)
        db.compact()
        with db.snapshot() as before:
            db.clear()
            with db.snapshot() as after:
                db.put_many(keys, [b"again"] * 100)
                db.compact()
                assert before.get_many(keys) == keys
                assert list(after) == []
                assert db.get_many(keys) == [b"again"] * 100


def test_abandoned_snapshots_are_given_back(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        keys = [b"%04d" % i for i in range(100)]
        for round_ in range(20):
            db.put_many(keys, [b"%d" % round_] * 100)
            db.snapshot()
        gc.collect()
        db.compact()
        assert sum(level.rows for level in db.stats().levels) == 100
