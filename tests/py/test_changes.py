"""Claim: `changes` gives what was committed, once and in order, as far as the log and its history
go, and ChangesLost where they do not; whoever applies it has a copy of the store.

Method: tiny stores, so that segments are flushed all the time. What a loss of power and threads do
is shown on simulated machines, in C (test_changes.c, test_thread_changes.c).
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Any

import pytest

import lsmkit

KEEP = 1 << 30
TINY: dict[str, Any] = {"segment_bytes": 4096, "block_bytes": 256, "table_bytes": 4096}


def logs(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith(".log"))


def test_each_kind_of_write_is_told_apart(store_path: str) -> None:
    before = time.time()
    with lsmkit.open(store_path, merge_operator=lsmkit.merge.Append()) as db:
        db.put(b"a", b"1")
        db.put(b"a", b"", ttl=100)
        db.delete(b"a")
        db.merge(b"b", b"x")
        db.delete_range(b"c", b"d")
        db.delete_range(None, None)
        found = list(db.changes())
    assert found == [
        (1, "put", b"a", b"1"),
        (2, "put", b"a", b""),
        (3, "delete", b"a", None),
        (4, "merge", b"b", b"x"),
        (5, "delete_range", b"c", b"d"),
        (6, "delete_range", b"", None),
    ]
    until = found[1].until
    assert until is not None
    assert before + 100 <= until <= time.time() + 100
    assert [change.until for change in found if change.seq != 2] == [None] * 5


def test_batches_columns_and_transactions_are_there_and_positions_are_not(db: lsmkit.DB) -> None:
    with db.batch(source="feed", seq=1) as batch:
        batch.put(b"a", b"1")
        batch.delete(b"b")
    db.put_many([b"c", b"d"], [b"2", b"3"])
    with db.transaction() as t:
        t.put(b"e", b"4")
    db.setdefault(b"f", b"5")
    assert [(x.kind, x.key) for x in db.changes()] == [
        ("put", b"a"),
        ("delete", b"b"),
        ("put", b"c"),
        ("put", b"d"),
        ("put", b"e"),
        ("put", b"f"),
    ]


def test_each_keyspace_has_its_changes(store_path: str) -> None:
    with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
        one, two = db.keyspace("one"), db.keyspace("two")
        db.put(b"a", b"0")
        with db.batch() as batch:
            batch.put(b"b", b"1", keyspace=one)
            batch.put(b"c", b"2", keyspace=two)
            batch.put(b"d", b"3")
        one.clear()
        db.flush()
        assert [x.key for x in db.changes()] == [b"a", b"d"]
        assert [x.key for x in one.changes(keyspace=db)] == [b"a", b"d"]
        for found in (one.changes(), db.changes(keyspace=one), two.changes(keyspace="one")):
            assert [x.kind for x in found] == ["put", "delete_range"]
        assert [x.seq for x in db.changes(keyspace="two")] == [3]
        with pytest.raises(KeyError):
            db.changes(keyspace="three")
        with lsmkit.open(":memory:") as other, pytest.raises(ValueError, match="not of the store"):
            other.changes(keyspace=one)
        db.drop_keyspace("one")
        with pytest.raises(lsmkit.ClosedError):
            one.changes()
        assert [x.seq for x in db.changes(keyspace=two)] == [3]


def test_operands_are_those_that_were_logged(store_path: str) -> None:
    with lsmkit.open(store_path, merge_operator=lsmkit.merge.Append()) as db:
        db.merge_many([b"a", b"b", b"a"], [b"1", b"2", b"3"])
        assert {(x.key, x.value) for x in db.changes()} == {(b"a", b"13"), (b"b", b"2")}


def test_since_is_exclusive_and_prefix_filters(db: lsmkit.DB) -> None:
    for i in range(300):
        db.put(b"%03d" % i, b"v")
    db.delete_range(b"25", b"26")
    assert [x.seq for x in db.changes(299)] == [300, 301]
    assert [*db.changes(301)] == []
    assert [x.seq for x in db.changes(prefix=b"29")] == list(range(291, 301))
    assert [x.seq for x in db.changes(prefix=b"255")] == [256, 301]
    some = db.changes(prefix=b"00")
    assert [next(some).key for _ in range(3)] == [b"000", b"001", b"002"]
    assert some.seq == 3
    assert len([*some]) == 7
    assert some.seq == 301, "what was passed over counts"


def test_without_follow_it_ends_with_what_there_was(db: lsmkit.DB) -> None:
    db.put(b"a", b"1")
    some = db.changes()
    db.put(b"b", b"2")
    assert [x.key for x in some] == [b"a"]
    assert next(some, None) is None
    assert [x.key for x in db.changes(some.seq)] == [b"b"]


def test_wrong_arguments_are_refused(db: lsmkit.DB) -> None:
    for wrong in ("1", 1.5, None):
        with pytest.raises(TypeError):
            db.changes(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        db.changes(prefix="a")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="since"):
        db.changes(-1)
    with pytest.raises(ValueError, match="follow"):
        db.changes(follow=-1.0)
    with pytest.raises(ValueError, match="retain_log_bytes"):
        lsmkit.Options(retain_log_bytes=-1)
    with pytest.raises(TypeError):
        lsmkit.Changes()


# --- The history


def test_what_was_flushed_is_lost_unless_it_is_kept(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
        db.flush()
        assert [*db.changes()] == []
        assert [*db.changes(1)] == []
        db.put(b"b", b"2")
        db.put(b"c", b"3")
        assert [x.key for x in db.changes()] == [b"b", b"c"]
        db.flush()
        with pytest.raises(lsmkit.ChangesLost) as caught:
            list(db.changes(2))
        assert caught.value.oldest == 4
        assert "4" in str(caught.value)


def test_a_sequence_that_was_never_given_is_lost_too(db: lsmkit.DB) -> None:
    db.put(b"a", b"1")
    with pytest.raises(lsmkit.ChangesLost):
        db.changes(2)


def test_history_outlives_flush_compaction_and_reopening(store_path: str) -> None:
    model: list[tuple[bytes, bytes]] = []
    for _ in range(3):
        with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
            for i in range(200):
                key = b"key%d" % (i % 50)
                db.put(key, b"%050d" % len(model))
                model.append((key, b"%050d" % len(model)))
            db.compact()
            assert [(x.key, x.value) for x in db.changes()] == model
            stats = db.stats()
            assert stats.history_bytes > len(model) * 50
            assert stats.disk_bytes == stats.history_bytes + stats.table_bytes
            assert db.verify().ok
    with lsmkit.open(store_path) as db:  # the option is the store's
        assert [x.seq for x in db.changes()] == list(range(1, 601))
    with lsmkit.open(store_path, read_only=True) as db:
        assert [x.seq for x in db.changes(123)] == list(range(124, 601))
    with lsmkit.open(store_path, retain_log_bytes=0) as db:
        assert [*db.changes()] == []
        assert db.stats().history_bytes == 0
    assert logs(store_path) == []


def test_oldest_goes_first_when_there_is_too_much(store_path: str) -> None:
    budget = 20_000
    with lsmkit.open(store_path, retain_log_bytes=budget, **TINY) as db:
        for i in range(2000):
            db.put(b"key%d" % i, b"x" * 50)
        db.flush()
        assert budget - 8192 <= db.stats().history_bytes <= budget
        first = next(db.changes()).seq
        assert 1000 < first < 2000
        with pytest.raises(lsmkit.ChangesLost) as caught:
            next(db.changes(first - 2))
        assert caught.value.oldest == first
        assert [x.seq for x in db.changes(first - 1)] == list(range(first, 2001))
    sizes = [os.path.getsize(os.path.join(store_path, name)) for name in logs(store_path)]
    assert sum(sizes) == db_history(store_path)


def db_history(path: str) -> int:
    with lsmkit.open(path, read_only=True) as db:
        return db.stats().history_bytes


def test_changes_that_are_being_read_stay(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=1 << 20) as db:
        for i in range(2000):
            db.put(b"%d" % i, b"v")
        some = db.changes()
        assert next(some).seq == 1
        db.compact()
        db.put(b"later", b"v")
        assert [x.seq for x in some] == list(range(2, 2001))


def test_ingest_begins_the_history_anew(store_path: str) -> None:
    with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
        for i in range(100):
            db.put(b"%d" % i, b"x" * 50)
        db.ingest([b"a", b"b"], [b"1", b"2"])
        for since in (5, 99, 100):
            with pytest.raises(lsmkit.ChangesLost) as caught:
                next(db.changes(since))
            assert caught.value.oldest == 102
        db.put(b"c", b"3")
        assert [x.seq for x in db.changes()] == [102]
        with db.snapshot() as snapshot:
            assert snapshot.seq == 102
            assert [*db.changes(snapshot.seq)] == []


def test_files_of_the_history_are_the_stores_own(store_path: str, tmp_path: Any) -> None:
    copy = str(tmp_path / "copy")
    with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
        for i in range(200):
            db.put(b"%d" % i, b"x" * 50)
        db.flush()
        files = db.verify().files
        assert files > len(logs(store_path)) > 1
        db.checkpoint(copy)
    assert lsmkit.repair(store_path).ok
    with lsmkit.open(store_path, read_only=True) as db:
        assert [x.seq for x in db.changes()] == list(range(1, 201))
    with lsmkit.open(copy) as other:  # it has the option, and no history yet
        assert [*other.changes()] == []
        other.put(b"a", b"1")
        other.flush()
        assert [x.seq for x in other.changes()] == [201]
    lsmkit.destroy(store_path)
    assert not os.path.exists(store_path)


def test_damage_in_the_history_is_reported(store_path: str) -> None:
    with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
        for i in range(200):
            db.put(b"%d" % i, b"x" * 50)
    name = os.path.join(store_path, logs(store_path)[1])
    with open(name, "r+b") as file:
        file.seek(2000)
        byte = file.read(1)
        file.seek(2000)
        file.write(bytes([byte[0] ^ 1]))
    with lsmkit.open(store_path) as db:
        with pytest.raises(lsmkit.CorruptionError) as caught:
            list(db.changes())
        assert caught.value.file == name
        report = db.verify()
        assert [error.file for error in report.errors] == [name]
        assert len(db) == 200


def test_a_store_in_memory_has_a_history_too() -> None:
    with lsmkit.open(":memory:", retain_log_bytes=KEEP, **TINY) as db:
        for i in range(300):
            db.put(b"%d" % i, b"x" * 50)
        db.flush()
        assert [x.key for x in db.changes()] == [b"%d" % i for i in range(300)]


# --- Following


def test_follower_gets_all_that_writers_commit(store_path: str) -> None:
    found: list[int] = []

    def follow(db: lsmkit.DB) -> None:
        try:
            for change in db.changes(follow=True):
                found.append(change.seq)
        except lsmkit.ClosedError:
            found.append(-1)

    with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
        thread = threading.Thread(target=follow, args=[db])
        thread.start()
        for i in range(3000):
            db.put(b"%d" % i, b"v")
        while len(found) < 3000:
            time.sleep(0.001)
    thread.join(10)
    assert not thread.is_alive()
    assert found == [*range(1, 3001), -1]


def test_follow_with_seconds_ends_when_nothing_comes(db: lsmkit.DB) -> None:
    db.put(b"a", b"1")
    some = db.changes(follow=0.05)
    assert next(some).key == b"a"
    db.put(b"b", b"2")
    began = time.monotonic()
    assert [x.key for x in some] == [b"b"]
    assert time.monotonic() - began >= 0.05
    assert [*db.changes(2, follow=0)] == []


def test_reader_beside_the_owner_follows_too(store_path: str) -> None:
    with lsmkit.open(store_path, retain_log_bytes=KEEP, **TINY) as db:
        db.put(b"0", b"v")
        with lsmkit.open(store_path, read_only=True, follow=True) as reader:
            some = reader.changes(follow=30)
            assert next(some).key == b"0"
            for i in range(1, 2000):
                db.put(b"%d" % i, b"v")
                if i % 500 == 0:
                    db.flush()
            assert [next(some).seq for _ in range(1, 2000)] == list(range(2, 2001))
            db.ingest([b"a"], [b"1"])
            with pytest.raises(lsmkit.ChangesLost):
                next(some)
        with lsmkit.open(store_path, read_only=True) as reader:
            db.put(b"later", b"v")
            assert [*reader.changes()] == []
            assert reader.refresh()
            assert [x.key for x in reader.changes()] == [b"later"]


def test_reader_that_looks_at_the_end_of_a_file_that_is_cut_lives(store_path: str) -> None:
    with lsmkit.open(store_path, retain_log_bytes=KEEP, segment_bytes=1 << 20) as db:
        db.put(b"a", b"1")
        with lsmkit.open(store_path, read_only=True, follow=True) as reader:
            assert reader[b"a"] == b"1"
            name = os.path.join(store_path, "000001.log")
            assert os.path.getsize(name) > 1 << 20
            db.flush()
            while os.path.getsize(name) > 1 << 20:
                time.sleep(0.001)
            assert reader[b"a"] == b"1"
            db.put(b"b", b"2")
            assert reader[b"b"] == b"2"


def test_closed_store_ends_it(store_path: str) -> None:
    db = lsmkit.open(store_path)
    db.put(b"a", b"1")
    db.put(b"b", b"2")
    some = db.changes()
    next(some)
    db.close()
    with pytest.raises(lsmkit.ClosedError):
        next(some)
    with pytest.raises(lsmkit.ClosedError):
        db.changes()


def test_one_thread_at_a_time_reads(db: lsmkit.DB) -> None:
    some = db.changes(follow=True)
    outcomes: list[str] = []

    def read() -> None:
        try:
            outcomes.append(next(some).kind)
        except RuntimeError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    while not outcomes:
        time.sleep(0.001)
    db.put(b"a", b"1")
    for thread in threads:
        thread.join()
    assert outcomes == ["the changes are already being read by another thread", "put"]


# --- A copy


def apply(copy: dict[bytes, bytes], change: lsmkit.Change) -> None:
    if change.kind == "put":
        assert change.value is not None
        copy[change.key] = change.value
    elif change.kind == "merge":
        assert change.value is not None
        copy[change.key] = copy.get(change.key, b"") + change.value
    elif change.kind == "delete":
        copy.pop(change.key, None)
    else:
        for key in [*copy]:
            if change.key <= key and (change.value is None or key < change.value):
                del copy[key]


@pytest.mark.parametrize("budget", [0, 20_000, KEEP])
def test_whoever_applies_changes_has_a_copy(
    store_path: str, rng: random.Random, budget: int
) -> None:
    copy: dict[bytes, bytes] = {}
    since, lost = 0, 0
    options: dict[str, Any] = {"merge_operator": lsmkit.merge.Append(), **TINY}
    db = lsmkit.open(store_path, retain_log_bytes=budget, **options)
    for turn in range(40):
        for _ in range(rng.randrange(100)):
            key = b"%03d" % rng.randrange(200)
            how = rng.random()
            if how < 0.6:
                db.put(key, b"v" * rng.randrange(100))
            elif how < 0.8:
                db.merge(key, b"m")
            elif how < 0.95:
                db.delete(key)
            else:
                db.delete_range(key, key[:2] + b"9")
        if turn % 10 == 5:
            db.ingest([b"ingested"], [b"%d" % turn])
        if turn % 7 == 3:
            db.close()
            db = lsmkit.open(store_path, **options)
        try:
            some = db.changes(since)
            for change in some:
                apply(copy, change)
            since = some.seq
        except lsmkit.ChangesLost:
            lost += 1
            with db.snapshot() as snapshot:
                copy, since = dict(snapshot.items()), snapshot.seq
        assert copy == dict(db.items())
    db.close()
    assert lost == 4 if budget == KEEP else lost >= 4
