"""Claim: an operand counts exactly once, whatever is flushed, compacted or reopened meanwhile; what
cannot be merged is refused at the write, or raised at the read, and nothing is lost.

Method: stores with segments of some KiB, compared with a dict; what `merge_many` has combined is
counted in the log.
"""

from __future__ import annotations

import math
import random
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lsmkit
from lsmkit import merge

SMALL: dict[str, Any] = {
    "segment_bytes": 8192,
    "block_bytes": 512,
    "table_bytes": 8192,
    "cache_bytes": 1 << 20,
}


def q(number: int) -> bytes:
    return struct.pack("<q", number)


def d(number: float) -> bytes:
    return struct.pack("<d", number)


def joined(old: bytes | None, operand: bytes) -> bytes:
    return (b"" if old is None else old) + operand


class Switch:
    """A function for `Custom` that fails while it is told to."""

    def __init__(self) -> None:
        self.fails = False
        self.calls = 0

    def __call__(self, old: bytes | None, operand: bytes) -> bytes:
        self.calls += 1
        if self.fails:
            raise LookupError("switched off")
        return joined(old, operand)


@contextmanager
def store(path: Path, operator: Any, **options: Any) -> Iterator[lsmkit.DB]:
    path.mkdir(exist_ok=True)
    with lsmkit.open(path / "store", merge_operator=operator, **{**SMALL, **options}) as db:
        yield db


# --- One operand at a time -------------------------------------------------------------------


