"""Claim: a B-tree of `open_btree` is a mapping of bytes to bytes in key order that keeps what it
was given: through closing, killing, a full disk and damage, from any number of threads.

Method: small caches and logs, so that pages leave memory and checkpoints happen all the time; disks
in memory that fail; a forked child.
"""

from __future__ import annotations

import collections.abc
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

import lsmkit
from lsmkit.testing import FaultyDisk

SMALL = {"cache_bytes": 256 << 10, "log_bytes": 64 << 10}


@pytest.fixture
def tree(tmp_path: Path):
    with lsmkit.open_btree(tmp_path / "tree", **SMALL) as t:
        yield t


def filled(tree: lsmkit.BTree, rows: int) -> dict[bytes, bytes]:
    rng = random.Random(rows)
    want = {b"%012d" % rng.randrange(10**9): rng.randbytes(rng.randrange(200)) for _ in range(rows)}
    tree.put_many(list(want), list(want.values()))
    return dict(sorted(want.items()))


def test_it_is_a_mutable_mapping_in_key_order(tree):
    want = filled(tree, 3000)
    assert isinstance(tree, collections.abc.MutableMapping)
    assert dict(tree) == want
    assert list(tree) == list(want)
    assert len(tree) == len(want)
    assert list(reversed(tree)) == list(reversed(want))
    assert list(tree.items()) == list(want.items())
    assert list(tree.values()) == list(want.values())
    key = next(iter(want))
    assert tree[key] == want[key]
    assert key in tree
    assert b"none" not in tree
    with pytest.raises(KeyError):
        tree[b"none"]
    with pytest.raises(KeyError):
        del tree[b"none"]
    del tree[key]
    assert tree.get(key) is None
    assert tree.get(key, b"x") == b"x"
    assert tree.setdefault(key, b"new") == b"new"
    assert tree.setdefault(key, b"other") == b"new"
    assert tree.pop(key) == b"new"
    assert tree.pop(key, 7) == 7
    with pytest.raises(KeyError):
        tree.pop(key)
    assert tree.popitem() == list(want.items())[1]
    tree.clear()
    assert not tree
    assert len(tree) == 0
    with pytest.raises(KeyError):
        tree.popitem()


def test_scans_keep_to_their_bounds_in_both_directions(tree):
    for i in range(2000):
        tree.put(b"%05d" % i, b"%d" % i)
    assert [k for k, _ in tree.scan(b"00010", b"00013")] == [b"00010", b"00011", b"00012"]
    assert list(tree.scan_keys(b"00010", b"00012", include_start=False, include_stop=True)) == [
        b"00011",
        b"00012",
    ]
    assert list(tree.scan_keys(prefix=b"0199", reverse=True)) == [
        b"%05d" % i for i in range(1999, 1989, -1)
    ]
    assert list(tree.scan_values(b"01998")) == [b"1998", b"1999"]
    assert list(tree.scan(b"5", b"4")) == []
    assert list(tree.scan(b"2", None)) == []
    assert list(tree.scan_keys(reverse=True)) == list(reversed(list(tree.scan_keys())))
    with pytest.raises(TypeError):
        tree.scan(b"a", prefix=b"b")


def test_a_cursor_walks_both_ways_and_seeks_anew(tree):
    for i in range(0, 3000, 2):
        tree.put(b"%05d" % i, b"v%d" % i)
    with tree.cursor() as c:
        assert not c.valid
        with pytest.raises(ValueError):
            c.key  # noqa: B018
        assert c.seek(b"00003")
        assert (c.key, c.value) == (b"00004", b"v4")
        assert c.prev()
        assert c.key == b"00002"
        assert c.next()
        assert c.key == b"00004"
        assert c.seek_for_prev(b"00003")
        assert c.key == b"00002"
        assert c.seek_to_last()
        assert c.key == b"02998"
        assert not c.next()
        assert not c.valid
        with pytest.raises(ValueError):
            c.next()
        assert c.seek_to_first()
        assert c.key == b"00000"
        seen = [c.key]
        while c.next():
            seen.append(c.key)
        assert seen == list(tree)
        assert not c.seek(b"1")
    with pytest.raises(lsmkit.ClosedError):
        c.seek(b"a")


def test_columns_of_every_kind_go_in_and_come_out(tree):
    numbers = np.array([5, -3, 9, 5], dtype="i8")
    tree.put_many(numbers, np.array([1.0, 2.0, 3.0, 4.0]))
    assert [np.frombuffer(v)[0] for v in tree.values()] == [2.0, 4.0, 3.0]
    column = tree.get_many(np.array([9, 1, -3], dtype="i8"))
    assert isinstance(column, lsmkit.Column)
    assert column.to_pylist() == [np.float64(3).tobytes(), None, np.float64(2).tobytes()]
    tree.delete_many(numbers)
    assert len(tree) == 0
    tree.put_many([b"a", bytearray(b"b"), b"a"], [b"1", memoryview(b"2"), b"3"])
    assert tree.get_many([b"b", b"x", b"a"], b"-") == [b"2", b"-", b"3"]
    assert tree.get_many((b"b", b"x")) == [b"2", None]
    with pytest.raises(ValueError, match="2 keys and 1 values"):
        tree.put_many([b"a", b"b"], [b"1"])


