"""Claim: `ingest` puts many rows at one place of the commit order, whatever their form and order,
and they stay there through flush, compaction, snapshots and reopening.

Method: tiny stores against a dict. What a loss of power leaves is shown on a simulated disk, in C.
"""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "block_bytes": 256,
    "table_bytes": 4096,
    "cache_bytes": 0,
}


def test_rows_are_there_and_last_of_equal_keys_wins(db: lsmkit.DB) -> None:
    assert db.ingest([b"b", b"a", b"b", b""], [b"1", b"2", b"3", b"4"]) is None
    assert list(db.items()) == [(b"", b"4"), (b"a", b"2"), (b"b", b"3")]
    assert db.stats().writes.records == 0, "the log was not used"


def test_every_form_of_column_is_taken(db: lsmkit.DB) -> None:
    np = pytest.importorskip("numpy")
    model: dict[bytes, bytes] = {}

    def check(keys: Any, values: Any, rows: dict[bytes, bytes]) -> None:
        db.ingest(keys, values)
        model.update(rows)
        assert dict(db.items()) == model

    check((b"t2", bytearray(b"t1")), (b"1", memoryview(b"2")), {b"t2": b"1", b"t1": b"2"})
    check(np.array([b"s2", b"s1"]), np.array([b"x", b"yy"]), {b"s2": b"x", b"s1": b"yy"})
    wide = np.array([[2, 0], [1, 255]], np.uint8)
    check(wide, wide, {b"\2\0": b"\2\0", b"\1\xff": b"\1\xff"})
    check(
        np.array([3, -3], np.int16),
        np.array([3, -3], np.int16),
        {b"\x80\x03": b"\x03\x00", b"\x7f\xfd": b"\xfd\xff"},
    )
    offsets = np.array([0, 1, 3], np.int64)
    check((b"zyx", offsets), (b"123", offsets), {b"z": b"1", b"yx": b"23"})
    pa = pytest.importorskip("pyarrow")
    check(pa.array([b"q", b"p"]), pa.array(["1", "2"]), {b"q": b"1", b"p": b"2"})


@pytest.mark.parametrize("rows", [1, 1000, 5000])
def test_random_rows_over_random_writes(store_path: str, rng: random.Random, rows: int) -> None:
    model: dict[bytes, bytes] = {}
    with lsmkit.open(store_path, **TINY) as db:
        for turn in range(5):
            for _ in range(300):
                key = b"%04d" % rng.randrange(3000)
                if rng.random() < 0.3:
                    db.delete(key)
                    model.pop(key, None)
                else:
                    db.put(key, b"put%d" % turn)
                    model[key] = b"put%d" % turn
            keys = [b"%04d" % rng.randrange(3000) for _ in range(rows)]
            values = [b"%d.%d" % (turn, i) for i in range(rows)]
            snapshot, then = db.snapshot(), dict(model)
            db.ingest(keys, values)
            model.update(zip(keys, values, strict=True))
            assert dict(db.items()) == model
            assert dict(snapshot.items()) == then
            if turn % 2:
                db.compact()
                assert dict(snapshot.items()) == then
            snapshot.close()
            assert dict(db.items()) == model
        assert db.verify().ok
    with lsmkit.open(store_path, **TINY) as db:
        assert db.stats().recovery.records == 0
        assert dict(db.items()) == model


def test_snapshot_and_scan_of_before_do_not_see_it(db: lsmkit.DB) -> None:
    db[b"a"] = b"old"
    scan = db.scan()
    with db.snapshot() as snapshot:
        db.ingest([b"a", b"b"], [b"new", b"new"])
        assert dict(snapshot) == {b"a": b"old"}
        db.compact()
        assert dict(snapshot) == {b"a": b"old"}
        assert list(scan) == [(b"a", b"old")]
    with db.snapshot() as snapshot:
        db.ingest([b"c"], [b"newer"])
        assert dict(snapshot) == {b"a": b"new", b"b": b"new"}


