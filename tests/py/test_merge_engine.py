"""Claim: what merge operands make of a key is the same wherever they have got to: in the log, in
tables, folded or not, after a crash, seen by a snapshot or by the present; and none counts twice.
What the operators and the calls promise beside that is in test_merge.py and test_db_merge.py.

Method: sums and appended bytes against a dict, with segments of some KiB; functions of the test's
own that count, raise and recover. The combinations that matter to the bytes are in test_fold.c and
test_store_fold.c.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit import merge

DAY = 86_400.0


def number(value: int) -> bytes:
    return value.to_bytes(8, "little", signed=True)


def total(value: bytes | None) -> int:
    return 0 if value is None else int.from_bytes(value, "little", signed=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def db(path: Path) -> Iterator[lsmkit.DB]:
    with lsmkit.open(path, merge_operator=merge.AddInt64, **SMALL) as db:
        yield db


SMALL: dict[str, Any] = {"segment_bytes": 8192, "block_bytes": 256, "table_bytes": 8192}


def test_operands_add_up_wherever_they_are(db: lsmkit.DB) -> None:
    rng = random.Random(1)
    model: dict[bytes, int] = {}
    for step in range(4000):
        key = b"%02d" % rng.randrange(40)
        if rng.random() < 0.1:
            db[key] = number(step)
            model[key] = step
        elif rng.random() < 0.05:
            db.delete(key)
            model.pop(key, None)
        else:
            amount = rng.randrange(-50, 50)
            if step % 3 == 0:
                with db.batch() as batch:
                    batch.merge(key, number(amount))
                    batch.merge(key, number(1))
                amount += 1
            else:
                db.merge(key, number(amount), durability="sync" if step % 97 == 0 else None)
            model[key] = model.get(key, 0) + amount
        if step % 500 == 499:
            check(db, model)
        if step % 900 == 0:
            db.flush()
    db.compact()
    check(db, model)
    assert sum(level.rows for level in db.stats().levels) == len(model)
    assert db.verify()


def check(db: lsmkit.DB | lsmkit.Snapshot, model: dict[bytes, int]) -> None:
    rows = [(key, number(model[key])) for key in sorted(model)]
    keys = [key for key, _ in rows]
    assert list(db.items()) == rows
    assert list(db.scan(reverse=True)) == rows[::-1]
    assert [total(db[key]) for key in keys] == [model[key] for key in keys]
    assert db.get_many([*keys, b"no"]) == [value for _, value in rows] + [None]
    assert db.get_many((b"".join(keys), offsets(keys))).to_pylist() == [value for _, value in rows]
    parts = [list(zip(part.keys, part.values, strict=True)) for part in db.scan_columns(rows=7)]
    assert [row for part in parts for row in part] == rows
    assert len(db) == len(rows)


def offsets(keys: list[bytes]) -> Any:
    import numpy as np

    return np.cumsum([0, *map(len, keys)])


def test_a_snapshot_sees_the_sum_of_its_moment(db: lsmkit.DB) -> None:
    db[b"k"] = number(1)
    snapshots = []
    for i in range(6):
        db.merge(b"k", number(10**i))
        snapshots.append((db.snapshot(), 1 + sum(10**j for j in range(i + 1))))
        if i % 2:
            db.flush()
    db.compact()
    for snapshot, expected in snapshots:
        assert total(snapshot[b"k"]) == expected
        check(snapshot, {b"k": expected})
    assert total(db[b"k"]) == 111112


def test_many_operands_of_one_key_become_one_row(db: lsmkit.DB) -> None:
    for _ in range(20_000):
        db.merge(b"hot", number(1))
    assert total(db[b"hot"]) == 20_000
    db.compact()
    assert total(db[b"hot"]) == 20_000
    assert sum(level.rows for level in db.stats().levels) == 1


def test_operands_survive_the_process_being_killed(path: Path) -> None:
    program = (
        "import os, sys, lsmkit\n"
        "db = lsmkit.open(sys.argv[1], merge_operator=lsmkit.merge.AddInt64, segment_bytes=8192)\n"
        "for i in range(1000): db.merge(b'k', (1).to_bytes(8, 'little'))\n"
        "os._exit(9)\n"
    )
    for round in range(1, 4):
        child = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60)
        assert child.returncode == 9
        with lsmkit.open(path) as db:
            assert total(db[b"k"]) == 1000 * round
            if round == 2:
                db.compact()


# --- Functions of one's own -----------------------------------------------------------------


def test_an_exception_of_the_function_surfaces_in_the_read_and_loses_nothing(path: Path) -> None:
    broken = threading.Event()

    def append(old: bytes | None, operand: bytes) -> bytes:
        if broken.is_set():
            raise ZeroDivisionError("broken")
        return (old or b"") + operand

    with lsmkit.open(path, merge_operator=merge.Custom("append", append), **SMALL) as db:
        db[b"a"] = b"A"
        db[b"k"] = b"0"
        broken.set()
        for i in range(1, 5):
            db.merge(b"k", b"%d" % i)
            db.flush()  # succeeds: the operands stay as they are
        with pytest.raises(ZeroDivisionError, match="broken"):
            db.get(b"k")
        with pytest.raises(ZeroDivisionError, match="broken"):
            db.get_many([b"a", b"k"])
        with pytest.raises(ZeroDivisionError, match="broken"):
            list(db.scan(b"k"))
        assert db[b"a"] == b"A"
        db.compact()
        stats = db.stats()
        assert stats.background_errors > 0
        assert "ZeroDivisionError: broken" in stats.last_error
        broken.clear()
        assert db[b"k"] == b"01234"
        db.compact(b"a", b"z")
        assert list(db.items()) == [(b"a", b"A"), (b"k", b"01234")]


def test_a_function_is_called_once_for_each_operand_that_a_flush_folds(path: Path) -> None:
    calls = []

    def count(old: bytes | None, operand: bytes) -> bytes:
        calls.append(operand)
        return (old or b"") + operand

    with lsmkit.open(path, merge_operator=merge.Custom("count", count)) as db:
        db[b"k"] = b""
        for i in range(100):
            db.merge(b"k", b"%02d" % i)
        db.flush()
        assert calls == [b"%02d" % i for i in range(100)]
        assert db[b"k"] == b"".join(calls)
        assert len(calls) == 100


# --- With deadlines -------------------------------------------------------------------------


def test_an_operand_over_an_expired_row_begins_anew(db: lsmkit.DB) -> None:
    db.put(b"k", number(100), ttl=0)
    db.put(b"long", number(100), ttl=DAY)
    db.merge(b"k", number(1))
    db.merge(b"long", number(1))
    for _ in range(2):
        assert total(db[b"k"]) == 1
        assert total(db[b"long"]) == 101
        db.compact()


def test_where_rows_have_a_ttl_an_operand_renews_them(path: Path) -> None:
    with lsmkit.open(path, merge_operator=merge.AddInt64, ttl=DAY, **SMALL) as db:
        for i in range(100):
            db.merge(b"k", number(1))
            with db.batch() as batch:
                batch.merge(b"k", number(1))
            if i % 30 == 0:
                db.flush()
        assert total(db[b"k"]) == 200
        db.put(b"k", number(7), ttl=0)
        db.merge(b"k", number(1))
        assert total(db[b"k"]) == 1
        db.compact()
        assert total(db[b"k"]) == 1
    with lsmkit.open(path, ttl=1e-6) as db:
        db.merge(b"k", number(1))
        while b"k" in db:
            pass
        assert len(db) == 0


def test_setdefault_and_pop_work_on_what_operands_make(db: lsmkit.DB) -> None:
    db.merge(b"k", number(1))
    db.merge(b"k", number(2))
    assert total(db.setdefault(b"k", number(9))) == 3
    assert total(db.pop(b"k")) == 3
    assert b"k" not in db
