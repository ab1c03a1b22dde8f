"""Claim: a keyspace is a store inside the store: apart from the others in what it holds and how its
tables are written, together with them in batches, snapshots and crashes; dropped, it is gone.

Method: small segments, so that each step meets the log and tables; kills by a process that ends
without closing; what is on the disk is looked at as files.
"""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit import merge
from lsmkit.compaction import LazyLeveled, Leveled

SMALL: dict[str, Any] = {"segment_bytes": 16384, "table_bytes": 16384, "block_bytes": 512}


@pytest.fixture
def small(store_path: str) -> Any:
    with lsmkit.open(store_path, **SMALL) as opened:
        yield opened


def fill(ks: lsmkit.DB | lsmkit.Keyspace, rows: int, tag: bytes = b"v") -> None:
    ks.put_many(
        [b"key%05d" % i for i in range(rows)], [tag + b"%05d" % i + b"x" * 50 for i in range(rows)]
    )


def table_files(path: str) -> list[str]:
    return [name for name in os.listdir(path) if name.endswith(".sst")]


def wait_for(happened: Callable[[], bool]) -> None:
    """Until the keeper has let go of what readers have left."""
    deadline = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


# --- Names -----------------------------------------------------------------------------------


def test_a_keyspace_is_made_once_and_found_again(small: lsmkit.DB) -> None:
    assert small.keyspaces() == []
    readings = small.keyspace("readings")
    assert small.keyspace("readings") is readings
    assert (readings.name, readings.db, readings.path) == ("readings", small, small.path)
    small.keyspace("alarms")
    assert small.keyspaces() == ["alarms", "readings"]


def test_the_last_reference_lets_the_handle_go(small: lsmkit.DB) -> None:
    small.keyspace("a")[b"k"] = b"1"
    gc.collect()
    assert small.keyspace("a")[b"k"] == b"1"


@pytest.mark.parametrize(
    "name",
    ["a", " ", "name=a", "a\nb", "\n", "\\n", "\\", "a\\\\nb\0", "\0", "\r\n", "ä€𝄞", "x" * 255],
)
def test_any_text_is_a_name(store_path: str, name: str) -> None:
    with lsmkit.open(store_path) as db:
        db.keyspace(name, filter_bits=3)[b"k"] = name.encode()
        db.keyspace("other" + name[:200])
    with lsmkit.open(store_path) as db:
        assert db.keyspaces() == sorted([name, "other" + name[:200]])
        assert db.keyspace(name)[b"k"] == name.encode()
        assert db.keyspace(name).options.filter_bits == 3
        db.drop_keyspace(name)
        assert db.keyspaces() == ["other" + name[:200]]


@pytest.mark.parametrize("name", ["", "x" * 256, "ä" * 128, "\ud800"])
def test_names_out_of_range_are_value_errors(db: lsmkit.DB, name: str) -> None:
    for call in (db.keyspace, db.drop_keyspace, db.snapshot().keyspace):
        with pytest.raises(ValueError, match="name of a keyspace"):
            call(name)
    with pytest.raises(TypeError, match="must be a str"):
        db.keyspace(b"a")  # type: ignore[arg-type]
    assert db.keyspaces() == []


def test_threads_that_want_the_same_one_get_the_same(small: lsmkit.DB) -> None:
    found: list[lsmkit.Keyspace] = []
    gate = threading.Barrier(8)

    def open_it() -> None:
        gate.wait()
        found.append(small.keyspace("a"))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(ks) for ks in found}) == 1
    assert small.keyspaces() == ["a"]


# --- Contents --------------------------------------------------------------------------------


def test_the_same_key_is_another_one_in_each(small: lsmkit.DB) -> None:
    a, b = small.keyspace("a"), small.keyspace("b")
    for where, value in ((small, b"0"), (a, b"1"), (b, b"2")):
        where[b"k"] = value
    for _ in range(2):
        assert [where[b"k"] for where in (small, a, b)] == [b"0", b"1", b"2"]
        small.flush()
    del a[b"k"]
    assert [where.get(b"k") for where in (small, a, b)] == [b"0", None, b"2"]


def test_a_keyspace_does_what_a_store_does(small: lsmkit.DB) -> None:
    ks = small.keyspace("a")
    small.put(b"key00001", b"the store's")
    fill(ks, 1000)
    ks.put(b"a", b"1", durability="sync")
    ks.delete(b"key00000")
    ks.delete_many([b"key00002", b"key00003"])
    ks.update({b"b": b"2"})
    assert ks.setdefault(b"b", b"3") == b"2"
    assert ks.pop(b"a") == b"1"
    assert ks.pop(b"a", None) is None
    with ks.batch() as batch:
        batch.put(b"c", b"3")
        batch.delete(b"key00004")
    written = lsmkit.WriteBatch()
    written.put(b"d", b"4")
    ks.write(written)
    ks.compact()
    assert ks.wait_idle(60)
    assert len(ks) == 1000 - 4 + 3
    assert ks.get_many([b"b", b"nope", b"key00005"])[:2] == [b"2", None]
    assert list(ks.scan(b"c", b"key00005")) == [
        (b"c", b"3"),
        (b"d", b"4"),
        (b"key00001", b"v00001" + b"x" * 50),
    ]
    assert next(iter(ks.scan_keys(reverse=True))) == b"key00999"
    assert sum(len(part) for part in ks.scan_columns()) == len(ks)
    assert 0 < ks.approximate_size() <= small.stats().table_bytes
    assert 0 <= ks.pressure <= 1
    assert small.approximate_size() < ks.approximate_size()
    assert ks.popitem()[0] == b"b"
    ks.clear()
    assert not ks
    assert dict(small) == {b"key00001": b"the store's"}
    ks.sync()


