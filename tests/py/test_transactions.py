"""Claim: transactions have the effect of running one after another: what one has read, keys and
ranges, still holds when its writes take effect, or nothing of it does.

Method: the known ways to break this (lost update, write skew, phantom), one by one; a transaction's
own view against a dict; and threads with small random transactions, whose reads and writes are then
replayed in the order in which they committed.
"""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {"segment_bytes": 4096, "block_bytes": 256, "table_bytes": 4096}


def run_background(db: lsmkit.DB) -> None:
    """Moves everything into tables, and then into the last level."""
    db.flush()
    db.compact()


AFTERWARDS: list[Callable[[lsmkit.DB], object]] = [
    lambda db: None,
    lambda db: db.flush(),
    run_background,
]


def numbers(*of: int) -> list[bytes]:
    return [n.to_bytes(8, "little", signed=True) for n in of]


# --- One transaction -------------------------------------------------------------------------


def test_nothing_is_visible_before_the_commit(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    with db.transaction() as t:
        t[b"a"] = b"2"
        t.put(b"b", b"2")
        assert dict(db) == {b"a": b"1"}
    assert dict(db) == {b"a": b"2", b"b": b"2"}


def test_an_exception_inside_rolls_back(db: lsmkit.DB) -> None:
    with pytest.raises(ZeroDivisionError), db.transaction() as t:  # noqa: PT012
        t[b"a"] = b"1"
        1 / 0  # noqa: B018
    assert len(db) == 0


def test_its_operands_are_seen_over_what_it_sees(store_path: str) -> None:
    with lsmkit.open(store_path, merge_operator=lsmkit.merge.AddInt64(), **TINY) as db:
        db.put_many([b"a", b"b", b"c"], numbers(1, 1, 1))
        with db.transaction() as t:
            t.merge(b"a", 10)
            t.merge(b"new", 5)
            t[b"b"] = numbers(7)[0]
            t.merge(b"b", 1)
            t.merge(b"b", 1)
            del t[b"c"]
            t.merge(b"c", 3)
            expected = dict(zip([b"a", b"b", b"c", b"new"], numbers(11, 9, 3, 5), strict=True))
            assert t[b"a"] == numbers(11)[0]
            assert list(t.scan()) == sorted(expected.items())
            assert list(t.scan(reverse=True)) == sorted(expected.items(), reverse=True)
        assert dict(db) == expected


def test_operands_that_were_not_read_over_do_not_conflict(store_path: str) -> None:
    with lsmkit.open(store_path, merge_operator=lsmkit.merge.AddInt64(), **TINY) as db:
        with db.transaction() as one, db.transaction() as other:
            one.merge(b"count", 1)
            other.merge(b"count", 2)
        assert db[b"count"] == numbers(3)[0]
        reader = db.transaction()
        reader.merge(b"count", 1)
        assert reader[b"count"] == numbers(4)[0]
        db.merge(b"count", 1)
        with pytest.raises(lsmkit.ConflictError):
            reader.commit()
        assert db[b"count"] == numbers(4)[0]


def test_operands_need_an_operator_that_takes_them(db: lsmkit.DB, tmp_path: Path) -> None:
    with db.transaction() as t, pytest.raises(lsmkit.OptionsError, match="no merge operator"):
        t.merge(b"a", b"1")
    with (
        lsmkit.open(tmp_path / "other", merge_operator=lsmkit.merge.AddInt64()) as other,
        other.transaction() as t,
        pytest.raises(ValueError, match="operand has 5 bytes"),
    ):
        t.merge(b"a", b"short")


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_a_range_that_it_deletes_is_gone_for_it_and_then_for_all(
    db: lsmkit.DB, afterwards: Callable[[lsmkit.DB], object]
) -> None:
    db.put_many([b"%d" % i for i in range(10)], [b"old"] * 10)
    afterwards(db)
    with db.transaction() as t:
        t[b"3"] = b"before"
        t.delete_range(b"2", b"8")
        t[b"5"] = b"after"
        assert t.get(b"3") is None
        seen = {b"0": b"old", b"1": b"old", b"5": b"after", b"8": b"old", b"9": b"old"}
        assert dict(t) == seen
        assert list(t.scan(b"1", b"9", reverse=True)) == sorted(seen.items())[1:4][::-1]
        assert len(db) == 10
    assert dict(db) == seen
    with db.transaction() as t:
        t.delete_range(b"5", b"5")
        t.clear()
        assert not t
    assert not db


def test_a_range_deleted_unseen_takes_what_others_put_there(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t.delete_range(b"a", b"c")
        assert t.get(b"b") is None
        db[b"b"] = b"put meanwhile"
    assert not db


def test_a_range_deleted_by_another_is_a_conflict_for_who_read_in_it(db: lsmkit.DB) -> None:
    db[b"b"] = b"1"
    t = db.transaction()
    assert t[b"b"] == b"1"
    t[b"z"] = b"seen"
    db.delete_range(b"a", b"c")
    with pytest.raises(lsmkit.ConflictError):
        t.commit()


def test_it_reads_the_store_as_it_was_when_it_began(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    t = db.transaction()
    db[b"a"] = b"2"
    db[b"b"] = b"2"
    run_background(db)
    assert t[b"a"] == b"1"
    assert b"b" not in t
    assert list(t.scan()) == [(b"a", b"1")]
    t.rollback()


def test_it_reads_its_own_writes(db: lsmkit.DB) -> None:
    db.put_many([b"a", b"b", b"c"], [b"1", b"2", b"3"])
    with db.transaction() as t:
        t[b"b"] = b"20"
        t.delete(b"c")
        t[b"bb"] = b"25"
        assert (t[b"a"], t[b"b"], t.get(b"c"), t.get(b"c", b"-")) == (b"1", b"20", None, b"-")
        assert t.get_many([b"a", b"bb", b"c"]) == [b"1", b"25", None]
        assert list(t.scan()) == [(b"a", b"1"), (b"b", b"20"), (b"bb", b"25")]
        assert list(t.scan_keys(reverse=True)) == [b"bb", b"b", b"a"]
        assert list(t.scan_values(b"b", b"bb", include_stop=True)) == [b"20", b"25"]
        with pytest.raises(KeyError):
            t[b"c"]
        with pytest.raises(KeyError):
            del t[b"c"]
        del t[b"a"]
        assert len(t) == 2
        assert bool(t)
    assert dict(db) == {b"b": b"20", b"bb": b"25"}


def test_its_view_is_a_sorted_dict(store_path: str, rng: random.Random) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        model: dict[bytes, bytes] = {}
        for _ in range(40):
            with db.transaction() as t:
                for _ in range(30):
                    key = b"%02d" % rng.randrange(60)
                    what = rng.randrange(6)
                    if what == 0:
                        assert t.pop(key, None) == model.pop(key, None)
                    elif what == 1:
                        assert t.setdefault(key, b"d") == model.setdefault(key, b"d")
                    elif what == 2:
                        low, high = sorted(
                            [b"%02d" % rng.randrange(60), b"%02d" % rng.randrange(60)]
                        )
                        reverse = rng.random() < 0.5
                        rows = sorted(pair for pair in model.items() if low <= pair[0] < high)
                        assert list(t.scan(low, high, reverse=reverse)) == (
                            rows[::-1] if reverse else rows
                        )
                    elif what == 3:
                        t.delete(key)
                        model.pop(key, None)
                    else:
                        t[key] = model[key] = rng.randbytes(rng.randrange(60))
                assert dict(t.items()) == model
                assert list(t) == sorted(model)
                assert list(reversed(t)) == sorted(model, reverse=True)
                assert sorted(t.values()) == sorted(model.values())
            assert dict(db) == model


def test_a_scan_sees_the_writes_made_before_it(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t[b"a"] = b"1"
        scan = t.scan()
        t[b"b"] = b"2"
        assert list(scan) == [(b"a", b"1")]
        assert len(list(t.scan())) == 2


def test_it_is_a_mapping(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        assert isinstance(t, MutableMapping)
        t.update({b"a": b"1", b"b": b"2"})
        assert t == {b"a": b"1", b"b": b"2"}
        assert t.popitem() == (b"a", b"1")
        t.clear()
        assert not t


def test_arguments_are_checked_as_everywhere(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t[bytearray(b"a")] = memoryview(b"1")
        assert t[memoryview(b"a")] == b"1"
        with pytest.raises(TypeError):
            t.put("a", b"1")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            t.get(None)  # type: ignore[call-overload]
        with pytest.raises(TypeError):
            t[b"a"] = "1"  # type: ignore[assignment]
        with pytest.raises(ValueError, match="65535"):
            t.put(bytes(65_536), b"")
        with pytest.raises(TypeError, match="prefix excludes"):
            t.scan(b"a", prefix=b"b")
    with pytest.raises(ValueError, match="durability"):
        db.transaction(durability="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        db.transaction(timeout=-1)
    with pytest.raises(TypeError, match="made by transaction"):
        lsmkit.Transaction()
    assert dict(db) == {b"a": b"1"}


@pytest.mark.parametrize("durability", ["process", "periodic", "sync"])
def test_it_commits_with_any_durability(db: lsmkit.DB, durability: Any) -> None:
    syncs = db.stats().writes.syncs
    with db.transaction(durability=durability, timeout=10) as t:
        t[b"a"] = b"1"
    assert db[b"a"] == b"1"
    assert (db.stats().writes.syncs > syncs) == (durability == "sync")


def test_after_its_end_everything_is_refused(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    t = db.transaction()
    scan = t.scan()
    fresh = t.scan()
    assert next(scan) == (b"a", b"1")
    t.commit()
    for use in (
        lambda: t.get(b"a"),
        lambda: t[b"a"],
        lambda: b"a" in t,
        lambda: t.put(b"a", b"1"),
        lambda: t.delete(b"a"),
        lambda: t.scan(),
        lambda: len(t),
        lambda: next(scan),
        lambda: next(fresh),
        lambda: t.commit(),
        lambda: t.__enter__(),
    ):
        with pytest.raises(lsmkit.ClosedError, match="the transaction has ended"):
            use()
    t.rollback()
    assert "ended" in repr(t)


def test_it_may_end_by_hand_inside_its_block(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t[b"a"] = b"1"
        t.commit()
    with db.transaction() as t:
        t[b"b"] = b"1"
        t.rollback()
    assert dict(db) == {b"a": b"1"}


def test_one_that_writes_nothing_commits_without_a_write(db: lsmkit.DB) -> None:
    db[b"a"] = b"1"
    frames = db.stats().writes.frames
    with db.transaction() as t:
        assert t[b"a"] == b"1"
        db[b"a"] = b"2"
        frames += 1
    assert db.stats().writes.frames == frames


def test_what_was_only_written_is_no_conflict(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t[b"a"] = b"mine"
        assert t[b"a"] == b"mine", "reading one's own write reads nothing of the store"
        db[b"a"] = b"theirs"
    assert db[b"a"] == b"mine"


def test_a_row_lives_from_the_commit_on(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t.put(b"over", b"1", ttl=0)
        t.put(b"long", b"1", ttl=1000)
        t.put(b"for ever", b"1", ttl=0)
        t[b"for ever"] = b"2"
        assert t[b"over"] == b"1", "it sees what it has written"
        with pytest.raises(ValueError, match="ttl"):
            t.put(b"x", b"1", ttl=-1)
    assert dict(db) == {b"long": b"1", b"for ever": b"2"}


def test_update_writes_all_or_nothing(db: lsmkit.DB) -> None:
    with db.transaction() as t:
        t.update({b"a": b"1", b"b": bytearray(b"2")})
        t.update([(b"c", b"3")], ttl=0)
        for wrong in ([(b"d", b"4"), (b"e", "5")], [(b"d", b"4"), (b"e",)]):
            with pytest.raises((TypeError, ValueError)):
                t.update(wrong)
        with pytest.raises(TypeError, match="keywords"):
            t.update(d=b"4")
    assert dict(db) == {b"a": b"1", b"b": b"2"}


def test_it_gives_back_what_it_holds(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        keys = [b"%04d" % i for i in range(100)]
        for round_ in range(6):
            db.put_many(keys, [b"%d" % round_] * 100)
            t = db.transaction()
            assert t[keys[0]] == b"%d" % round_
            if round_ % 3 == 0:
                t.rollback()
            elif round_ % 3 == 1:
                t[b"x"] = b"1"
                t.commit()
            del t
            gc.collect()
        db.compact()
        assert sum(level.rows for level in db.stats().levels) == 101


def test_in_a_read_only_store_it_reads(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db[b"a"] = b"1"
    with lsmkit.open(store_path, read_only=True) as db:
        with db.transaction() as t:
            assert t[b"a"] == b"1"
        with pytest.raises(lsmkit.ReadOnlyError), db.transaction() as t:
            t[b"a"] = b"2"


def test_closing_the_store_ends_it(store_path: str) -> None:
    db = lsmkit.open(store_path)
    t = db.transaction()
    t[b"a"] = b"1"
    db.close()
    with pytest.raises(lsmkit.ClosedError):
        t[b"b"]
    with pytest.raises(lsmkit.ClosedError):
        t.commit()
    t.rollback()


# --- Two of them -----------------------------------------------------------------------------


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_a_lost_update_is_a_conflict(
    store_path: str, afterwards: Callable[[lsmkit.DB], object]
) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db[b"n"] = b"1"
        with pytest.raises(lsmkit.ConflictError), db.transaction() as t:  # noqa: PT012
            value = int(t[b"n"])
            with db.transaction() as other:
                other[b"n"] = b"%d" % (int(other[b"n"]) + 1)
            afterwards(db)
            t[b"n"] = b"%d" % (value + 1)
            t[b"also"] = b"1"
        assert dict(db) == {b"n": b"2"}, "nothing of it was applied"


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_write_skew_is_a_conflict(
    store_path: str, afterwards: Callable[[lsmkit.DB], object]
) -> None:
    """Two doctors go home, each because the other is on duty."""
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many([b"alice", b"bob"], [b"on", b"on"])
        a, b = db.transaction(), db.transaction()
        for t, mine, other in ((a, b"alice", b"bob"), (b, b"bob", b"alice")):
            if t[other] == b"on":
                t[mine] = b"off"
        a.commit()
        afterwards(db)
        with pytest.raises(lsmkit.ConflictError):
            b.commit()
        assert dict(db) == {b"alice": b"off", b"bob": b"on"}


@pytest.mark.parametrize("afterwards", AFTERWARDS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_phantom_is_a_conflict(
    store_path: str, afterwards: Callable[[lsmkit.DB], object], reverse: bool
) -> None:
    """A key that comes into a range after it was read, where none was."""
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many([b"a", b"m5", b"z"], [b"1"] * 3)
        t = db.transaction()
        t[b"sum"] = b"%d" % sum(int(value) for _, value in t.scan(b"m", b"n", reverse=reverse))
        db[b"m7"] = b"1"
        afterwards(db)
        with pytest.raises(lsmkit.ConflictError):
            t.commit()
        assert b"sum" not in db


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_a_delete_of_what_was_read_is_a_conflict(
    store_path: str, afterwards: Callable[[lsmkit.DB], object]
) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db[b"a"] = b"1"
        run_background(db)
        for read in (lambda t: t[b"a"], lambda t: list(t.scan(b"a", b"b"))):
            db[b"a"] = b"1"
            t = db.transaction()
            assert read(t)
            t[b"x"] = b"1"
            del db[b"a"]
            afterwards(db)
            with pytest.raises(lsmkit.ConflictError):
                t.commit()


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_a_key_that_was_absent_and_comes_is_a_conflict(
    store_path: str, afterwards: Callable[[lsmkit.DB], object]
) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db[b"other"] = b"1"
        t = db.transaction()
        if b"a" not in t:
            t[b"a"] = b"mine"
        db[b"a"] = b"theirs"
        afterwards(db)
        with pytest.raises(lsmkit.ConflictError):
            t.commit()
        assert db[b"a"] == b"theirs"


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_writes_beside_what_was_read_are_none(
    store_path: str, afterwards: Callable[[lsmkit.DB], object]
) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many([b"a", b"b", b"m", b"n"], [b"1"] * 4)
        with db.transaction() as t:
            assert t[b"a"] == b"1"
            assert len(list(t.scan(b"m", b"n"))) == 1
            t[b"x"] = b"1"
            db.put_many([b"b", b"n", b"l"], [b"2"] * 3)
            afterwards(db)
        assert db[b"x"] == b"1"


def test_a_scan_that_was_left_has_read_up_to_there(db: lsmkit.DB) -> None:
    keys = [b"%02d" % i for i in range(50)]
    db.put_many(keys, [b"1"] * 50)
    for reverse, passed, ahead in ((False, b"03", b"10"), (True, b"46", b"40")):
        for written, conflicts in ((ahead, False), (passed, True)):
            t = db.transaction()
            scan = t.scan(reverse=reverse)
            for _ in range(5):
                next(scan)
            t[b"x"] = b"1"
            db[written] = b"2"
            if conflicts:
                with pytest.raises(lsmkit.ConflictError):
                    t.commit()
            else:
                t.commit()
            db.delete(b"x")


def test_what_was_written_and_taken_back_may_be_a_conflict_but_is_never_a_wrong_answer(
    db: lsmkit.DB,
) -> None:
    t = db.transaction()
    assert b"a" not in t
    t[b"b"] = b"1"
    db[b"a"] = b"1"
    del db[b"a"]
    run_background(db)
    try:
        t.commit()
    except lsmkit.ConflictError:
        assert dict(db) == {}
    else:
        assert dict(db) == {b"b": b"1"}


def test_a_conflict_is_found_however_much_was_written_since(store_path: str) -> None:
    """Far more records than are looked at under the lock, over many flushes."""
    with lsmkit.open(store_path, segment_bytes=65536) as db:
        db[b"a"] = b"1"
        for theirs in (b"a", b"b"):
            t = db.transaction()
            assert t[b"a"]
            assert not list(t.scan(b"x", b"y"))
            t[b"c"] = b"1"
            db.put_many([b"k%05d" % i for i in range(10_000)], [b"v"] * 10_000)
            db[theirs] = b"2"
            db.put_many([b"k%05d" % i for i in range(10_000)], [b"v"] * 10_000)
            if theirs == b"a":
                with pytest.raises(lsmkit.ConflictError):
                    t.commit()
            else:
                t.commit()


# --- run -------------------------------------------------------------------------------------


def test_run_retries_and_returns(db: lsmkit.DB) -> None:
    db[b"n"] = b"0"
    calls = []

    def work(t: lsmkit.Transaction) -> int:
        calls.append(1)
        value = int(t[b"n"])
        if len(calls) < 3:
            db[b"n"] = b"%d" % (value + 10)
        t[b"n"] = b"%d" % (value + 1)
        return value

    assert db.run(work) == 20
    assert (db[b"n"], len(calls)) == (b"21", 3)


def test_run_raises_the_last_conflict(db: lsmkit.DB) -> None:
    calls = []

    def work(t: lsmkit.Transaction) -> None:
        calls.append(t.get(b"a"))
        db[b"a"] = b"%d" % len(calls)
        t[b"b"] = b"1"

    with pytest.raises(lsmkit.ConflictError):
        db.run(work, retries=2)
    assert len(calls) == 3
    assert b"b" not in db
    with pytest.raises(ValueError, match="retries"):
        db.run(work, retries=-1)


def test_run_does_not_retry_what_is_no_conflict(db: lsmkit.DB) -> None:
    calls = []

    def work(t: lsmkit.Transaction) -> None:
        calls.append(1)
        t[b"a"] = b"1"
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        db.run(work)
    assert len(calls) == 1
    assert len(db) == 0


# --- Many of them ----------------------------------------------------------------------------


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_concurrent_counting_loses_nothing(store_path: str, log_io: str) -> None:
    with lsmkit.open(store_path, log_io=log_io, **TINY) as db:
        keys = [b"a", b"b", b"c"]

        def count(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(60):

                def work(t: lsmkit.Transaction, key: bytes = rng.choice(keys)) -> None:
                    t[key] = b"%d" % (int(t.get(key, b"0")) + 1)
                    t[b"pad%d" % seed] = bytes(200)

                db.run(work, retries=1000)

        in_threads(4, count)
        assert sum(int(db[key]) for key in keys) == 240


def in_threads(n: int, work: Callable[[int], None]) -> None:
    failures: list[BaseException] = []

    def guarded(i: int) -> None:
        try:
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_a_history_replays_one_after_another(store_path: str, rng: random.Random) -> None:
    """Each transaction that commits also takes the next number of the history, so that the order of
    commits is known; replayed in it, every read gives what was read then."""
    with lsmkit.open(store_path, **TINY) as db:
        history: dict[int, list[tuple[Any, ...]]] = {}
        keys = [b"k%02d" % i for i in range(24)]

        def work(seed: int) -> None:
            chance = random.Random(rng.randrange(2**32) + seed)

            def one(t: lsmkit.Transaction) -> tuple[int, list[tuple[Any, ...]]]:
                steps: list[tuple[Any, ...]] = []
                for _ in range(chance.randrange(1, 6)):
                    key = chance.choice(keys)
                    what = chance.randrange(5)
                    if what == 0:
                        steps.append(("get", key, t.get(key)))
                    elif what == 1:
                        low, high = sorted([key, chance.choice(keys)])
                        reverse = chance.random() < 0.5
                        take = chance.choice([1, 2, 100])
                        rows = []
                        for row in t.scan(low, high, reverse=reverse):
                            rows.append(row)
                            if len(rows) == take:
                                break
                        steps.append(("scan", (low, high, reverse, take), rows))
                    elif what == 2:
                        t.delete(key)
                        steps.append(("delete", key, None))
                    else:
                        value = chance.randbytes(chance.choice([2, 60]))
                        t[key] = value
                        steps.append(("put", key, value))
                number = int(t.get(b"history", b"0"))
                t[b"history"] = b"%d" % (number + 1)
                return number, steps

            for _ in range(50):
                number, steps = db.run(one, retries=10_000)
                assert number not in history
                history[number] = steps

        in_threads(4, work)
        assert sorted(history) == list(range(200))
        state: dict[bytes, bytes] = {}
        for number in range(200):
            for what, subject, seen in history[number]:
                if what == "get":
                    assert state.get(subject) == seen
                elif what == "scan":
                    low, high, reverse, take = subject
                    rows = sorted(pair for pair in state.items() if low <= pair[0] < high)
                    assert (rows[::-1] if reverse else rows)[:take] == seen
                elif what == "put":
                    state[subject] = seen
                else:
                    state.pop(subject, None)
        state[b"history"] = b"200"
        assert dict(db) == state


def test_without_a_common_number_reads_still_agree(store_path: str) -> None:
    """Transfers between accounts, and audits of all of them by scan: the sum never changes."""
    with lsmkit.open(store_path, **TINY) as db:
        accounts = [b"acc%02d" % i for i in range(10)]
        db.put_many(accounts, [b"100"] * 10)

        def work(seed: int) -> None:
            chance = random.Random(seed)

            def transfer(t: lsmkit.Transaction) -> None:
                a, b = chance.sample(accounts, 2)
                amount = chance.randrange(50)
                left = int(t[a]) - amount
                if left >= 0:
                    t[a] = b"%d" % left
                    t[b] = b"%d" % (int(t[b]) + amount)

            def audit(t: lsmkit.Transaction) -> None:
                total = sum(int(value) for value in t.scan_values(prefix=b"acc"))
                assert total == 1000
                t[b"audited%d" % seed] = b"%d" % total

            for _ in range(80):
                db.run(transfer if chance.random() < 0.8 else audit, retries=10_000)

        in_threads(4, work)
        assert sum(int(value) for value in db.scan_values(prefix=b"acc")) == 1000


# --- Several keyspaces -----------------------------------------------------------------------


def test_a_transaction_reads_and_writes_in_several_keyspaces_at_one_moment(db: lsmkit.DB) -> None:
    a = db.keyspace("a")
    b = db.keyspace("b", merge_operator=lsmkit.merge.Append)
    db[b"k"], a[b"k"], b[b"k"] = b"0", b"1", b"2"
    with db.transaction() as t:
        a[b"k"] = b"later"
        assert (t[b"k"], t.get(b"k", keyspace=a), t.get(b"k", keyspace=b)) == (b"0", b"1", b"2")
        t.put(b"k", b"5", keyspace=b)
        t.merge(b"k", b"6", keyspace=b)
        t.put(b"x", b"7")
        t.keyspace(b)[b"y"] = b"8"
        t.delete(b"k")
        assert list(t.scan(keyspace=b)) == [(b"k", b"56"), (b"y", b"8")]
        assert list(t.scan(keyspace=b, reverse=True, start=b"l")) == [(b"y", b"8")]
        assert dict(t) == {b"x": b"7"}
        assert t.keyspace(db) is t
        assert t.keyspace(b).keyspace(a) is t.keyspace(a)
        assert dict(b) == {b"k": b"2"}
        t.keyspace(b).rollback()
        with pytest.raises(lsmkit.ClosedError):
            t.get(b"x")
    assert (dict(db), dict(b)) == ({b"k": b"0"}, {b"k": b"2"})
    with a.transaction() as t:
        t.put(b"in a", b"1")
        t.put(b"in the store", b"1", keyspace=db)
        t.delete_range(b"k", b"l", keyspace=b)
        b[b"kk"] = b"of another"
        t.put(b"k2", b"stays", ttl=3600, keyspace=b)
    assert dict(a) == {b"in a": b"1", b"k": b"later"}
    assert dict(db) == {b"in the store": b"1", b"k": b"0"}
    assert dict(b) == {b"k2": b"stays"}


@pytest.mark.parametrize("ranged", [False, True])
def test_what_was_read_in_any_keyspace_is_a_conflict(db: lsmkit.DB, ranged: bool) -> None:
    a, b = db.keyspace("a"), db.keyspace("b")
    t = db.transaction()
    if ranged:
        assert list(t.scan(b"a", b"z", keyspace=a)) == []
    else:
        assert t.get(b"k", keyspace=a) is None
    t.put(b"k", b"1", keyspace=b)
    a[b"k"] = b"other"
    with pytest.raises(lsmkit.ConflictError):
        t.keyspace(b).commit()
    assert b"k" not in b
    t = a.transaction()
    assert t.get(b"k", keyspace=b) is None
    t[b"k"] = b"mine"
    db[b"k"] = a[b"k"] = b"the same key, elsewhere"
    t.commit()
    assert a[b"k"] == b"mine"


def test_keyspaces_of_a_transaction_are_of_its_store_and_there(
    db: lsmkit.DB, tmp_path: Path
) -> None:
    gone = db.keyspace("gone")
    with lsmkit.open(tmp_path / "other") as other, db.transaction() as t:
        with pytest.raises(ValueError, match="another store"):
            t.put(b"k", b"1", keyspace=other)
        with pytest.raises(TypeError):
            t.get(b"k", keyspace="gone")  # type: ignore[call-overload]
        t.put(b"k", b"1")
        assert t.get(b"k", keyspace=gone) is None
        db.drop_keyspace("gone")
        with pytest.raises(lsmkit.ClosedError):
            t.commit()
        assert b"k" not in db
        t.rollback()


def test_an_abandoned_transaction_lets_its_store_close(store_path: str) -> None:
    t = lsmkit.open(store_path).transaction()
    t.put(b"k", b"1")
    del t
    lsmkit.open(store_path).close()