def test_snapshot_of_an_empty_log_does_not_see_it_either(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db.ingest([b"a"], [b"first"])
    with lsmkit.open(store_path) as db, db.snapshot() as snapshot:
        db.ingest([b"a"], [b"second"])
        assert snapshot[b"a"] == b"first"
        assert db[b"a"] == b"second"


def test_writes_of_after_win_also_over_deletes(db: lsmkit.DB) -> None:
    db.delete(b"a")
    db.ingest([b"a", b"b", b"c"], [b"1", b"1", b"1"])
    db.delete(b"b")
    db[b"c"] = b"2"
    for _ in range(2):
        assert dict(db) == {b"a": b"1", b"c": b"2"}
        db.compact()


def test_scan_sees_rows_where_it_remembered_that_there_are_none(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        keys = [b"%05d" % i for i in range(2000)]
        db.put_many(keys, [b""] * len(keys))
        db.delete_many(keys)
        assert list(db.scan()) == []
        assert list(db.scan()) == []
        db.ingest(keys[500:510], keys[500:510])
        assert list(db.scan_keys()) == keys[500:510]


def test_append_only_load_is_never_merged(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        for part in range(5):
            keys = [b"%d/%04d" % (part, i) for i in range(2000)]
            db.ingest(keys, [b"value %d" % i for i in range(2000)])
        assert db.wait_idle(60)
        compactions = db.stats().compactions
        assert compactions.merges == 0
        assert compactions.moves > 0
        assert len(db) == 10_000


def test_wrong_columns_are_refused_and_nothing_is_written(db: lsmkit.DB) -> None:
    with pytest.raises(ValueError, match="2 keys and 1 values"):
        db.ingest([b"a", b"b"], [b"1"])
    with pytest.raises(ValueError, match=r"values\[1\]"):
        db.ingest([b"a", b"b"], [b"1", None])
    with pytest.raises(ValueError, match="key"):
        db.ingest([b"x" * 65_536], [b"1"])
    with pytest.raises(TypeError):
        db.ingest(["a"], [b"1"])
    db.ingest([], [])
    assert dict(db) == {}
    assert db.stats().levels == () or not any(level.tables for level in db.stats().levels)


def test_read_only_and_closed_handles_refuse_it(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        pass
    with pytest.raises(lsmkit.ClosedError):
        db.ingest([b"a"], [b"1"])
    with lsmkit.open(store_path, read_only=True) as db, pytest.raises(lsmkit.ReadOnlyError):
        db.ingest([b"a"], [b"1"])


def test_it_is_on_the_disk_and_in_checkpoints(store_path: str, tmp_path: Any) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db.put(b"a", b"0")
        db.ingest([b"a", b"b"], [b"1", b"2"])
        with lsmkit.open(store_path, read_only=True) as reader:
            assert dict(reader) == {b"a": b"1", b"b": b"2"}
        db.checkpoint(tmp_path / "copy")
    with lsmkit.open(tmp_path / "copy") as copy:
        assert dict(copy) == {b"a": b"1", b"b": b"2"}


def test_readers_see_all_of_it_or_nothing(store_path: str) -> None:
    keys = [b"%03d" % i for i in range(200)]
    with lsmkit.open(store_path, **TINY) as db:
        db.ingest(keys, [b"0"] * len(keys))
        done = threading.Event()
        failures: list[set[bytes]] = []

        def read() -> None:
            while not done.is_set():
                for found in (set(db.values()), {v for v in db.get_many(keys) if v is not None}):
                    if len(found) != 1:
                        failures.append(found)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for turn in range(1, 15):
            db.ingest(keys[::-1], [b"%d" % turn] * len(keys))
        done.set()
        for reader in readers:
            reader.join()
        assert not failures
        assert set(db.values()) == {b"14"}


def test_rows_live_as_long_as_the_store_says(store_path: str) -> None:
    rows = [b"%d" % i for i in range(1000)]
    with lsmkit.open(store_path, ttl=1e-6, **TINY) as db:
        db.ingest(rows, rows)
        assert dict(db) == {}
    with lsmkit.open(store_path, ttl=1000, **TINY) as db:
        db.ingest(rows, rows)
        assert dict(db) == dict(zip(rows, rows, strict=True))
        db.compact()
        assert db[b"7"] == b"7"
        assert db.verify().ok
