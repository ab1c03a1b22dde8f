"""Claim: every way to write takes `durability` and `timeout`, and they mean the same everywhere.

Method: each writer with right and wrong keywords; on a store whose syncs are counted; and on one
that has no room, because its flushes may write one byte a second.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lsmkit


def one_put() -> lsmkit.WriteBatch:
    batch = lsmkit.WriteBatch()
    batch.put(b"k", b"v")
    return batch


def by_batch(db: lsmkit.DB, **keywords: Any) -> None:
    with db.batch(**keywords) as b:
        b.put(b"k", b"v")


def by_transaction(db: lsmkit.DB, **keywords: Any) -> None:
    with db.transaction(**keywords) as t:
        t.put(b"k", b"v")


# Each of them writes where b"there" is and b"k" is not.
WRITES: dict[str, Callable[..., Any]] = {
    "put": lambda db, **kw: db.put(b"k", b"v", **kw),
    "put buffer": lambda db, **kw: db.put(bytearray(b"k"), b"v", **kw),
    "setdefault": lambda db, **kw: db.setdefault(b"k", b"v", **kw),
    "update": lambda db, **kw: db.update({b"k": b"v"}, **kw),
    "delete": lambda db, **kw: db.delete(b"k", **kw),
    "delete_range": lambda db, **kw: db.delete_range(b"k", None, **kw),
    "pop": lambda db, **kw: db.pop(b"there", **kw),
    "popitem": lambda db, **kw: db.popitem(**kw),
    "clear": lambda db, **kw: db.clear(**kw),
    "merge": lambda db, **kw: db.merge(b"k", b"v", **kw),
    "put_many": lambda db, **kw: db.put_many([b"k"], [b"v"], **kw),
    "delete_many": lambda db, **kw: db.delete_many([b"k"], **kw),
    "merge_many": lambda db, **kw: db.merge_many([b"k"], [b"v"], **kw),
    "write": lambda db, **kw: db.write(one_put(), **kw),
    "batch": by_batch,
    "transaction": by_transaction,
    "run": lambda db, **kw: db.run(lambda t: t.put(b"k", b"v"), **kw),
}
# These write nothing, and still look at what they are told.
IDLE: dict[str, Callable[..., Any]] = {
    "pop nothing": lambda db, **kw: db.pop(b"none", None, **kw),
    "setdefault what is there": lambda db, **kw: db.setdefault(b"there", b"", **kw),
    "write nothing": lambda db, **kw: db.write(lsmkit.WriteBatch(), **kw),
    "put_many nothing": lambda db, **kw: db.put_many([], [], **kw),
    "delete_range nothing": lambda db, **kw: db.delete_range(b"b", b"a", **kw),
}
# `ttl` is for what stores rows; of a batch and a transaction each put takes its own.
LIVING: dict[str, Callable[..., Any]] = {
    **{name: WRITES[name] for name in ("put", "put buffer", "setdefault", "update", "put_many")},
    "batch.put": lambda db, **kw: with_block(db.batch(), **kw),
    "transaction.put": lambda db, **kw: with_block(db.transaction(), **kw),
}


def with_block(block: Any, **keywords: Any) -> None:
    with block as b:
        b.put(b"k", b"v", **keywords)


@pytest.fixture
def filled(store_path: str) -> Iterator[lsmkit.DB]:
    with lsmkit.open(store_path, merge_operator=lsmkit.merge.Append) as db:
        db[b"there"] = b"1"
        yield db


@pytest.mark.parametrize("name", [*WRITES, *IDLE])
def test_wrong_durability_and_timeout_are_value_errors(filled: lsmkit.DB, name: str) -> None:
    write = (WRITES | IDLE)[name]
    with pytest.raises(ValueError, match=r"durability is 'none'.*'process', 'periodic' or 'sync'"):
        write(filled, durability="none")
    for timeout in (-1, -0.001, float("nan")):
        with pytest.raises(ValueError, match=r"timeout is .*0 or more"):
            write(filled, timeout=timeout)
    with pytest.raises(TypeError):
        write(filled, timeout="soon")
    with pytest.raises(TypeError):
        write(filled, patience=1)
    assert dict(filled) == {b"there": b"1"}


@pytest.mark.parametrize("name", [*WRITES, *IDLE])
@pytest.mark.parametrize("timeout", [None, 0, 1, 0.5, 1e12, float("inf")])
def test_every_write_takes_a_timeout(filled: lsmkit.DB, name: str, timeout: float | None) -> None:
    (WRITES | IDLE)[name](filled, timeout=timeout)


@pytest.mark.parametrize("name", WRITES)
def test_every_write_syncs_when_it_is_asked_to(filled: lsmkit.DB, name: str) -> None:
    before = filled.stats().writes
    WRITES[name](filled, durability="sync")
    after = filled.stats().writes
    assert (after.frames, after.syncs) == (before.frames + 1, before.syncs + 1)


@pytest.mark.parametrize("name", LIVING)
def test_every_write_of_a_row_takes_a_ttl(filled: lsmkit.DB, name: str) -> None:
    LIVING[name](filled, ttl=0)
    assert b"k" not in filled
    LIVING[name](filled, ttl=1000)
    assert filled[b"k"] == b"v"
    with pytest.raises(ValueError, match=r"ttl is -1.*0 or more"):
        LIVING[name](filled, ttl=-1)


@pytest.fixture
def full(store_path: str) -> Iterator[lsmkit.DB]:
    """A store in which even the smallest write would have to wait."""
    with lsmkit.open(
        store_path,
        merge_operator=lsmkit.merge.Append,
        segment_bytes=4096,
        rate_limit=1,
        background_threads=1,
    ) as db:
        db[b"there"] = b"1"
        # Not 0: a writer that is only slowed for the moment is refused too.
        repeat_until_busy(lambda: db.put(b"large", bytes(200), timeout=0.05))
        repeat_until_busy(lambda: db.delete(b"", timeout=0.05))
        yield db


def repeat_until_busy(write: Callable[[], None]) -> None:
    for _ in range(10_000):
        try:
            write()
        except lsmkit.Busy:
            return
    raise AssertionError("there was room all the time")


@pytest.mark.parametrize("name", WRITES)
def test_a_write_that_would_wait_for_longer_is_busy_and_applies_nothing(
    full: lsmkit.DB, name: str
) -> None:
    before, frames = dict(full), full.stats().writes.frames
    for timeout in (0, 0.01):
        with pytest.raises(lsmkit.Busy, match="retry after") as caught:
            WRITES[name](full, timeout=timeout)
        assert caught.value.retry_after > 0
    assert dict(full) == before
    assert full.stats().writes.frames == frames


def test_closing_does_not_wait_for_the_rate(full: lsmkit.DB) -> None:
    """Three segments at one byte a second would take hours."""
    before = dict(full)
    full.close()
    with lsmkit.open(full.path) as db:
        assert dict(db) == before


def test_popitem_gives_each_pair_to_one_thread(store_path: str) -> None:
    pairs = {b"%04d" % i: b"%d" % i for i in range(2000)}
    taken: list[tuple[bytes, bytes]] = []

    def take(db: lsmkit.DB) -> None:
        while True:
            try:
                taken.append(db.popitem())
            except KeyError:
                return

    with lsmkit.open(store_path, segment_bytes=8192, table_bytes=8192) as db:
        db.update(pairs)
        switch = sys.getswitchinterval()
        sys.setswitchinterval(5e-5)
        try:
            threads = [threading.Thread(target=take, args=(db,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(switch)
        assert len(taken) == len(pairs)
        assert dict(taken) == pairs
        assert not db
