"""Claim: a cursor stands where a pointer into the sorted list of all rows would stand, both ways,
whatever is written, flushed and compacted meanwhile, and says so when its store is gone.

Method: random walks, of which each answer is compared with a list that was copied when the cursor
was made.
"""

from __future__ import annotations

import gc
import os
import random
import threading
from bisect import bisect_left, bisect_right
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "block_bytes": 256,
    "table_bytes": 4096,
    "cache_bytes": 0,
}


class Place:
    """The model: an index into the rows, or nowhere."""

    def __init__(self, rows: dict[bytes, bytes]) -> None:
        self.rows = sorted(rows.items())
        self.keys = [key for key, _ in self.rows]
        self.at = -1

    def valid(self) -> bool:
        return 0 <= self.at < len(self.rows)

    def go(self, at: int) -> bool:
        self.at = at
        return self.valid()


def check(cursor: lsmkit.Cursor, place: Place) -> None:
    assert cursor.valid == place.valid()
    if place.valid():
        assert (cursor.key, cursor.value) == place.rows[place.at]


def wander(cursor: lsmkit.Cursor, place: Place, rng: random.Random, steps: int) -> None:
    for _ in range(steps):
        what = rng.randrange(8)
        if what == 0:
            assert cursor.seek_to_first() == place.go(0)
        elif what == 1:
            assert cursor.seek_to_last() == place.go(len(place.rows) - 1)
        elif what <= 3:
            key = b"%03d" % rng.randrange(-1, 310) + rng.choice([b"", b"", b"\0"])
            if what == 2:
                assert cursor.seek(key) == place.go(bisect_left(place.keys, key))
            else:
                assert cursor.seek_for_prev(key) == place.go(bisect_right(place.keys, key) - 1)
        else:
            way = rng.choice([-1, 1])
            for _ in range(rng.choice([1, 1, 2, 20, 200])):
                if not place.valid():
                    break
                moved = cursor.next() if way == 1 else cursor.prev()
                assert moved == place.go(place.at + way)
                check(cursor, place)
        check(cursor, place)


@pytest.mark.parametrize("from_snapshot", [False, True])
def test_random_walks_while_the_store_goes_on(
    store_path: str, rng: random.Random, from_snapshot: bool
) -> None:
    with lsmkit.open(store_path, level_base_bytes=8192, **TINY) as db:
        model: dict[bytes, bytes] = {}
        held: list[tuple[lsmkit.Cursor, Place]] = []
        for round_ in range(15):
            for _ in range(150):
                key = b"%03d" % rng.randrange(300)
                if rng.random() < 0.4:
                    db.delete(key)
                    model.pop(key, None)
                else:
                    db[key] = model[key] = rng.randbytes(rng.randrange(40))
            if from_snapshot:
                with db.snapshot() as snapshot:
                    held.append((snapshot.cursor(), Place(model)))
            else:
                held.append((db.cursor(), Place(model)))
            if round_ % 4 == 1:
                db.flush()
            if round_ % 5 == 3:
                db.compact()
            for cursor, place in rng.sample(held, min(4, len(held))):
                wander(cursor, place, rng, 25)
        for cursor, place in held:
            wander(cursor, place, rng, 25)
            cursor.close()