def test_a_snapshot_sees_all_keyspaces_at_its_moment(small: lsmkit.DB) -> None:
    a, b = small.keyspace("a"), small.keyspace("b")
    with small.batch() as batch:
        for where in (small, a, b):
            batch.put(b"k", b"old", keyspace=where)
    with small.snapshot() as snap, a.snapshot() as of_a:
        late = small.keyspace("late")
        for where in (small, a, b, late):
            where[b"k"] = b"new"
            where[b"more"] = b"1"
        small.flush()
        for where in (small, a, b):
            where.compact()
        views = [snap, snap.keyspace("a"), snap.keyspace("b"), of_a, of_a.keyspace("b")]
        for view in views:
            assert dict(view) == {b"k": b"old"}
            assert list(view.scan(reverse=True)) == [(b"k", b"old")]
        assert len(snap.keyspace("late")) == 0
        with pytest.raises(KeyError):
            snap.keyspace("none")
        snap.keyspace("a").close()
        assert views[1][b"k"] == b"old", "the moment is the other one's to end"
    for view in views:
        with pytest.raises(lsmkit.ClosedError):
            view.get(b"k")
    with pytest.raises(lsmkit.ClosedError):
        snap.keyspace("a")


# --- Batches ---------------------------------------------------------------------------------


def test_a_batch_over_several_is_one_frame(small: lsmkit.DB) -> None:
    a, b = small.keyspace("a"), small.keyspace("b")
    a[b"gone"] = b"1"
    frames = small.stats().writes.frames
    with small.batch() as batch:
        batch.put(b"k", b"0")
        batch.put(b"k", b"1", keyspace=a)
        batch.put(bytearray(b"k"), memoryview(b"2"), keyspace=b)
        batch.delete(b"gone", keyspace=a)
        batch.put(b"k2", b"0", keyspace=small)
    assert small.stats().writes.frames == frames + 1
    for _ in range(2):
        assert dict(small) == {b"k": b"0", b"k2": b"0"}
        assert (dict(a), dict(b)) == ({b"k": b"1"}, {b"k": b"2"})
        small.flush()


def test_writes_without_a_keyspace_go_to_whoever_is_asked(small: lsmkit.DB) -> None:
    a, b = small.keyspace("a"), small.keyspace("b")
    batch = lsmkit.WriteBatch()
    batch.put(b"here", b"1")
    batch.put(b"in a", b"2", keyspace=a)
    batch.put(b"in the store", b"3", keyspace=small)
    batch.put(b"gone", b"x")
    batch.delete(b"gone")
    for target in (small, a, b):
        target.write(batch)
        target.write(batch, durability="sync")
    assert dict(small) == {b"here": b"1", b"in the store": b"3"}
    assert dict(a) == {b"here": b"1", b"in a": b"2"}
    assert dict(b) == {b"here": b"1"}
    with a.batch() as mine:
        mine.put(b"of a", b"1")
        mine.put(b"of the store", b"1", keyspace=small)
    assert b"of a" in a
    assert b"of the store" in small


def test_a_batch_of_keyspaces_belongs_to_their_store(small: lsmkit.DB, tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "other") as other:
        theirs, ours = other.keyspace("a"), small.keyspace("a")
        batch = lsmkit.WriteBatch()
        batch.put(b"k", b"1", keyspace=ours)
        with pytest.raises(ValueError, match="another store"):
            batch.put(b"k", b"1", keyspace=theirs)
        with pytest.raises(ValueError, match="another store"):
            other.write(batch)
        with pytest.raises(ValueError, match="another store"), small.batch() as b:
            b.put(b"k", b"1", keyspace=other)
        with pytest.raises(TypeError, match="must be a Keyspace"):
            batch.put(b"k", b"1", keyspace="a")  # type: ignore[arg-type]
        assert len(batch) == 1
        small.write(batch)
        assert ours[b"k"] == b"1"
        batch.clear()
        batch.put(b"k", b"2", keyspace=theirs)
        other.write(batch)
        assert theirs[b"k"] == b"2"
        assert len(ours) == 1
        assert not other


# --- Options ---------------------------------------------------------------------------------


