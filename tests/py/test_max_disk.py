"""Claim: a store stays within `max_disk_bytes`: what would be over it is refused with ENOSPC before
it is written, while reads and deletes go on; and once there is room, writes do too.

Method: stores of tiny segments are filled until they refuse, in each way of writing there is.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lsmkit
from lsmkit import merge

MOST = 100_000
TINY: dict[str, Any] = {
    "segment_bytes": 8192,
    "table_bytes": 8192,
    "block_bytes": 512,
    "compression": "none",
    "max_disk_bytes": MOST,
}


def fill(db: lsmkit.DB, write: Callable[[int], object] | None = None) -> int:
    """How many writes were taken."""
    write = write or (lambda n: db.put(b"%06d" % n, random.Random(n).randbytes(100)))
    taken: list[int] = []

    def write_on() -> None:
        for n in range(10_000):
            write(n)
            taken.append(n)

    with pytest.raises(lsmkit.StorageError, match="max_disk_bytes") as refused:
        write_on()
    assert refused.value.errno == errno.ENOSPC
    assert isinstance(refused.value, OSError)
    return len(taken)


def test_what_would_be_too_much_is_refused_and_the_rest_is_there(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", **TINY) as db:
        taken = fill(db)
        assert MOST * 0.7 < db.stats().disk_bytes <= MOST + 1000
        assert [int(key) for key in db.scan_keys()] == list(range(taken))
        assert db.get(b"%06d" % taken) is None
        assert db.verify()
    with lsmkit.open(tmp_path / "s", **TINY) as db:
        assert len(db) == taken
        assert fill(db) < 200
    with lsmkit.open(tmp_path / "s") as db:
        db.put(b"more", b"x" * 100)


@pytest.mark.parametrize("durability", ["process", "sync"])
@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_it_holds_for_every_kind_of_log(tmp_path: Path, durability: str, log_io: str) -> None:
    made: dict[str, Any] = {**TINY, "durability": durability, "log_io": log_io}
    with lsmkit.open(tmp_path / "s", **made) as db:
        taken = fill(db)
        assert len(db) == taken
        # Tables of the two rows that a synced segment of this size holds are larger than its log.
        assert db.stats().disk_bytes <= MOST + 8192
        db.delete(b"%06d" % 0)
        assert b"000000" not in db


def test_every_way_to_write_is_refused(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", merge_operator=merge.Append(), **TINY) as db:
        fill(db)
        is_full = False
        while not is_full:
            db.flush()
            db.wait_idle()
            is_full = fill(db, lambda n: db.put(b"%04d" % n, b"")) == 0  # to the last byte
        before = dict(db.scan())
        columns = np.arange(20)

        def transact(n: int) -> None:
            with db.transaction() as t:
                t.put(b"t", b"x" * 50)

        def batch(n: int) -> None:
            with db.batch() as b:
                b.delete(b"000000")
                b.put(b"batch", b"x" * 50)

        ways: list[Callable[[int], object]] = [
            lambda n: db.put(b"k", b"x" * 50),
            lambda n: db.put(b"k", b"x" * 50, ttl=60, durability="sync"),
            lambda n: db.merge(b"k", b"x" * 50),
            lambda n: db.put_many([b"a", b"b"], [b"x" * 50] * 2),
            lambda n: db.put_many(columns, columns),
            lambda n: db.merge_many([b"a", b"b"], [b"x" * 50] * 2),
            lambda n: db.setdefault(b"k", b"x" * 50),
            lambda n: db.ingest(columns, columns),
            transact,
            batch,
        ]
        for way in ways:
            assert fill(db, way) == 0
        assert dict(db.scan()) == before, "what was refused left nothing behind"


def test_deletes_go_on_and_make_room(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", **TINY) as db:
        taken = fill(db)
        assert db.pop(b"000001") is not None
        db.delete(b"000002", durability="sync")
        db.delete_many([b"%06d" % n for n in range(3, 100)])
        with db.batch() as batch:
            batch.delete(b"000100")
            batch.delete_range(b"000101", b"000200")
        with db.transaction() as t:
            t.delete(b"000200")
        for n in range(201, 250):
            del db[b"%06d" % n]
        left = [n for n in range(taken) if n == 0 or n >= 250]
        assert [int(key) for key in db.scan_keys()] == left
        db.compact()
        assert db.stats().disk_bytes < MOST - 20_000
        more = fill(db, lambda n: db.put(b"%06d" % (n + taken), bytes(100)))
        assert more > 150
        assert len(db) == len(left) + more
        db.clear()
        assert len(db) == 0
        db.compact()
        assert fill(db) > 300


def test_a_row_larger_than_the_bound_is_refused_and_smaller_ones_are_not(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", **TINY) as db:
        with pytest.raises(lsmkit.StorageError):
            db[b"large"] = bytes(MOST)
        db[b"small"] = b"x"
        assert dict(db.scan()) == {b"small": b"x"}


def test_a_store_without_a_bound_counts_and_takes_all(tmp_path: Path) -> None:
    made = {**TINY, "max_disk_bytes": 0}
    with lsmkit.open(tmp_path / "s", **made) as db:
        assert db.stats().disk_bytes == 0
        db.put(b"k", b"v" * 1000)
        assert 1000 < db.stats().disk_bytes < 1200
        db.flush()
        assert db.stats().disk_bytes == db.stats().table_bytes > 1000
