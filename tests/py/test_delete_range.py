"""delete_range: one record hides any number of keys, at once and for good, but not from those who
looked before; its space comes back.

Method: small segments and tables, so that flush and compaction happen all the time; every state is
compared with a dict, before and after flush, compaction and reopening.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

import lsmkit
from lsmkit.version import Job

TINY: dict[str, Any] = {
    "segment_bytes": 8192,
    "table_bytes": 8192,
    "block_bytes": 512,
    "level_base_bytes": 16384,
    "background_threads": 2,
}


@pytest.fixture
def db(tmp_path: Any) -> Any:
    with lsmkit.open(tmp_path / "store", **TINY) as db:
        yield db


def key(i: int) -> bytes:
    return b"key%06d" % i


def fill(db: lsmkit.DB, count: int) -> dict[bytes, bytes]:
    rows = {key(i): b"value%d" % i for i in range(count)}
    db.put_many(list(rows), list(rows.values()))
    return rows


def rows_in_tables(db: lsmkit.DB) -> int:
    return sum(level.rows for level in db.stats().levels)


def test_a_deleted_range_is_half_open(db: lsmkit.DB) -> None:
    rows = fill(db, 100)
    db.delete_range(key(10), key(90))
    assert list(db) == [key(i) for i in (*range(10), *range(90, 100))]
    assert db.get(key(10)) is None
    assert key(89) not in db
    assert db[key(9)] == rows[key(9)]
    assert db[key(90)] == rows[key(90)]
    assert db.get_many([key(9), key(10), key(90)]) == [rows[key(9)], None, rows[key(90)]]


@pytest.mark.parametrize("flush", [False, True])
def test_none_is_the_beginning_and_the_end(db: lsmkit.DB, flush: bool) -> None:
    fill(db, 30)
    if flush:
        db.flush()
    db.delete_range(None, key(10))
    assert list(db) == [key(i) for i in range(10, 30)]
    db.delete_range(key(20), None)
    db.put(b"z", b"1")
    assert list(db) == [key(i) for i in range(10, 20)] + [b"z"]
    db.delete_range(None, None)
    assert len(db) == 0
    assert not db


def test_a_range_that_ends_before_it_starts_writes_nothing(db: lsmkit.DB) -> None:
    fill(db, 10)
    before = db.stats().writes.records
    db.delete_range(key(5), key(5))
    db.delete_range(key(5), key(4))
    db.delete_range(b"", b"")
    with db.batch() as batch:
        batch.delete_range(key(5), key(4))
        assert len(batch) == 0
    assert db.stats().writes.records == before
    assert len(db) == 10


def test_bounds_are_bytes_and_not_too_long(db: lsmkit.DB) -> None:
    db.delete_range(bytearray(b"a"), memoryview(b"b"))
    with pytest.raises(TypeError):
        db.delete_range("a", b"b")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        db.delete_range(b"a", "b")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stop has 65536 bytes"):
        db.delete_range(b"", b"x" * 65_536)
    with pytest.raises(ValueError, match="65536 bytes"):
        lsmkit.WriteBatch().delete_range(b"x" * 65_536, None)


def test_one_record_however_many_rows(db: lsmkit.DB) -> None:
    fill(db, 5000)
    before = db.stats().writes
    db.delete_range(None, None)
    after = db.stats().writes
    assert after.records - before.records == 1
    assert after.bytes - before.bytes < 100


def test_order_inside_a_batch_matters(db: lsmkit.DB) -> None:
    fill(db, 10)
    with db.batch() as batch:
        batch.put(key(3), b"before")
        batch.put(b"new", b"before")
        batch.delete_range(None, None)
        batch.put(key(4), b"after")
    assert dict(db.items()) == {key(4): b"after"}
    db.flush()
    assert dict(db.items()) == {key(4): b"after"}


def test_what_is_stored_later_lives(db: lsmkit.DB) -> None:
    for flush in (False, True):
        fill(db, 100)
        db.delete_range(key(20), key(80))
        db.put(key(50), b"later")
        if flush:
            db.flush()
        assert db[key(50)] == b"later"
        assert len(list(db.scan(key(20), key(80)))) == 1
        db.compact()
        assert db[key(50)] == b"later"
        assert len(db) == 41


def test_snapshots_and_scans_see_what_they_saw(db: lsmkit.DB) -> None:
    rows = fill(db, 500)
    db.flush()
    scan, backwards = db.scan(), db.scan(reverse=True)
    with db.snapshot() as snapshot:
        db.delete_range(key(100), key(400))
        with db.snapshot() as later:
            db.put(key(200), b"new")
            db.flush()
            db.compact()
            assert dict(snapshot.items()) == rows
            assert snapshot[key(200)] == rows[key(200)]
            assert snapshot.get_many([key(100), key(399)]) == [rows[key(100)], rows[key(399)]]
            assert len(later) == 200
            assert later.get(key(200)) is None
            assert len(db) == 201
    assert list(scan) == sorted(rows.items())
    assert list(backwards) == sorted(rows.items(), reverse=True)


def test_ranges_survive_reopening_and_a_kill(tmp_path: Any) -> None:
    path = tmp_path / "store"
    with lsmkit.open(path, **TINY) as db:
        fill(db, 1000)
        db.flush()
        db.delete_range(key(100), key(900))
    with lsmkit.open(path) as db:
        assert len(db) == 200
        db.delete_range(key(0), key(50))
        with lsmkit.open(path, read_only=True) as reader:  # finds what a killed process leaves
            assert len(reader) == 150
    with lsmkit.open(path) as db:
        assert len(db) == 150
        db.compact()
        assert rows_in_tables(db) == 150


def test_pop_and_setdefault_see_deleted_ranges(db: lsmkit.DB) -> None:
    fill(db, 10)
    db.delete_range(None, key(5))
    assert db.pop(key(3), b"absent") == b"absent"
    assert db.setdefault(key(3), b"again") == b"again"
    assert db.popitem() == (key(3), b"again")
    with pytest.raises(KeyError):
        del db[key(4)]


@pytest.mark.parametrize("flush", [False, True])
@pytest.mark.parametrize("scanned", [False, True])
def test_a_deleted_range_is_a_conflict_for_who_read_in_it(
    db: lsmkit.DB, flush: bool, scanned: bool
) -> None:
    fill(db, 100)
    db.flush()
    inside, outside = db.transaction(), db.transaction()
    for t, at in (inside, 15), (outside, 50):
        if scanned:
            assert len(list(t.scan(key(at), key(at + 3)))) == 3
        else:
            assert t.get(key(at)) is not None
        t.put(b"result%d" % at, b"x")
    db.delete_range(key(10), key(20))
    if flush:
        db.flush()
    outside.commit()
    with pytest.raises(lsmkit.ConflictError):
        inside.commit()
    assert b"result50" in db
    assert b"result15" not in db


def test_a_cursor_passes_over_deleted_ranges_both_ways(db: lsmkit.DB) -> None:
    fill(db, 100)
    db.flush()
    db.delete_range(key(10), key(90))
    cursor = db.cursor()
    cursor.seek(key(9))
    cursor.next()
    assert cursor.key == key(90)
    cursor.prev()
    assert cursor.key == key(9)
    cursor.seek(key(50))
    assert cursor.key == key(90)
    cursor.seek_for_prev(key(50))
    assert cursor.key == key(9)


def test_clear_is_one_record(db: lsmkit.DB) -> None:
    fill(db, 2000)
    before = db.stats().writes.records
    db.clear()
    assert db.stats().writes.records == before + 1
    assert len(db) == 0


@pytest.mark.parametrize("policy", [lsmkit.compaction.LazyLeveled(), lsmkit.compaction.Leveled()])
def test_compact_gives_the_space_back(tmp_path: Any, policy: Any) -> None:
    with lsmkit.open(tmp_path / "store", compaction=policy, **TINY) as db:
        rows = fill(db, 5000)
        db.compact()
        full = db.stats().table_bytes
        db.delete_range(key(500), key(4500))
        db.compact()
        assert rows_in_tables(db) == 1000
        assert db.stats().table_bytes < full / 3
        db.clear()
        db.compact()
        assert db.stats().table_bytes == 0
        fill(db, 10)
        assert dict(db.items()) == {k: rows[k] for k in list(rows)[:10]}


@pytest.mark.parametrize("policy", [lsmkit.compaction.LazyLeveled(), lsmkit.compaction.Leveled()])
def test_dead_space_goes_by_itself(tmp_path: Any, policy: Any) -> None:
    with lsmkit.open(tmp_path / "store", compaction=policy, **TINY) as db:
        fill(db, 5000)
        db.compact()
        read = db.stats().compactions.bytes_in
        db.delete_range(key(100), None)
        db.flush()
        assert db.wait_idle(60)
        assert rows_in_tables(db) < 1000
        assert db.stats().compactions.bytes_in - read < db.stats().flushes.bytes / 2


def test_tables_that_are_wholly_deleted_are_not_read(db: lsmkit.DB) -> None:
    fill(db, 5000)
    db.compact()
    read = db.stats().compactions.bytes_in
    db.clear()
    db.compact()
    assert db.stats().compactions.bytes_in == read
    assert db.stats().table_bytes == 0


def test_a_range_tombstone_goes_when_it_has_done_its_work(db: lsmkit.DB) -> None:
    fill(db, 1000)
    db.flush()
    for i in range(0, 1000, 10):
        db.delete_range(key(i), key(i + 5))
    db.flush()
    assert db.stats().range_tombstones > 0
    db.compact()
    assert db.stats().range_tombstones == 0
    assert len(db) == 500
    db.delete_range(b"a", b"b")  # over nothing
    db.flush()
    assert db.stats().range_tombstones == 0


def test_verify_counts_range_tombstones(db: lsmkit.DB) -> None:
    fill(db, 100)
    db.flush()
    db.delete_range(key(10), key(20))
    assert db.verify().range_tombstones == 1
    db.flush()
    report = db.verify()
    assert report.ok
    assert report.range_tombstones == 1


def test_ten_thousand_live_ranges_are_bearable(tmp_path: Any) -> None:
    with lsmkit.open(tmp_path / "store", segment_bytes=1 << 20) as db:
        fill(db, 20_000)
        db.flush()
        for i in range(10_000):
            db.delete_range(key(2 * i), key(2 * i + 1))
        for flushed in (False, True):
            if flushed:
                db.flush()
            assert len(db) == 10_000
            assert db.get_many([key(i) for i in range(20)]) == [
                None if i % 2 == 0 else b"value%d" % i for i in range(20)
            ]
            assert list(db.scan_keys(key(15_000), key(15_006))) == [
                key(15_001),
                key(15_003),
                key(15_005),
            ]
        db.compact()
        assert db.stats().range_tombstones == 0
        assert rows_in_tables(db) == 10_000


@pytest.mark.parametrize("seed", range(4))
def test_any_mixture_is_what_a_dict_says(tmp_path: Any, seed: int) -> None:
    rng = random.Random(seed)
    model: dict[bytes, bytes] = {}
    path = tmp_path / "store"
    db = lsmkit.open(path, **TINY)
    moments: list[tuple[lsmkit.Snapshot, dict[bytes, bytes]]] = []
    try:
        for i in range(600):
            what = rng.random()
            if what < 0.5:
                first = rng.randrange(500)
                chosen = [key(k) for k in range(first, first + rng.choice([1, 5, 60]))]
                db.put_many(chosen, [b"%d" % i] * len(chosen))
                model.update(dict.fromkeys(chosen, b"%d" % i))
            elif what < 0.8:
                start = key(rng.randrange(500))
                stop = key(rng.randrange(560)) if rng.random() < 0.9 else None
                db.delete_range(start, stop)
                for k in [k for k in model if k >= start and (stop is None or k < stop)]:
                    del model[k]
            elif what < 0.86:
                db.flush()
            elif what < 0.88:
                db.compact(key(rng.randrange(250)), key(250 + rng.randrange(250)))
            elif what < 0.92 and len(moments) < 4:
                moments.append((db.snapshot(), dict(model)))
            elif what < 0.96 and moments:
                snapshot, then = moments.pop(rng.randrange(len(moments)))
                assert list(snapshot.items()) == sorted(then.items())
                assert list(snapshot.scan(reverse=True)) == sorted(then.items(), reverse=True)
                snapshot.close()
            elif what > 0.99:
                moments.clear()
                db.close()
                db = lsmkit.open(path, **TINY)
            if i % 7 == 0:
                assert list(db.items()) == sorted(model.items())
                asked = [key(rng.randrange(600)) for _ in range(20)]
                assert db.get_many(asked) == [model.get(k) for k in asked]
                assert [db.get(k) for k in asked] == [model.get(k) for k in asked]
        for snapshot, then in moments:
            assert list(snapshot.items()) == sorted(then.items())
        moments.clear()
        db.compact()
        assert list(db.scan(reverse=True)) == sorted(model.items(), reverse=True)
        assert db.verify().ok
        assert db.stats().background_errors == 0, db.stats().last_error
    finally:
        db.close()


def test_an_operand_above_a_range_keeps_the_base_that_stands_between(tmp_path: Any) -> None:
    """Though the compaction that rewrites the operand does not read the base."""

    def files(db: lsmkit.DB, level: int) -> tuple[int, ...]:
        (ranges,) = db._handle.version().values()
        return tuple([t[0] for run in ranges[0][1] if run[0] == level for t in run[2]])

    def merge_to(db: lsmkit.DB, level: int) -> None:
        job = Job(
            tree=0, lower=b"", upper=None, inputs=files(db, 0), out_level=level, cut_bytes=1 << 20
        )
        db._handle.submit(job)
        assert db.wait_idle(60)
        assert files(db, 0) == ()

    with lsmkit.open(tmp_path / "store", merge_operator=lsmkit.merge.Append) as db:
        db.update({b"j": b"gone", b"k": b"gone"})
        db.flush()
        snapshot = db.snapshot()  # keeps b"j", and so the range
        db.delete_range(b"a", b"z")
        db[b"k"] = b"base"
        db.flush()
        merge_to(db, 5)
        db.merge(b"k", b"+1")
        db.flush()
        merge_to(db, 2)
        assert db.stats().range_tombstones > 0
        assert db[b"k"] == b"base+1"
        assert snapshot[b"k"] == snapshot[b"j"] == b"gone"
        db.compact()
        assert dict(db) == {b"k": b"base+1"}