def test_options_of_its_own_are_stored_and_the_others_follow_the_store(store_path: str) -> None:
    own = {"compaction": Leveled(runs=2), "compression": "zstd", "filter_bits": 3}
    with lsmkit.open(store_path, **SMALL) as db:
        ks = db.keyspace("a", **own)
        assert (ks.options.compaction, ks.options.compression) == (Leveled(runs=2), "zstd")
        assert ks.options.block_bytes == 512
        assert db.options.compression == "lz4"
    with lsmkit.open(store_path, block_bytes=1024, compaction=LazyLeveled(runs=3)) as db:
        ks = db.keyspace("a")
        assert {name: getattr(ks.options, name) for name in own} == own
        assert ks.options.block_bytes == 1024
        assert db.keyspace("b").options.compaction == LazyLeveled(runs=3)
        assert db.keyspace("a", filter_bits=0) is ks
        assert ks.options.filter_bits == 0
    with lsmkit.open(store_path) as db:
        assert db.keyspace("a").options.filter_bits == 0
        assert db.keyspace("a").options.compression == "zstd"


def test_a_ttl_is_of_one_keyspace_alone(store_path: str) -> None:
    short = 0.05
    with lsmkit.open(store_path, ttl=short) as db:
        assert db.options.ttl == short
        assert db.keyspace("forever").options.ttl is None
        short_lived = db.keyspace("short", ttl=short)
        with db.batch() as batch:
            for where in (db, db.keyspace("forever"), short_lived):
                batch.put(b"batch", b"1", keyspace=where)
                where.put(b"put", b"1")
                where.put_many([b"many"], [b"1"])
                where.put(b"own", b"1", ttl=3600)
        while b"batch" in short_lived or b"batch" in db:
            pass
        assert list(short_lived) == list(db) == [b"own"]
        assert sorted(db.keyspace("forever")) == [b"batch", b"many", b"own", b"put"]
        del short_lived
    with lsmkit.open(store_path, ttl=None) as db:
        ks = db.keyspace("short")
        assert ks.options.ttl == short
        ks.put(b"k", b"1")
        assert db.keyspace("short", ttl=None) is ks
        ks.put(b"stays", b"1")
        while b"k" in ks:
            pass
        assert sorted(ks) == [b"own", b"stays"]
        db.drop_keyspace("short")
        again = db.keyspace("short")
        again.put(b"k", b"1")
        assert again.options.ttl is None


@pytest.mark.parametrize(
    "name", ["segment_bytes", "cache_bytes", "log_io", "background_threads", "rate_limit"]
)
def test_options_of_the_store_are_refused(db: lsmkit.DB, name: str) -> None:
    value = getattr(db.options, name)
    with pytest.raises(lsmkit.OptionsError, match=f"{name} is an option of the store"):
        db.keyspace("a", **{name: value})
    assert db.keyspaces() == []


def test_unknown_options_and_wrong_values_are_refused(db: lsmkit.DB) -> None:
    with pytest.raises(TypeError, match="no field 'nonsense'"):
        db.keyspace("a", nonsense=1)
    with pytest.raises(ValueError, match="filter_bits must be"):
        db.keyspace("a", filter_bits=65)
    with pytest.raises(TypeError, match="compaction must be"):
        db.keyspace("a", compaction="leveled")
    assert db.keyspaces() == []


def test_tables_are_written_as_the_keyspace_says(store_path: str) -> None:
    from lsmkit._core.core import dump_sst

    with lsmkit.open(store_path, compression="none", background_threads=1) as db:
        fill(db, 300)
        fill(db.keyspace("zstd", compression="zstd", block_bytes=4096, filter_bits=0), 300)
        fill(db.keyspace("plain"), 300)
        for _ in range(2):
            db.flush()
            sizes = {ks.name: ks.table_bytes for ks in db.stats().keyspaces}
            assert sizes["zstd"] < sizes["plain"]
            texts = [
                "\n".join(dump_sst(os.path.join(store_path, name).encode()))
                for name in table_files(store_path)
            ]
            assert len(texts) == 3
            assert sum("zstd" in text for text in texts) == 1
            for name in ("zstd", "plain"):
                db.keyspace(name).compact()
            db.compact()
            wait_for(lambda: len(table_files(store_path)) == 3)


def test_each_is_compacted_by_its_own_policy(store_path: str) -> None:
    with lsmkit.open(store_path, **SMALL) as db:
        lazy = db.keyspace("lazy", compaction=LazyLeveled(runs=2))
        leveled = db.keyspace("leveled", compaction=Leveled(runs=2), level_base_bytes=8192)
        for round in range(8):
            fill(lazy, 200, b"%d" % round)
            fill(leveled, 200, b"%d" % round)
            db.flush()
        assert db.wait_idle(60)
        names = {
            ks.name: {level.name for level in ks.levels if level.tables}
            for ks in db.stats().keyspaces
        }
        assert names["leveled"] - {"level 0"}
        assert all(name.startswith("level") for name in names["leveled"])
        assert "last" in names["lazy"]
        assert lazy[b"key00000"] == leveled[b"key00000"] == b"700000" + b"x" * 50
        assert db.stats().background_errors == 0


# --- Dropping --------------------------------------------------------------------------------


