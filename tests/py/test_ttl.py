"""Claim: a row with a ttl is there until its time has come, and from then on it is nowhere: not in
reads of one key or of many, in scans, counts or snapshots, nor, after a compaction, on the disk.

Method: rows that live for 0 seconds have expired when the call returns, and those that live for
days outlive every test, so nothing is waited for. Where time itself must pass, a loop runs until a
row that lives for some milliseconds is gone. How deadlines meet operands, snapshots and a moving
clock is tested in C (test_fold.c, test_store_fold.c).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lsmkit

DAY = 86_400.0


@pytest.fixture
def db(tmp_path: Path) -> Iterator[lsmkit.DB]:
    with lsmkit.open(tmp_path / "store", segment_bytes=16384, block_bytes=256) as db:
        yield db


def everything(reader: lsmkit.DB | lsmkit.Snapshot) -> list[tuple[bytes, bytes]]:
    """All rows, read in every way there is; they must agree."""
    rows = list(reader.scan())
    keys = [key for key, _ in rows]
    assert list(reader.scan(reverse=True)) == rows[::-1]
    assert list(reader.scan_keys()) == keys
    assert list(reader.scan_values()) == [value for _, value in rows]
    columns = [
        row
        for part in reader.scan_columns(rows=7)
        for row in zip(part.keys, part.values, strict=True)
    ]
    assert columns == rows
    assert len(reader) == len(rows)
    assert reader.get_many(keys) == [value for _, value in rows]
    assert [reader[key] for key in keys] == [value for _, value in rows]
    return rows


def test_a_row_lives_as_long_as_its_ttl_says(db: lsmkit.DB) -> None:
    db.put(b"gone", b"x", ttl=0)
    db.put(b"here", b"y", ttl=DAY)
    db.put(b"for ever", b"z", ttl=math.inf)
    db.put(b"plain", b"")
    assert b"gone" not in db
    assert db.get(b"gone") is None
    with pytest.raises(KeyError):
        db[b"gone"]
    rows = [(b"for ever", b"z"), (b"here", b"y"), (b"plain", b"")]
    assert everything(db) == rows
    db.flush()
    assert everything(db) == rows
    db.compact()
    assert everything(db) == rows


@pytest.mark.parametrize("flush", [False, True])
def test_a_row_ends_while_the_store_is_open(db: lsmkit.DB, flush: bool) -> None:
    db.put(b"k", b"short", ttl=0.02)
    if flush:
        db.flush()
    while (value := db.get(b"k")) is not None:
        assert value == b"short"
    assert everything(db) == []


def test_an_expired_row_still_hides_what_was_there_before(db: lsmkit.DB) -> None:
    db.put(b"k", b"old")
    db.put(b"k", b"new", ttl=0)
    assert db.get(b"k") is None
    db.flush()
    assert db.get(b"k") is None
    db.compact()
    assert everything(db) == []
    db.put(b"k", b"old", ttl=0)
    db.put(b"k", b"new")
    assert everything(db) == [(b"k", b"new")]


def test_every_way_to_write_takes_a_ttl(db: lsmkit.DB) -> None:
    columns = np.array([b"n%02d" % i for i in range(20)], dtype="S3")
    for ttl, prefix in ((0, b"g"), (DAY, b"h")):
        db.put(prefix + b"put", b"x", ttl=ttl)
        db.put(prefix + b"sync", b"x", ttl=ttl, durability="sync")
        db.put(bytearray(prefix + b"buffer"), memoryview(b"x"), ttl=ttl)
        db.put_many([prefix + b"list%d" % i for i in range(5)], [b"x"] * 5, ttl=ttl)
        db.update({prefix + b"update": b"x"}, ttl=ttl)
        assert db.setdefault(prefix + b"default", b"x", ttl=ttl) == b"x"
        with db.batch() as batch:
            batch.put(prefix + b"batch", b"x", ttl=ttl)
            batch.put(prefix + b"batch for ever", b"x")
    db.put_many(columns, columns, ttl=0)
    kept = [b"put", b"sync", b"buffer", *[b"list%d" % i for i in range(5)], b"update", b"default"]
    there = sorted(
        [b"gbatch for ever", b"hbatch for ever", b"hbatch", *[b"h" + key for key in kept]]
    )
    assert [key for key, _ in everything(db)] == there
    db.flush()
    assert [key for key, _ in everything(db)] == there
    db.put_many(columns, columns, ttl=DAY)
    assert db.get(b"n07") == b"n07"


def test_a_batch_counts_from_when_it_is_written(db: lsmkit.DB) -> None:
    batch = lsmkit.WriteBatch()
    batch.put(b"k", b"v", ttl=DAY)
    db.write(batch)
    db.delete(b"k")
    db.write(batch)
    assert db[b"k"] == b"v"
    batch.clear()
    batch.put(b"k", b"w")
    db.write(batch)
    assert db[b"k"] == b"w"


def test_the_option_gives_a_ttl_to_rows_that_bring_none(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", ttl=DAY) as db:
        db[b"item"] = b"1"
        db.put(b"put", b"2")
        db.put(b"own", b"3", ttl=0)
        db.put(b"for ever", b"4", ttl=math.inf)
        db.put_many([b"many"], [b"5"])
        with db.batch() as batch:
            batch.put(b"batch", b"6")
            batch.put(b"batch own", b"7", ttl=0)
            batch.delete(b"put")
        assert [key for key, _ in everything(db)] == [b"batch", b"for ever", b"item", b"many"]
        db.flush()
        assert deadlines(db) == 3
    with lsmkit.open(tmp_path / "s") as db:
        assert db.options.ttl == DAY
        db[b"later"] = b"8"
        db.flush()
        assert deadlines(db) == 4
        assert db.get(b"for ever") == b"4"
    with lsmkit.open(tmp_path / "s", ttl=1e-6) as db:
        db[b"brief"] = b"9"
        while b"brief" in db:
            pass
        assert db[b"later"] == b"8"
    with lsmkit.open(tmp_path / "s", ttl=None) as db:
        db[b"plain"] = b"0"
        assert db.options.ttl is None


def deadlines(db: lsmkit.DB) -> int:
    """Rows with a deadline in the tables, by their dumps."""
    from lsmkit._core import core

    folder = Path(db.path)
    lines = [
        line.split()
        for table in folder.glob("*.sst")
        for line in core.dump_sst(str(table).encode())
        if line.strip().startswith("deadlines")
    ]
    return sum(int(words[1].rstrip(",")) for words in lines)


def test_snapshots_see_the_clock_of_the_wall(db: lsmkit.DB) -> None:
    db.put(b"a", b"1", ttl=0.01)
    db.put(b"b", b"2", ttl=DAY)
    with db.snapshot() as snapshot:
        db.delete(b"b")
        while b"a" in snapshot:
            pass
        assert everything(snapshot) == [(b"b", b"2")]
        db.compact()
        assert everything(snapshot) == [(b"b", b"2")]
    assert everything(db) == []


def test_setdefault_and_pop_see_an_expired_row_as_absent(db: lsmkit.DB) -> None:
    db.put(b"k", b"old", ttl=0)
    assert db.pop(b"k", None) is None
    assert db.setdefault(b"k", b"new") == b"new"
    assert db.pop(b"k") == b"new"
    with pytest.raises(KeyError):
        del db[b"k"]


def test_compaction_takes_expired_rows_off_the_disk(db: lsmkit.DB) -> None:
    keys = [b"%06d" % i for i in range(3000)]
    db.put_many(keys, [b"x" * 100] * len(keys), ttl=0)
    db.put_many(keys[::100], [b"y"] * 30)
    db.flush()
    db.compact()
    stats = db.stats()
    assert sum(level.rows for level in stats.levels) == 30
    assert sum(level.tombstones for level in stats.levels) == 0
    assert len(everything(db)) == 30


def test_compaction_finds_rows_that_expired_in_the_last_level(db: lsmkit.DB) -> None:
    keys = [b"%06d" % i for i in range(500)]
    db.put_many(keys, [b"x" * 20] * len(keys), ttl=0.05)
    db.put(b"stays", b"y", ttl=DAY)
    db.compact()
    while db.get(keys[-1]) is not None:
        pass
    db.compact()
    assert sum(level.rows for level in db.stats().levels) == 1
    db.verify()


def test_reopening_keeps_deadlines(tmp_path: Path) -> None:
    path = tmp_path / "store"
    with lsmkit.open(path) as db:
        db.put(b"gone", b"1", ttl=0)
        db.put(b"here", b"2", ttl=DAY)
    with lsmkit.open(path) as db:
        assert everything(db) == [(b"here", b"2")]
        assert db.verify()


@pytest.mark.parametrize("ttl", [-1, -0.001, -math.inf, math.nan])
def test_a_ttl_below_zero_is_refused(db: lsmkit.DB, ttl: float) -> None:
    batch = lsmkit.WriteBatch()
    for write in (
        lambda: db.put(b"k", b"v", ttl=ttl),
        lambda: db.put_many([b"k"], [b"v"], ttl=ttl),
        lambda: db.setdefault(b"k", b"v", ttl=ttl),
        lambda: batch.put(b"k", b"v", ttl=ttl),
    ):
        with pytest.raises(ValueError, match=r"ttl is .* 0 or more seconds"):
            write()
    assert len(db) == len(batch) == 0


def test_a_ttl_that_is_no_number_is_refused(db: lsmkit.DB) -> None:
    wrong: Any = "1"
    with pytest.raises(TypeError):
        db.put(b"k", b"v", ttl=wrong)
    with pytest.raises(TypeError, match="ttl must be a number"):
        lsmkit.Options(ttl=wrong)
    with pytest.raises(ValueError, match="ttl is 0; it must be more than 0"):
        lsmkit.Options(ttl=0)


def test_the_largest_value_may_have_a_deadline(db: lsmkit.DB) -> None:
    value = b"v" * 100_000
    db.put(b"k", value, ttl=DAY)
    assert db[b"k"] == value
    db.compact()
    assert db[b"k"] == value