def test_operand_makes_the_value_over_what_is_there(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        db.merge(b"new", q(3))
        db.put(b"there", q(40))
        db.merge(b"there", q(2))
        db.put(b"gone", q(7))
        db.delete(b"gone")
        db.merge(b"gone", q(1))
        expected = {b"gone": q(1), b"new": q(3), b"there": q(42)}
        for _ in range(2):
            assert dict(db.scan()) == expected
            assert dict(db.scan(reverse=True)) == expected
            assert [db[key] for key in expected] == list(expected.values())
            assert db.get_many([*expected]) == list(expected.values())
            assert b"new" in db
            assert len(db) == 3
            db.compact()
        db.put(b"there", q(0))
        assert db[b"there"] == q(0)
        db.delete(b"new")
        assert b"new" not in db


def test_numbers_of_python_are_operands_of_the_operators_of_numbers(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        db.merge(b"k", 5)
        db.merge(b"k", -7)
        db.merge(b"k", True)
        db.merge_many([b"k", b"k"], [1, 2])
        assert db[b"k"] == q(2)
        with pytest.raises(ValueError, match="not every number fits 8 bytes"):
            db.merge(b"k", 1 << 63)
        with pytest.raises(TypeError):
            db.merge(b"k", 1.5)
        assert db[b"k"] == q(2)
    with store(tmp_path / "floats", merge.AddFloat64()) as db:
        db.merge(b"k", 0.5)
        db.merge(b"k", 2)
        assert db[b"k"] == d(2.5)
    with store(tmp_path / "bytes", merge.Append()) as db, pytest.raises(TypeError):
        db.merge(b"k", 5)


def test_operand_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        db.merge(b"k", q(1))
        before = db.stats().writes.records
        with pytest.raises(ValueError, match="operand has 7 bytes; add_int64 takes 8"):
            db.merge(b"k", b"1234567")
        with pytest.raises(ValueError, match=r"operands\[1\]: operand has 9 bytes"):
            db.merge_many([b"k", b"l"], [q(1), b"123456789"])
        batch = lsmkit.WriteBatch()
        batch.put(b"other", b"")
        batch.merge(b"k", q(1))
        batch.merge(b"k", b"")
        with pytest.raises(ValueError, match="write 2 of the batch: operand has 0 bytes"):
            db.write(batch)
        with pytest.raises(TypeError, match="str"):
            db.merge(b"k", "12345678")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="2 keys and 1 operands"):
            db.merge_many([b"k", b"l"], [q(1)])
        assert db.stats().writes.records == before
        assert dict(db) == {b"k": q(1)}


def test_without_an_operator_nothing_can_be_merged(tmp_path: Path) -> None:
    with store(tmp_path, None) as db:
        batch = lsmkit.WriteBatch()
        batch.merge(b"k", b"1")
        calls: list[Callable[[], object]] = [
            lambda: db.merge(b"k", b"1"),
            lambda: db.merge_many([b"k"], [b"1"]),
            lambda: db.write(batch),
        ]
        for call in calls:
            with pytest.raises(lsmkit.OptionsError, match="no merge operator"):
                call()
        assert len(db) == 0


def test_batch_mixes_operands_with_other_writes_in_order(tmp_path: Path) -> None:
    with store(tmp_path, merge.Append()) as db:
        with db.batch() as batch:
            batch.merge(b"k", b"lost")
            batch.put(b"k", b"a")
            batch.merge(b"k", b"b")
            batch.merge(b"k", b"c")
            batch.delete(b"l")
            batch.merge(b"l", b"d")
        assert dict(db) == {b"k": b"abc", b"l": b"d"}
        batch.clear()
        batch.put(b"m", b"")
        db.write(batch)


def test_value_that_cannot_be_merged_is_kept_until_it_is_replaced(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        db.put(b"k", b"text")
        db.merge(b"k", q(1))
        for _ in range(2):
            with pytest.raises(lsmkit.CorruptionError, match="add_int64 needs 8 bytes"):
                db[b"k"]
            with pytest.raises(lsmkit.CorruptionError, match="add_int64 needs 8 bytes"):
                list(db.scan())
            db.compact()
        assert "add_int64 needs 8 bytes" in (db.stats().last_error or "")
        db.put(b"k", q(5))
        assert db[b"k"] == q(5)


def test_bits_of_different_lengths_are_refused_where_they_meet(tmp_path: Path) -> None:
    with store(tmp_path, merge.BitOr()) as db:
        with pytest.raises(ValueError, match="different lengths"):
            db.merge_many([b"k", b"k"], [b"\1", b"\1\2"])
        assert b"k" not in db
        db.merge(b"k", b"\1")
        db.merge(b"k", b"\1\2")
        with pytest.raises(ValueError, match="different lengths: 1 and 2 bytes"):
            db[b"k"]


# --- Many at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["lists", "arrays", "fixed", "arrow"])
def test_operands_of_equal_keys_are_logged_once(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(5)
    numbers = rng.integers(0, 300, 5000)
    operands = rng.integers(-9, 9, 5000)
    names = [b"%04d" % n for n in numbers]
    expected: dict[bytes, int] = {}
    for name, operand in zip(names, operands, strict=True):
        expected[name] = expected.get(name, 0) + int(operand)
    keys: Any = names
    column: Any = [q(int(operand)) for operand in operands]
    if form == "arrays":
        keys, column = np.array(names, "S4"), operands.astype("i2")
    elif form == "fixed":
        keys = np.frombuffer(b"".join(names), np.uint8).reshape(-1, 4)
        column = np.frombuffer(b"".join(column), np.uint8).reshape(-1, 8)
    elif form == "arrow":
        pa = pytest.importorskip("pyarrow")
        keys, column = pa.array(names), pa.array(operands)
    with store(tmp_path, merge.AddInt64()) as db:
        db.merge_many(keys, column)
        assert db.stats().writes.records == len(expected)
        assert db.stats().writes.frames == 1
        db.merge_many(keys, column)
        assert {key: struct.unpack("<q", value)[0] for key, value in db.scan()} == {
            key: 2 * value for key, value in expected.items()
        }


def test_lists_that_are_not_all_bytes_of_one_width_take_the_general_way(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        many = [b"%04d" % (i % 700) for i in range(5000)]
        ones = [q(1)] * 5000
        db.merge_many(many, ones)
        db.merge_many([*many[:4000], bytearray(b"0001")], [*ones[:4000], memoryview(q(5))])
        assert db.stats().writes.records == 700 + 700
        assert db[b"0001"] == q(8 + 6 + 5)
        with pytest.raises(ValueError, match=r"operands\[4999\]: operand has 1 bytes"):
            db.merge_many(many, [*ones[1:], b"1"])
        with pytest.raises(ValueError, match=r"keys\[4999\] has 65536 bytes"):
            db.merge_many([*many[1:], bytes(65536)], ones)
        with pytest.raises(TypeError, match="str"):
            db.merge_many([*many[1:], "a"], ones)  # type: ignore[list-item]
        assert db.stats().writes.records == 700 + 700


def test_a_repeat_of_a_source_counts_once(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        for keys, operands in (([b"a", b"a"], [q(1), q(2)]), (np.array([b"a"]), np.array([4]))):
            seq = len(keys)
            assert db.merge_many(keys, operands, source="queue", seq=4 - seq) is True
            assert db.merge_many(keys, operands, source="queue", seq=4 - seq) is False
        assert db[b"a"] == q(7)
        assert db.merge_many([], [], source="queue", seq=9) is True
        assert db.position("queue") == 9


def test_numbers_as_keys_are_encoded_as_put_many_does(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddFloat64()) as db:
        db.merge_many(np.array([-1, 5, -1], "i4"), np.array([0.5, 1, 2], "f4"))
        db.put_many(np.array([7], "i4"), [d(1)])
        assert list(db.scan()) == [
            (struct.pack(">I", (n + (1 << 31)) % (1 << 32)), d(value))
            for n, value in ((-1, 2.5), (5, 1.0), (7, 1.0))
        ]


def test_order_of_operands_is_kept(tmp_path: Path) -> None:
    operators = [merge.Append(), merge.Custom("join", joined, associative=True)]
    operators.append(merge.Custom("join in turn", joined))
    for i, operator in enumerate(operators):
        with store(tmp_path / str(i), operator) as db:
            db.merge(b"a", b"0")
            db.merge_many([b"a", b"b", b"a", b"a"], [b"1", b"2", b"3", b"4"])
            db.merge_many((b"b",), (b"5",))
            db.merge_many([], [])
            assert dict(db) == {b"a": b"0134", b"b": b"25"}
            # Only what is not associative is logged operand by operand.
            assert db.stats().writes.records == (6 if i == 2 else 4)


def test_records_and_sketches_are_merged_in_a_store(tmp_path: Path) -> None:
    dtype = np.dtype([("count", "<i8"), ("low", "<f8")])
    with store(tmp_path, merge.Struct(dtype, count="add", low="min")) as db:
        rows = np.array([(1, 2.5), (1, -1.0), (1, 9.0)], dtype)
        db.merge_many([b"a", b"a", b"b"], rows.view(np.uint8).reshape(3, -1))
        db.flush()
        db.merge(b"a", rows[2])
        assert np.frombuffer(db[b"a"], dtype)[0].item() == (3, -1.0)
    with store(tmp_path / "sketches", merge.HyperLogLog(10)) as db:
        for first in range(0, 4000, 500):
            db.merge_many([b"seen"] * 1000, np.arange(first, first + 1000))
        db.merge(b"one", b"element")
        error = 1.04 / math.sqrt(2**10)
        assert abs(merge.HyperLogLog.estimate(db[b"seen"]) / 4500 - 1) < 4 * error
        assert round(merge.HyperLogLog.estimate(db[b"one"])) == 1
        with pytest.raises(ValueError, match="precision 11; this operator has 10"):
            db.merge(b"one", merge.HyperLogLog(11).combine([b"a"]))


# --- Exactly once ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["add", "append", "custom", "in turn"])
def test_an_operand_counts_once_through_flush_compaction_and_reopening(
    tmp_path: Path, kind: str
) -> None:
    rng = random.Random(3)
    operator: merge.Operator = {
        "add": merge.AddInt64(),
        "append": merge.Append(),
        "custom": merge.Custom("join", joined, associative=True),
        "in turn": merge.Custom("join", joined),
    }[kind]
    model: dict[bytes, bytes] = {}
    snapshots: list[tuple[lsmkit.Snapshot, dict[bytes, bytes]]] = []
    for _ in range(4):
        with store(tmp_path, operator) as db:
            assert dict(db.scan()) == model
            for step in range(300):
                keys = [b"%03d" % rng.randrange(40) for _ in range(rng.randrange(1, 12))]
                operands = [q(rng.randrange(9)) for _ in keys]
                if rng.random() < 0.5:
                    db.merge_many(keys, operands)
                else:
                    for key, operand in zip(keys, operands, strict=True):
                        db.merge(key, operand)
                for key, operand in zip(keys, operands, strict=True):
                    model[key] = operator.fold(model.get(key), [operand])
                if rng.random() < 0.3:
                    key = b"%03d" % rng.randrange(40)
                    if rng.random() < 0.5:
                        db.delete(key)
                        model.pop(key, None)
                    else:
                        db.put(key, q(100))
                        model[key] = q(100)
                if step % 60 == 7:
                    snapshots.append((db.snapshot(), dict(model)))
                if step % 50 == 49:
                    db.flush()
                if step % 100 == 99:
                    db.compact()
                    assert dict(db.scan()) == model
            for snapshot, then in snapshots:
                assert dict(snapshot.scan()) == then
                assert snapshot.get_many(sorted(then)) == [then[key] for key in sorted(then)]
                snapshot.close()
            snapshots.clear()
            assert db.get_many(sorted(model)) == [model[key] for key in sorted(model)]
            assert db.stats().background_errors == 0, db.stats().last_error


def test_threads_lose_no_increment(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64(), segment_bytes=65536) as db:

        def work(seed: int) -> None:
            keys = np.random.default_rng(seed).integers(0, 50, 2000)
            for i in range(0, 2000, 100):
                db.merge_many(keys[i : i + 100], np.ones(100, "i8"))
                db.merge(b"single", 1)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert db[b"single"] == q(80)
        total = sum(struct.unpack("<q", value)[0] for value in db.scan_values())
        assert total == 4 * 2000 + 80


# --- Functions in Python ---------------------------------------------------------------------


@pytest.mark.parametrize("associative", [False, True])
def test_exception_is_raised_by_the_read_and_loses_nothing(
    tmp_path: Path, associative: bool
) -> None:
    switch = Switch()
    operator = merge.Custom("switch", switch, associative=associative)
    with store(tmp_path, operator) as db:
        db.put(b"k", b"0")
        db.merge(b"k", b"1")
        switch.fails = True
        db.merge_many([b"k", b"k"], [b"2", b"3"])
        reads: list[Callable[[], object]] = [
            lambda: db[b"k"],
            lambda: db.get_many([b"k"]),
            lambda: db.get_many(np.array([b"k"], "S1")),
            lambda: list(db.scan()),
            lambda: list(db.scan(reverse=True)),
            lambda: list(db.scan_columns()),
            lambda: db.pop(b"k"),
        ]
        for _ in range(2):
            for read in reads:
                with pytest.raises(LookupError, match="switched off"):
                    read()
            db.flush()
            db.compact()
        assert "custom:switch: LookupError: switched off" in (db.stats().last_error or "")
        switch.fails = False
        assert db[b"k"] == b"0123"
        db.merge(b"k", b"4")
        db.compact()
        calls = switch.calls
        assert db[b"k"] == b"01234"
        assert switch.calls == calls  # it is folded for good


def test_background_merges_by_a_function_while_the_interpreter_is_busy(tmp_path: Path) -> None:
    with store(tmp_path, merge.Custom("join", joined, associative=True)) as db:
        for i in range(3000):
            db.merge(b"%02d" % (i % 20), b"%d," % i)
        assert db.wait_idle(60)
        for key in range(20):
            assert db[b"%02d" % key] == b"".join(b"%d," % i for i in range(key, 3000, 20))
        assert db.stats().background_errors == 0, db.stats().last_error


# --- Which operator --------------------------------------------------------------------------


def test_operator_is_stored_and_another_is_refused(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64) as db:
        db.merge(b"k", 1)
    with lsmkit.open(tmp_path / "store") as db:
        db.merge(b"k", 1)
        assert db[b"k"] == q(2)
    for other in (merge.MaxInt64(), merge.Custom("add_int64", joined)):
        with pytest.raises(lsmkit.OptionsError, match="the rows are merged by add_int64"):
            lsmkit.open(tmp_path / "store", merge_operator=other)
    with store(tmp_path, merge.AddInt64()) as db:
        assert db[b"k"] == q(2)
    with pytest.raises(TypeError, match="merge_operator"):
        lsmkit.open(tmp_path / "store", merge_operator="add_int64")


def test_store_that_had_no_operator_may_get_one(tmp_path: Path) -> None:
    with store(tmp_path, None) as db:
        db.put(b"k", q(1))
    with store(tmp_path, merge.AddInt64()) as db:
        db.merge(b"k", 1)
    with store(tmp_path, None) as db:
        assert db[b"k"] == q(2)


def test_function_must_be_given_again_where_it_is_needed(tmp_path: Path) -> None:
    switch = Switch()
    with store(tmp_path, merge.Custom("join", switch)) as db:
        db.put(b"plain", b"1")
        switch.fails = True
        db.merge(b"k", b"a")
    with lsmkit.open(tmp_path / "store") as db:
        assert db[b"plain"] == b"1"
        db.merge(b"k", b"b")
        with pytest.raises(lsmkit.OptionsError, match="called 'join': open it with"):
            db[b"k"]
    with store(tmp_path, merge.Custom("join", joined)) as db:
        assert db[b"k"] == b"ab"


def test_snapshot_keeps_its_sum(tmp_path: Path) -> None:
    with store(tmp_path, merge.AddInt64()) as db:
        db.merge(b"k", 1)
        with db.snapshot() as snapshot:
            db.merge(b"k", 2)
            db.compact()
            assert (snapshot[b"k"], db[b"k"]) == (q(1), q(3))