def test_a_dropped_keyspace_is_gone_and_its_handle_closed(small: lsmkit.DB) -> None:
    a = small.keyspace("a")
    fill(a, 500)
    small.flush()
    a[b"in the log"] = b"1"
    assert not a.closed
    snap, scan = small.snapshot(), a.scan()
    of_a = snap.keyspace("a")
    unwritten = lsmkit.WriteBatch()
    unwritten.put(b"k", b"1", keyspace=a)
    small.drop_keyspace("a")
    assert a.closed
    assert "closed" in repr(a)
    assert small.keyspaces() == []
    calls: list[Callable[[], object]] = [
        lambda: a.get(b"in the log"),
        lambda: a.get(b"nope"),
        lambda: a[b"key00001"],
        lambda: b"nope" in a,
        lambda: a.get_many([b"k"]),
        lambda: a.put(b"k", b"1"),
        lambda: a.put(b"k", b"1", durability="sync"),
        lambda: a.__setitem__(b"k", b"1"),
        lambda: a.delete(b"k"),
        lambda: a.pop(b"k", None),
        lambda: a.setdefault(b"k", b"1"),
        lambda: a.put_many([b"k"], [b"1"]),
        lambda: a.put_many((), ()),
        lambda: a.delete_many([b"k"]),
        lambda: a.clear(),
        lambda: a.batch(),
        lambda: a.write(lsmkit.WriteBatch()),
        lambda: small.write(unwritten),
        lambda: unwritten.put(b"l", b"1", keyspace=a) or small.write(unwritten),
        lambda: lsmkit.WriteBatch().put(b"k", b"1", keyspace=a),
        lambda: list(a.scan()),
        lambda: list(a.scan_columns()),
        lambda: len(a),
        lambda: list(scan),
        lambda: a.snapshot(),
        lambda: of_a.get(b"key00001"),
        lambda: list(of_a),
        lambda: a.approximate_size(),
        lambda: a.compact(),
        lambda: a.flush(),
        lambda: a.sync(),
        lambda: a.wait_idle(1),
        lambda: a.pressure,
    ]
    for call in calls:
        with pytest.raises(lsmkit.ClosedError, match="dropped"):
            call()
    with pytest.raises(KeyError):
        small.drop_keyspace("a")
    with pytest.raises(KeyError):
        snap.keyspace("a")
    again = small.keyspace("a")
    assert len(again) == 0
    assert not again.closed
    again[b"k"] = b"new"
    small.flush()
    assert dict(again) == {b"k": b"new"}


def test_dropping_gives_the_space_back(store_path: str) -> None:
    with lsmkit.open(store_path, **SMALL) as db:
        fill(db, 100)
        fill(db.keyspace("a"), 5000)
        db.flush()
        assert db.wait_idle(60)
        db.drop_keyspace("a")
        stats = db.stats()
        assert sum(level.rows for level in stats.levels) == 100
        wait_for(lambda: len(table_files(store_path)) == 1)
        db.compact()
        assert len(db) == 100


