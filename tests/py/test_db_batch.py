"""Claim: a batch is applied whole and in its order, or not at all.

Method: batches by `with` and by hand; what an exception, a failure or another thread does to them.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

import lsmkit


def test_a_batch_is_applied_at_its_end(db: lsmkit.DB) -> None:
    db[b"gone"] = b"1"
    with db.batch() as batch:
        batch.put(b"a", b"1")
        batch.delete(b"gone")
        batch.put(bytearray(b"b"), memoryview(b"2"))
        assert dict(db) == {b"gone": b"1"}, "not before"
        assert len(batch) == 3
    assert dict(db) == {b"a": b"1", b"b": b"2"}
    assert db.stats().writes.frames == 2


def test_later_writes_of_a_key_win(db: lsmkit.DB) -> None:
    with db.batch() as batch:
        batch.put(b"a", b"1")
        batch.delete(b"a")
        batch.put(b"a", b"2")
        batch.put(b"b", b"1")
        batch.delete(b"b")
    for _ in range(2):
        assert dict(db) == {b"a": b"2"}
        db.flush()


def test_an_exception_discards_it(db: lsmkit.DB) -> None:
    with pytest.raises(ZeroDivisionError), db.batch() as batch:  # noqa: PT012
        batch.put(b"a", b"1")
        1 / 0  # noqa: B018
    with pytest.raises(TypeError), db.batch() as batch:  # noqa: PT012
        batch.put(b"a", b"1")
        batch.put("b", b"1")  # type: ignore[arg-type]
    assert not db
    assert db.stats().writes.frames == 0


def test_a_refused_write_leaves_the_rest_of_the_batch(db: lsmkit.DB) -> None:
    with db.batch() as batch:
        batch.put(b"a", b"1")
        with pytest.raises(ValueError):
            batch.put(b"x" * 65536, b"")
        with pytest.raises(BufferError):
            batch.put(b"b", memoryview(b"abcd")[::2])
        batch.put(b"c", b"3")
    assert dict(db) == {b"a": b"1", b"c": b"3"}


def test_an_empty_batch_writes_nothing(db: lsmkit.DB) -> None:
    with db.batch():
        pass
    db.write(lsmkit.WriteBatch())
    assert db.stats().writes.frames == 0


def test_a_batch_by_hand_may_be_written_again_and_elsewhere(db: lsmkit.DB, store_path: str) -> None:
    batch = lsmkit.WriteBatch()
    batch.put(b"a", b"1")
    batch.delete(b"b")
    with lsmkit.open(store_path + "-other") as other:
        other[b"b"] = b"2"
        db.write(batch)
        other.write(batch)
        assert dict(other) == dict(db) == {b"a": b"1"}
    db[b"a"] = b"changed"
    batch.put(b"c", b"3")
    db.write(batch)
    assert dict(db) == {b"a": b"1", b"c": b"3"}


def test_size_of_a_batch(db: lsmkit.DB) -> None:
    batch = lsmkit.WriteBatch()
    assert (len(batch), batch.nbytes, bool(batch)) == (0, 0, False)
    batch.put(b"key", b"value" * 100)
    assert (len(batch), bool(batch)) == (1, True)
    assert 503 <= batch.nbytes <= 520
    batch.delete(b"key")
    assert len(batch) == 2
    assert repr(batch) == "<lsmkit.WriteBatch of 2 writes>"
    batch.clear()
    assert (len(batch), batch.nbytes, bool(batch)) == (0, 0, False)
    db.write(batch)
    assert not db


def test_what_was_given_may_change_before_the_end(db: lsmkit.DB) -> None:
    value = bytearray(b"value")
    with db.batch() as batch:
        batch.put(value, value)
        value[:] = b"xxxxx"
    assert dict(db) == {b"value": b"value"}


def test_a_batch_larger_than_a_segment_is_one_frame(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=4096) as db:
        with db.batch() as batch:
            for i in range(5000):
                batch.put(b"%d" % i, b"v" * (i % 50))
        assert db.stats().writes.frames == 1
        assert len(db) == 5000
        with db.batch() as batch:
            for i in range(5000):
                batch.delete(b"%d" % i)
        assert not db
    with lsmkit.open(store_path) as db:
        assert not db


@pytest.mark.parametrize("wrong", [None, [], {b"a": b"1"}, b"a"], ids=repr)
def test_write_takes_a_batch_alone(db: lsmkit.DB, wrong: Any) -> None:
    with pytest.raises(TypeError):
        db.write(wrong)


def test_the_durability_of_a_batch(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        with db.batch(durability="sync") as batch:
            batch.put(b"a", b"1")
        assert db.stats().writes.syncs == 1
        with db.batch(timeout=5) as batch:
            batch.put(b"b", b"2")
        assert db.stats().writes.syncs == 1
        assert len(db) == 2


def test_a_batch_of_a_store_that_was_closed_meanwhile(store_path: str) -> None:
    db = lsmkit.open(store_path)
    with pytest.raises(lsmkit.ClosedError), db.batch() as batch:  # noqa: PT012
        batch.put(b"a", b"1")
        db.close()
    with pytest.raises(lsmkit.ClosedError):
        db.batch()
    with lsmkit.open(store_path) as db:
        assert not db


def test_a_batch_keeps_its_store_open(store_path: str) -> None:
    with lsmkit.open(store_path).batch() as batch:
        batch.put(b"a", b"1")
    del batch
    with lsmkit.open(store_path) as db:
        assert db[b"a"] == b"1"


@pytest.mark.parametrize("durability", ["process", "sync"])
def test_a_batch_that_is_changed_while_it_is_written_is_written_whole(
    db: lsmkit.DB, durability: str
) -> None:
    """One thread writes a batch again and again, another one grows it: no state in between."""
    batch = lsmkit.WriteBatch()
    batch.put(b"0", b"")
    stop = threading.Event()

    def grow() -> None:
        i = 0
        while not stop.is_set():
            try:
                batch.put(b"%d" % (i + 1), b"x" * 1000)
                i += 1
            except RuntimeError as error:
                assert "another thread" in str(error)  # noqa: PT017
            if i % 100 == 99:
                try:
                    batch.clear()
                    batch.put(b"0", b"")
                    i = 0
                except RuntimeError as error:
                    assert "another thread" in str(error)  # noqa: PT017

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        for _ in range(60):
            db.write(batch, durability=durability)
    finally:
        stop.set()
        thread.join()
    assert db.verify()
    assert set(db.values()) <= {b"", b"x" * 1000}


def test_batches_of_threads_are_whole(db: lsmkit.DB) -> None:
    """Each batch writes the same value under all keys: a reader never sees two values."""
    keys = [b"%d" % i for i in range(20)]
    stop = threading.Event()
    errors: list[BaseException] = []

    def write(name: int) -> None:
        for i in range(300):
            with db.batch() as batch:
                for key in keys:
                    batch.put(key, b"%d-%d" % (name, i))

    def read() -> None:
        try:
            while not stop.is_set():
                assert len(set(db.get_many(keys))) == 1
                assert len(set(db.values())) <= 1
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    reader.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    stop.set()
    reader.join()
    assert not errors
    assert db.stats().writes.frames == 900