def test_it_stands_nowhere_until_it_seeks(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    cursor = db.cursor()
    assert not cursor.valid
    for move in (cursor.next, cursor.prev, lambda: cursor.key, lambda: cursor.value):
        with pytest.raises(ValueError, match="stands at no row"):
            move()
    assert cursor.seek(b"")
    assert (cursor.key, cursor.value) == (b"a", b"1")


@pytest.mark.parametrize("forwards", [True, False])
def test_it_leaves_the_end_and_seeks_again(db: lsmkit.DB, forwards: bool) -> None:
    db.put_many([b"a", b"b"], [b"1", b"2"])
    cursor = db.cursor()
    assert cursor.seek_to_last() if forwards else cursor.seek_to_first()
    move = cursor.next if forwards else cursor.prev
    assert move() is False
    assert not cursor.valid
    with pytest.raises(ValueError, match="stands at no row"):
        move()
    assert cursor.seek_for_prev(b"az") is True
    assert cursor.key == b"a"


def test_a_seek_beyond_the_ends_finds_nothing(db: lsmkit.DB) -> None:
    db[b"b"] = b"1"
    cursor = db.cursor()
    assert not cursor.seek(b"c")
    assert not cursor.seek_for_prev(b"a")
    assert cursor.seek(b"b")
    assert cursor.seek_for_prev(b"b")
    assert cursor.seek_for_prev(b"\xff" * 65_535)


def test_of_an_empty_store_nothing_is_found(db: lsmkit.DB) -> None:
    cursor = db.cursor()
    assert not cursor.seek_to_first()
    assert not cursor.seek_to_last()
    assert not cursor.seek(b"")
    assert not cursor.seek_for_prev(b"a")


def test_it_does_not_see_what_is_written_after_it_was_made(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    cursor = db.cursor()
    db[b"a"] = b"2"
    db[b"b"] = b"2"
    assert cursor.seek_to_last()
    assert (cursor.key, cursor.value) == (b"a", b"1")
    assert not cursor.next()


def test_keys_are_checked_as_everywhere(db: lsmkit.DB) -> None:
    db[b"\0" * 65_535] = b"1"
    cursor = db.cursor()
    assert cursor.seek(bytearray(65_535))
    assert cursor.seek_for_prev(memoryview(bytes(65_535)))
    with pytest.raises(TypeError):
        cursor.seek("a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="65535"):
        cursor.seek(bytes(65_536))
    assert cursor.valid, "a wrong argument moves nothing"


def test_a_closed_cursor_says_so(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    with db.cursor() as cursor:
        assert cursor.seek_to_first()
    cursor.close()
    for use in (
        cursor.next,
        cursor.seek_to_first,
        lambda: cursor.seek(b"a"),
        lambda: cursor.valid,
        lambda: cursor.key,
        cursor.__enter__,
    ):
        with pytest.raises(lsmkit.ClosedError, match="the cursor is closed"):
            use()


def test_closing_the_store_closes_its_cursors(store_path: str) -> None:
    db = lsmkit.open(store_path, **TINY)
    db.put_many([b"%03d" % i for i in range(300)], [b"v"] * 300)
    db.flush()
    cursor, fresh = db.cursor(), db.cursor()
    assert cursor.seek(b"150")
    db.close()
    for use in (
        cursor.next,
        cursor.prev,
        lambda: cursor.valid,
        lambda: cursor.key,
        lambda: cursor.value,
        lambda: cursor.seek(b"1"),
        fresh.seek_to_last,
    ):
        with pytest.raises(lsmkit.ClosedError, match="the store is closed"):
            use()
    cursor.close()


def test_a_cursor_of_a_closed_snapshot_cannot_be_made(db: lsmkit.DB) -> None:
    snapshot = db.snapshot()
    snapshot.close()
    with pytest.raises(lsmkit.ClosedError, match="the snapshot is closed"):
        snapshot.cursor()


def test_a_cursor_keeps_its_store_open(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db[b"a"] = b"1"
    cursor = lsmkit.open(store_path).cursor()
    gc.collect()
    assert cursor.seek_to_first()
    assert cursor.value == b"1"
    cursor.close()
    del cursor
    lsmkit.open(store_path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_cannot_use_its_parents_cursor(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    cursor = db.cursor()
    assert cursor.seek_to_first()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            cursor.next()
        except lsmkit.ClosedError:
            code = 0
        finally:
            cursor.close()
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cursor.key == b"a"


def test_it_is_made_by_a_store_alone() -> None:
    with pytest.raises(TypeError, match="made by cursor"):
        lsmkit.Cursor()  # type: ignore[call-arg]


def test_threads_that_share_one_get_rows_or_an_error(store_path: str) -> None:
    """A cursor is for one thread; another one that comes meanwhile must do no harm."""
    with lsmkit.open(store_path, **TINY) as db:
        keys = [b"%05d" % i for i in range(3000)]
        db.put_many(keys, keys)
        db.flush()
        cursor = db.cursor()
        wrong: list[object] = []

        def use(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(300):
                try:
                    cursor.seek(rng.choice(keys))
                    for _ in range(20):
                        if rng.random() < 0.5:
                            cursor.next()
                        else:
                            cursor.prev()
                        key = cursor.key
                        if key not in db:
                            wrong.append(key)
                except (RuntimeError, ValueError):
                    pass  # in use, or moved off the end by the other

        threads = [threading.Thread(target=use, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