def test_what_the_log_holds_of_it_never_comes_back(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        a = db.keyspace("a")
        fill(a, 100)
        db[b"k"] = b"1"
        fill(a, 100)
        db.drop_keyspace("a")
        db.flush()
        assert sum(level.rows for level in db.stats().levels) == 1
        fill(db.keyspace("a"), 3)
        db.drop_keyspace("a")
        db.keyspace("a")
    with lsmkit.open(store_path) as db:
        assert len(db.keyspace("a")) == 0
        assert dict(db) == {b"k": b"1"}
        assert sum(level.rows for level in db.stats().levels) == 1


def test_dropping_while_it_is_written_flushed_and_compacted(store_path: str) -> None:
    with lsmkit.open(store_path, **SMALL, compaction=LazyLeveled(runs=2)) as db:
        stop = threading.Event()
        failures: list[BaseException] = []

        def write() -> None:
            try:
                while not stop.is_set():
                    try:
                        fill(db.keyspace("a"), 300)
                        with db.batch() as batch:
                            batch.put(b"k", b"1", keyspace=db.keyspace("a"))
                            batch.put(b"k", b"1")
                    except lsmkit.ClosedError:
                        pass
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(40):
                frames = db.stats().writes.frames
                wait_for(lambda: db.stats().writes.frames > frames + 20)  # noqa: B023
                if "a" in db.keyspaces():
                    db.drop_keyspace("a")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert failures == []
        if "a" in db.keyspaces():
            db.drop_keyspace("a")
        db.flush()
        assert db.wait_idle(60)
        assert db.stats().background_errors == 0, db.stats().last_error
        assert dict(db) == {b"k": b"1"}
        assert sum(level.rows for level in db.stats().levels) <= 8
        assert db.verify()
    with lsmkit.open(store_path) as db:
        assert db.keyspaces() == []
        assert dict(db) == {b"k": b"1"}


# --- Reopening, closing, readers -------------------------------------------------------------


def test_a_killed_store_has_its_keyspaces_and_not_the_dropped_ones(store_path: str) -> None:
    program = f"""
import os, lsmkit
db = lsmkit.open({store_path!r}, segment_bytes=16384)
kept, dropped = db.keyspace("kept", filter_bits=2), db.keyspace("dropped")
for i in range(2000):
    with db.batch() as b:
        for where in (db, kept, dropped):
            b.put(b"%05d" % i, b"x" * 20, keyspace=where)
db.drop_keyspace("dropped")
kept[b"last"] = b"1"
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ)
    with lsmkit.open(store_path) as db:
        assert db.keyspaces() == ["kept"]
        kept = db.keyspace("kept")
        assert kept.options.filter_bits == 2
        assert kept.pop(b"last") == b"1"
        assert dict(kept) == dict(db)
        assert len(kept) == 2000
        db.flush()
        assert {ks.name for ks in db.stats().keyspaces} == {"kept"}
        assert len(db.keyspace("dropped")) == 0
        assert db.verify()


# --- Merging, deleted ranges, bulk loads, copies ---------------------------------------------


def one_more(old: bytes | None, operand: bytes) -> bytes:
    return (old or b"") + operand + b";"


def test_each_merges_by_its_own_operator(small: lsmkit.DB) -> None:
    sums = small.keyspace("sums", merge_operator=merge.AddInt64)
    lists = small.keyspace("lists", merge_operator=merge.Append)
    with pytest.raises(lsmkit.OptionsError):
        small.merge(b"k", b"1")
    with pytest.raises(lsmkit.OptionsError):
        small.keyspace("plain").merge(b"k", b"1")
    sums.merge(b"k", 1)
    lists.merge(b"k", b"a")
    with small.batch() as batch:
        batch.merge(b"k", (2).to_bytes(8, "little"), keyspace=sums)
        batch.merge(b"k", b"b", keyspace=lists)
    sums.merge_many([b"k", b"other"], [4, 8])
    small.flush()
    for _ in range(2):
        assert sums[b"k"] == (7).to_bytes(8, "little")
        assert sums[b"other"] == (8).to_bytes(8, "little")
        assert lists[b"k"] == b"ab"
        sums.compact()
        lists.compact()
    short, homeless = lsmkit.WriteBatch(), lsmkit.WriteBatch()
    for refused in (short, homeless):
        refused.merge(b"k", (1).to_bytes(8, "little"))
    short.merge(b"k", b"short")
    with pytest.raises(ValueError, match="write 1 of the batch"):
        sums.write(short)
    homeless.merge(b"k", (1).to_bytes(8, "little"), keyspace=small)
    with pytest.raises(lsmkit.OptionsError):
        sums.write(homeless)
    by_hand = lsmkit.WriteBatch()
    by_hand.merge(b"k", (1).to_bytes(8, "little"))
    by_hand.merge(b"k", b"c", keyspace=lists)
    sums.write(by_hand)
    assert (sums[b"k"], lists[b"k"]) == ((8).to_bytes(8, "little"), b"abc")


def test_the_operator_of_a_keyspace_is_stored_and_never_exchanged(store_path: str) -> None:
    script = f"""
import os, lsmkit
from lsmkit import merge
db = lsmkit.open({store_path!r}, segment_bytes=16384)
sums = db.keyspace("sums", merge_operator=merge.AddInt64)
for _ in range(3000):
    sums.merge(b"k", 1)
own = db.keyspace("own", merge_operator=merge.Custom("joined", lambda old, new: (old or b"") + new))
own.merge(b"k", b"a")
own.merge(b"k", b"b")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    with lsmkit.open(store_path, **SMALL) as db:
        db.flush()  # of operands whose keyspace nobody has opened
        assert "joined" in db.stats().last_error  # whose function is not known here yet
        assert db.stats().background_errors == 1
        sums = db.keyspace("sums")
        assert sums[b"k"] == (3000).to_bytes(8, "little")
        assert sums.options.merge_operator == merge.AddInt64()
        with pytest.raises(lsmkit.OptionsError, match="add_int64"):
            db.keyspace("sums", merge_operator=merge.MaxInt64)
        own = db.keyspace("own")
        with pytest.raises(lsmkit.OptionsError, match="joined"):
            own.get(b"k")
        assert db.keyspace("own", merge_operator=merge.Custom("joined", one_more)) is own
        assert own[b"k"] == b"a;b;"
        assert db.keyspace("own") is own
        own.merge(b"k", b"c")
        own.compact()
        assert own[b"k"] == b"a;b;c;"
        plain = db.keyspace("plain")
        plain[b"k"] = (1).to_bytes(8, "little")
        assert db.keyspace("plain", merge_operator=merge.AddInt64) is plain
        plain.merge(b"k", 1)
        db.drop_keyspace("sums")
        with pytest.raises(lsmkit.OptionsError):
            db.keyspace("sums").merge(b"k", 1)
    with lsmkit.open(store_path, read_only=True) as reader:
        assert reader.keyspace("plain")[b"k"] == (2).to_bytes(8, "little")


def test_ranges_are_deleted_in_one_keyspace_alone(small: lsmkit.DB) -> None:
    a, b = small.keyspace("a"), small.keyspace("b")
    for place in (small, a, b):
        fill(place, 100)
    small.flush()
    a.delete_range(b"key00010", b"key00020")
    with small.batch() as batch:
        batch.delete_range(None, b"key00050", keyspace=b)
        batch.delete_range(b"key00090", None)
    by_hand = lsmkit.WriteBatch()
    by_hand.delete_range(b"key00030", b"key00040", keyspace=small)
    by_hand.delete_range(b"key00060", b"key00070")
    a.write(by_hand)
    for _ in range(2):
        assert len(a) == 80
        assert len(b) == 50
        assert len(small) == 80
        assert b"key00065" in small
        assert b"key00065" not in a
        small.flush()
    b.clear()
    assert (len(a), len(b), len(small)) == (80, 0, 80)
    small.drop_keyspace("a")  # with the deleted ranges that its version and the log hold
    a = small.keyspace("a")
    fill(a, 10)
    small.flush()
    assert len(a) == 10


def test_a_dropped_keyspace_takes_the_deleted_ranges_in_the_log_along(store_path: str) -> None:
    with lsmkit.open(store_path, **SMALL) as db:
        gone = db.keyspace("gone")
        gone.delete_range(b"a", b"z")
        db.drop_keyspace("gone")
        db.flush()
        assert db.stats().range_tombstones == 0
        assert db.stats().background_errors == 0


def test_ingest_is_for_one_keyspace_and_in_its_form(store_path: str) -> None:
    keys = [b"%06d" % i for i in range(5000)]
    with lsmkit.open(store_path) as db:
        ks = db.keyspace("loaded", table_bytes=16384, compression="none", ttl=3600)
        ks.ingest(keys, [key * 5 for key in keys])
        assert len(ks) == 5000
        assert len(db) == 0
        assert ks[b"000123"] == b"000123" * 5
        files = [
            os.path.getsize(os.path.join(store_path, name)) for name in table_files(store_path)
        ]
        assert len(files) > 5
        assert max(files) < 40000


def test_a_checkpoint_has_all_keyspaces(store_path: str, tmp_path: Path) -> None:
    place = str(tmp_path / "copy")
    with lsmkit.open(store_path, **SMALL) as db:
        db.keyspace("sums", merge_operator=merge.AddInt64).merge(b"k", 5)
        fill(db.keyspace("rows"), 100)
        db.drop_keyspace("rows")
        fill(db.keyspace("rows"), 10)
        db.checkpoint(place)
        db.drop_keyspace("sums")
        fill(db.keyspace("rows"), 20)
    with lsmkit.open(place) as db:
        assert db.keyspaces() == ["rows", "sums"]
        assert len(db.keyspace("rows")) == 10
        assert db.keyspace("sums")[b"k"] == (5).to_bytes(8, "little")
        assert db.verify().ok


def test_a_source_is_one_for_the_whole_store(small: lsmkit.DB) -> None:
    a, b = small.keyspace("a"), small.keyspace("b")
    assert a.put_many([b"k"], [b"1"], source="s", seq=7)
    assert not b.put_many([b"k"], [b"1"], source="s", seq=7)
    assert (small.position("s"), a.position("s"), b.position("s")) == (7, 7, 7)
    with a.batch(source="s", seq=8) as batch:
        batch.put(b"k", b"2", keyspace=b)
    assert batch.applied
    assert (a[b"k"], dict(b)) == (b"1", {b"k": b"2"})


def test_positions_of_sources_are_merged_in_the_background(store_path: str) -> None:
    with lsmkit.open(store_path, **SMALL) as db:
        for i in range(60):
            db.put_many([b"k%d" % i], [b"v"], source=f"s{i % 3}", seq=i)
            db.flush()
        assert db.wait_idle(60)
        assert db.stats().runs_max < 20
        assert [db.position(f"s{i}") for i in range(3)] == [57, 58, 59]


def test_a_cursor_walks_one_keyspace(small: lsmkit.DB) -> None:
    ks = small.keyspace("walked")
    fill(small, 5)
    fill(ks, 3)
    with small.snapshot() as snap:
        fill(ks, 9)
        cursor = snap.keyspace("walked").cursor()
        cursor.seek_to_last()
        assert cursor.key == b"key00002"
        cursor.prev()
        assert cursor.key == b"key00001"
    cursor = ks.cursor()
    cursor.seek_to_last()
    assert cursor.key == b"key00008"
    small.drop_keyspace("walked")
    with pytest.raises(lsmkit.ClosedError):
        cursor.seek_to_first()


def test_a_keyspace_pickles_with_its_store(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        ks = db.keyspace("sums", merge_operator=merge.Custom("one_more", one_more))
        ks.merge(b"k", b"a")
        packed = pickle.dumps(ks)
        with pytest.raises(TypeError):
            copy.copy(ks)
        with pytest.raises(TypeError):
            copy.deepcopy(ks)
    there = pickle.loads(packed)
    with there.db:
        assert there.name == "sums"
        assert there[b"k"] == b"a;"
        with pytest.raises(lsmkit.ReadOnlyError):
            there[b"k"] = b""
    with lsmkit.open(":memory:") as db, pytest.raises(TypeError):
        pickle.dumps(db.keyspace("a"))


def ruined(store_path: str, manifest: bytes | None) -> None:
    """A store with keyspaces, one dropped; its manifests are `manifest` then, or gone."""
    with lsmkit.open(store_path, **SMALL) as db:
        fill(db.keyspace("first", compression="zstd"), 30)
        db.keyspace("gone")
        fill(db.keyspace("second", merge_operator=merge.AddInt64), 10)
        fill(db, 5)
        db.drop_keyspace("gone")
    for name in os.listdir(store_path):
        if name.startswith("MANIFEST") or name.endswith(".manifest") or name == "CURRENT":
            where = os.path.join(store_path, name)
            os.remove(where)
            if manifest is not None:
                Path(where).write_bytes(manifest)


@pytest.mark.parametrize("manifest", [None, b"", b"nothing of sense\n"])
def test_repair_names_keyspaces_whose_names_are_lost(
    store_path: str, manifest: bytes | None
) -> None:
    ruined(store_path, manifest)
    report = lsmkit.repair(store_path)
    assert report.rebuilt
    assert any("lost-16" in line for line in report.notes)
    assert any("lost-18" in line for line in report.notes)
    with lsmkit.open(store_path, **SMALL) as db:
        assert db.keyspaces() == ["lost-16", "lost-18"]
        assert len(db.keyspace("lost-16")) == 30
        assert len(db.keyspace("lost-18")) == 10
        assert len(db) == 5
        fresh = db.keyspace("fresh")
        fresh[b"k"] = b"1"
        db.flush()
        assert len(fresh) == 1
        assert db.verify().ok


def test_repair_keeps_names_that_a_damaged_manifest_still_says(store_path: str) -> None:
    ruined_at = store_path
    with lsmkit.open(ruined_at, **SMALL) as db:
        fill(db.keyspace("first", compression="zstd"), 30)
        fill(db.keyspace("second"), 10)
        db.flush()
    current = Path(ruined_at, "CURRENT")
    current.write_bytes(b"damaged")
    for path in Path(ruined_at).iterdir():
        if "manifest" in path.name.lower():
            lines = path.read_bytes().split(b"\n")
            at = max(i for i, line in enumerate(lines) if line and b"keyspace/" not in line)
            lines[at] = lines[at][:-1] + b"?"
            path.write_bytes(b"\n".join(lines))
    lsmkit.repair(ruined_at)
    with lsmkit.open(ruined_at, **SMALL) as db:
        assert db.keyspaces() == ["first", "second"]
        assert db.keyspace("first").options.compression == "zstd"
        assert (len(db.keyspace("first")), len(db.keyspace("second"))) == (30, 10)


def test_repair_of_the_log_brings_no_dropped_keyspace_back(store_path: str) -> None:
    script = f"""
import os, lsmkit
db = lsmkit.open({store_path!r}, segment_bytes=16384)
gone, kept = db.keyspace("gone"), db.keyspace("kept")
for i in range(50):
    for each in (db, gone, kept):
        each[b"%03d" % i] = b"x" * 40
gone.delete_range(b"000", b"010")
kept.delete_range(b"040", None)
kept[b"045"] = b"again"
db.sync()
db.drop_keyspace("gone")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    for path in Path(store_path).iterdir():
        if path.suffix == ".log":
            data = bytearray(path.read_bytes())
            data[100] ^= 1
            path.write_bytes(bytes(data))
    lsmkit.repair(store_path)
    with lsmkit.open(store_path, **SMALL) as db:
        assert db.keyspaces() == ["kept"]
        assert [s.name for s in db.stats().keyspaces] == ["kept"]
        kept = db.keyspace("kept")
        assert len(kept) >= 30
        assert list(kept.scan(b"040")) == [(b"045", b"again")]
        again = db.keyspace("gone")
        again[b"k"] = b"1"
        db.flush()
        assert dict(again) == {b"k": b"1"}
        assert db.verify().ok


def test_closing_the_store_closes_its_keyspaces(store_path: str) -> None:
    db = lsmkit.open(store_path)
    ks = db.keyspace("a")
    ks[b"k"] = b"1"
    db.close()
    assert ks.closed
    for call in (lambda: ks.get(b"k"), lambda: ks.put(b"k", b"2"), ks.batch, db.keyspaces):
        with pytest.raises(lsmkit.ClosedError):
            call()
    with pytest.raises(lsmkit.ClosedError):
        db.keyspace("a")
    with pytest.raises(lsmkit.ClosedError):
        db.drop_keyspace("a")


def test_a_keyspace_keeps_its_store_open(store_path: str) -> None:
    ks = lsmkit.open(store_path).keyspace("a")
    gc.collect()
    ks[b"k"] = b"1"
    assert ks[b"k"] == b"1"
    del ks
    with lsmkit.open(store_path) as db:
        assert db.keyspace("a")[b"k"] == b"1"


def test_a_reader_opens_what_is_there_and_makes_nothing(store_path: str) -> None:
    with lsmkit.open(store_path, **SMALL) as db:
        fill(db.keyspace("a", filter_bits=3), 300)
        db.flush()
        db.keyspace("a")[b"in the log"] = b"1"
        with lsmkit.open(store_path, read_only=True) as reader:
            assert reader.keyspaces() == ["a"]
            a = reader.keyspace("a", block_bytes=1024)
            assert len(a) == 301
            assert (a.options.filter_bits, a.options.block_bytes) == (3, 1024)
            assert reader.snapshot().keyspace("a")[b"in the log"] == b"1"
            with pytest.raises(lsmkit.ReadOnlyError, match="no keyspace 'b'"):
                reader.keyspace("b")
            with pytest.raises(lsmkit.ReadOnlyError):
                reader.drop_keyspace("a")
            with pytest.raises(lsmkit.ReadOnlyError):
                a.put(b"k", b"1")
            with pytest.raises(KeyError):
                reader.snapshot().keyspace("b")
        assert db.keyspace("a").options.block_bytes == 512


def test_stats_show_each_keyspace(small: lsmkit.DB) -> None:
    fill(small.keyspace("b"), 100)
    fill(small.keyspace("a"), 50)
    small.keyspace("empty")
    small.flush()
    stats = small.stats()
    assert [(ks.name, ks.rows) for ks in stats.keyspaces] == [("a", 50), ("b", 100), ("empty", 0)]
    assert sum(level.rows for level in stats.levels) == 150
    assert stats.table_bytes == sum(ks.table_bytes for ks in stats.keyspaces)
    assert stats.to_dict()["keyspaces"][2] == {
        "name": "empty",
        "levels": [],
        "table_bytes": 0,
        "rows": 0,
        "ranges": 0,
        "runs_max": 0,
    }
    assert "in 'b'" in str(stats)


def test_a_policy_that_is_not_known_here_is_reported_and_the_rest_goes_on(store_path: str) -> None:
    from lsmkit._core import core

    with lsmkit.open(store_path, **SMALL) as db:
        fill(db.keyspace("a"), 100)
        tree = {name: tree for tree, name in db._keyspaces.numbers().items()}["a"]
        core.change_keyspace(db._handle, tree, "name=a\ncompaction=strange(runs=2)\n")
    with lsmkit.open(store_path) as db:
        with pytest.raises(ValueError, match="strange"):
            db.keyspace("a")
        fill(db, 100)
        db.flush()
        assert db.wait_idle(60)
        assert "strange" in db.stats().last_error
        db.drop_keyspace("a")
        assert len(db.keyspace("a")) == 0


# --- Many ------------------------------------------------------------------------------------


def test_a_thousand_keyspaces(store_path: str) -> None:
    names = [f"tenant-{i:04d}" for i in range(1000)]
    with lsmkit.open(store_path, compaction=LazyLeveled(runs=2)) as db:
        keyspaces = [db.keyspace(name) for name in names]
        for round in range(3):
            with db.batch() as batch:
                for i, ks in enumerate(keyspaces):
                    batch.put(b"number", b"%d %d" % (i, round), keyspace=ks)
            db.flush()
        assert db.wait_idle(120)
        assert db.stats().background_errors == 0, db.stats().last_error
    with lsmkit.open(store_path) as db:
        assert db.keyspaces() == names
        for i, name in enumerate(names):
            assert dict(db.keyspace(name)) == {b"number": b"%d 2" % i}
        for name in names[::2]:
            db.drop_keyspace(name)
        assert db.keyspaces() == names[1::2]
        wait_for(
            lambda: len(table_files(store_path)) == sum(level.tables for level in db.stats().levels)
        )
        assert db.verify()


# --- The command line ------------------------------------------------------------------------


def test_commands_take_a_keyspace(
    store_path: str, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    pytest.importorskip("click")
    pytest.importorskip("rich")
    from lsmkit import cli

    def run(*args: str) -> tuple[int, str, str]:
        code = cli.main(list(args))
        out, err = capfdbinary.readouterr()
        return code, out.decode(), err.decode()

    rows = tmp_path / "rows.csv"
    rows.write_text("id,name\n1,Ada\n2,Bob\n")
    load = ("load", store_path, str(rows), "--key", "id", "--value", "name")
    assert run(*load, "--keyspace", "people", "--json")[0] == 0
    assert run("put", store_path, "k", "v", "--keyspace", "other")[0] == 0
    assert run("put", store_path, "1", "mine")[0] == 0
    assert run("get", store_path, "1", "--keyspace", "people")[:2] == (0, "Ada")
    assert run("get", store_path, "1")[:2] == (0, "mine")
    assert run("get", store_path, "9", "--keyspace", "people")[0] == 1
    assert run("scan", store_path, "--keyspace", "people")[1] == "1\tAda\n2\tBob\n"
    assert run("delete", store_path, "1", "--keyspace", "people")[0] == 0
    assert run("scan", store_path, "--keyspace", "people")[1] == "2\tBob\n"
    for command in ("get", "delete"):
        code, out, err = run(command, store_path, "1", "--keyspace", "none")
        assert (code, out) == (2, "")
        assert "no keyspace 'none'" in err
    code, out, _ = run("keyspaces", store_path)
    assert [line.split("\t")[0] for line in out.splitlines()] == ["other", "people"]
    code, out, _ = run("keyspaces", store_path, "--json")
    assert code == 0
    listed = [json.loads(line) for line in out.splitlines()]
    assert [(each["name"], each["rows"]) for each in listed] == [("other", 1), ("people", 3)]
    assert listed[0]["compaction"].startswith("lazy-leveled(")
    with lsmkit.open(store_path, create_if_missing=False) as db:
        assert db.keyspaces() == ["other", "people"]