def test_keys_and_values_of_any_length_come_back(tree):
    want = {b"": b"", b"k" * 65535: b"v" * 3_000_000, b"k" * 65534: b"", b"k" * 600: b"w" * 5000}
    for key, value in want.items():
        tree.put(key, value)
    assert dict(tree.scan()) == want
    assert list(tree) == sorted(want)
    assert tree.get_many(list(want)) == list(want.values())
    assert tree.get_many(np.array(list(want), dtype=object).tolist()) == list(want.values())
    assert tree.verify()
    with pytest.raises(ValueError, match="65536"):
        tree.put(b"k" * 65536, b"")
    with pytest.raises(TypeError):
        tree.put("text", b"")


def test_a_batch_is_applied_at_its_end_or_not_at_all(tree):
    tree.put(b"old", b"1")
    with tree.batch() as b:
        b.put(b"a", b"1")
        b.delete(b"old")
        b.put(b"a", b"2")
        assert b"a" not in tree
    assert dict(tree) == {b"a": b"2"}

    def breaks_off() -> None:
        with tree.batch() as b:
            b.put(b"b", b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks_off()
    assert dict(tree) == {b"a": b"2"}
    batch = lsmkit.WriteBatch()
    batch.put(b"c", b"3")
    batch.delete_range(b"a", b"b")
    tree.write(batch, durability="sync")
    assert dict(tree) == {b"c": b"3"}
    batch.merge(b"c", b"4")
    with pytest.raises(lsmkit.OptionsError):
        tree.write(batch)
    assert dict(tree) == {b"c": b"3"}


def test_rows_outlive_closing_and_options_may_change(tmp_path):
    with lsmkit.open_btree(tmp_path, **SMALL, page_bytes=8192) as t:
        want = filled(t, 5000)
        assert t.stats().checkpoints > 0
    with lsmkit.open_btree(tmp_path) as t:
        assert dict(t) == want
        assert t.stats().page_bytes == 8192
        assert t.verify()
        assert t.stats().recovered_records == 0
    with pytest.raises(lsmkit.OptionsError):
        lsmkit.open_btree(tmp_path, page_bytes=4096)
    with pytest.raises(FileExistsError):
        lsmkit.open_btree(tmp_path, error_if_exists=True)
    with pytest.raises(FileNotFoundError):
        lsmkit.open_btree(tmp_path / "none", create_if_missing=False)
    for wrong in ({"cache_bytes": 1}, {"log_bytes": 1}, {"page_bytes": 5000}, {"durability": "x"}):
        with pytest.raises(ValueError):
            lsmkit.open_btree(tmp_path, **wrong)


def test_one_process_owns_a_tree(tmp_path):
    with lsmkit.open_btree(tmp_path):
        with pytest.raises(lsmkit.LockedError) as error:
            lsmkit.open_btree(tmp_path, timeout=0.01)
        assert error.value.pid == os.getpid()


def test_a_closed_tree_raises_and_never_crashes(tmp_path):
    t = lsmkit.open_btree(tmp_path, **SMALL)
    filled(t, 1000)
    scan, cursor = t.scan(), t.cursor()
    next(scan)
    cursor.seek_to_first()
    t.close()
    t.close()
    assert t.closed
    for call in (
        lambda: next(scan),
        lambda: cursor.key,
        lambda: t.get(b"a"),
        lambda: t.put(b"a", b"b"),
        lambda: t.delete(b"a"),
        lambda: t.put_many([b"a"], [b"b"]),
        lambda: t.get_many([b"a"]),
        lambda: t.scan(),
        lambda: len(t),
        lambda: t.sync(),
        lambda: t.stats(),
        lambda: t.verify(),
        lambda: t.batch(),
        lambda: t.__enter__(),
    ):
        with pytest.raises(lsmkit.ClosedError):
            call()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_gets_an_error_and_harms_nothing(tmp_path):
    t = lsmkit.open_btree(tmp_path, **SMALL)
    t.put(b"a", b"1")
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            t.get(b"a")
        except lsmkit.ClosedError:
            t.close()
            del t
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert t.get(b"a") == b"1"
    t.close()


@pytest.mark.parametrize("durability", ["process", "periodic", "sync"])
def test_what_was_acknowledged_is_there_after_a_fault_that_it_names(durability):
    disk = FaultyDisk(seed=3)
    t = lsmkit.open_btree("tree", disk=disk, durability=durability, **SMALL)
    want = filled(t, 500)
    t.put(b"last", b"1", durability="sync")
    if durability == "sync":
        for i in range(50):
            t.put(b"s%d" % i, b"1")
            want[b"s%d" % i] = b"1"
    disk.power_cut("synced")
    with lsmkit.open_btree("tree", disk=disk) as t:
        assert dict(t) == dict(sorted((want | {b"last": b"1"}).items()))
        assert t.verify()


def test_a_killed_process_loses_nothing():
    disk = FaultyDisk(seed=4)
    t = lsmkit.open_btree("tree", disk=disk, **SMALL)
    want = filled(t, 100)
    for i in range(100):
        t.put(b"x%d" % i, b"y")
    disk.kill()
    with lsmkit.open_btree("tree", disk=disk) as t:
        assert dict(t) == dict(sorted((want | {b"x%d" % i: b"y" for i in range(100)}).items()))
        assert t.stats().recovered_records > 0


def test_after_a_failed_sync_writes_are_refused_and_reads_go_on():
    disk = FaultyDisk(seed=5)
    t = lsmkit.open_btree("tree", disk=disk, **SMALL)
    want = filled(t, 200)
    disk.fail("fdatasync")
    with pytest.raises(lsmkit.StorageError):
        t.put(b"a", b"b", durability="sync")
    for write in (lambda: t.put(b"a", b"b"), lambda: t.delete_many([b"a"]), t.sync):
        with pytest.raises(lsmkit.StorageError):
            write()
    assert all(t[key] == value for key, value in want.items())
    t.close()
    disk.heal()
    with lsmkit.open_btree("tree", disk=disk) as t:
        assert {k: v for k, v in t.items() if k != b"a"} == want
        t.put(b"c", b"d")


def test_a_full_disk_is_a_storage_error_and_loses_nothing():
    disk = FaultyDisk(seed=6)
    t = lsmkit.open_btree("tree", disk=disk, **SMALL)
    want = filled(t, 300)
    disk.fill(100_000)
    stored = {}

    def put_for_ever() -> None:
        for i in range(10**6):
            t.put(b"f%06d" % i, b"x" * 500)
            stored[b"f%06d" % i] = b"x" * 500

    with pytest.raises(lsmkit.StorageError) as error:
        put_for_ever()
    assert error.value.errno == 28
    t.close()
    disk.heal()
    with lsmkit.open_btree("tree", disk=disk) as t:
        got = dict(t)
        assert (want | stored).items() <= got.items()
        assert len(got) <= len(want | stored) + 1
        assert t.verify()


def test_damage_is_reported_with_file_and_offset(tmp_path):
    with lsmkit.open_btree(tmp_path, **SMALL) as t:
        filled(t, 3000)
    pages = tmp_path / "tree.pages"
    data = bytearray(pages.read_bytes())
    data[20 * 4096 + 100] ^= 1
    pages.write_bytes(data)
    with lsmkit.open_btree(tmp_path, **SMALL) as t:
        report = t.verify()
        assert not report
        assert report.errors[0].file == str(pages)
        assert report.errors[0].offset == 20 * 4096
        with pytest.raises(lsmkit.CorruptionError):
            list(t)


def test_readers_and_writers_meet_in_one_tree(tree):
    want = filled(tree, 2000)
    failures = []
    stop = threading.Event()

    def read() -> None:
        rng = random.Random(1)
        keys = list(want)
        array = np.array(keys)
        try:
            while not stop.is_set():
                key = rng.choice(keys)
                assert tree.get(key) == want[key]
                assert tree.get_many(array[:100]).to_pylist() == list(want.values())[:100]
                assert sum(1 for k in tree.scan_keys() if k in want) == len(want)
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for thread in readers:
        thread.start()
    for i in range(3000):
        tree.put(b"w%d" % (i % 500), b"x" * (i % 300))
        if i % 3 == 0:
            tree.delete(b"w%d" % (i * 7 % 500))
    stop.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert tree.verify()


def test_writers_that_wait_for_the_disk_share_its_syncs(tmp_path):
    with lsmkit.open_btree(tmp_path, durability="sync") as t:
        threads = [
            threading.Thread(target=lambda i=i: [t.put(b"%d-%d" % (i, j), b"") for j in range(50)])
            for i in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(t) == 300
        assert 0 < t.stats().syncs <= 300


def test_statistics_count_what_is_written(tree):
    filled(tree, 3000)
    stats = tree.stats()
    assert stats.rows == len(tree)
    assert stats.records >= stats.rows
    assert stats.frames == 1
    assert stats.splits > 0
    assert stats.levels >= 2
    assert stats.cached_pages <= stats.cache_pages
    assert stats.checkpoints > 0
    assert stats.page_writes > 0
    assert 1 < stats.write_amplification == stats.to_dict()["write_amplification"]
    assert lsmkit.open_btree(":memory:").stats().write_amplification == 0


def test_a_sorted_load_fills_pages_to_nine_tenths(tmp_path):
    rows = 20_000
    with lsmkit.open_btree(tmp_path) as t:
        t.put_many([b"%010d" % i for i in range(rows)], [b"v" * 50] * rows)
        used = t.stats().file_pages * 4096
        assert used < rows * (8 + 4 + 10 + 50) / 0.85
        assert t.verify()
