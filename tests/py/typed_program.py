"""A program that uses every public name and method of lsmkit with the types that it promises.

`mypy --strict` passes on it, and it runs: `python typed_program.py DIRECTORY`. Results stand in
annotated variables, so that a type that widens is an error here; tests/py/test_stubs.py runs it
and checks that nothing public is missing.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import numpy.typing as npt

import lsmkit
import lsmkit.testing
from lsmkit import aio, compaction, dbm, merge


def single_operations(db: lsmkit.DB) -> None:
    db.put(b"a", b"1")
    db.put(bytearray(b"b"), memoryview(b"2"), durability="sync", timeout=1.5)
    db[b"c"] = b"3"
    found: bytes | None = db.get(b"a")
    other: bytes | str = db.get(b"none", "nothing")
    surely: bytes = db.get(b"a", b"")
    item: bytes = db[b"b"]
    assert (found, other, surely, item) == (b"1", "nothing", b"1", b"2")
    assert b"c" in db
    db.delete(b"c")
    db.delete(b"c", durability="process", timeout=0)
    db.delete_range(b"c", None, durability="process", timeout=0)
    del db[b"b"]


def mapping(db: lsmkit.DB) -> None:
    as_mapping: MutableMapping[bytes, bytes] = db
    as_mapping.update({b"m": b"1"})
    db.update([(b"n", b"2")])
    size: int = len(db)
    keys: list[bytes] = list(db)
    backwards: list[bytes] = list(reversed(db))
    assert size == len(keys)
    assert backwards == keys[::-1]
    assert db
    assert list(db.keys()) == keys
    assert dict(db.items())[b"m"] == b"1"
    values: list[bytes] = list(db.values())
    kept: bytes = db.setdefault(b"m", b"other", ttl=9, durability="process", timeout=1)
    popped: bytes = db.pop(b"m", durability="sync", timeout=1)
    absent: bytes | None = db.pop(b"m", None, durability="process", timeout=1)
    pair: tuple[bytes, bytes] = db.popitem(durability="process", timeout=1)
    db.update({b"o": b"3"}, ttl=9, durability="process", timeout=1)
    assert (kept, popped, absent) == (b"1", b"1", None)
    assert pair[1] in values
    assert db == db
    assert hash(db) == hash(db)
    db.clear(durability="process", timeout=1)
    assert not db


def batches(db: lsmkit.DB) -> None:
    with db.batch(durability="periodic", timeout=2.0) as b:
        b.put(b"k1", b"v1", ttl=60)
        b.delete(b"k2")
        b.merge(b"k2", b"more")
        b.delete_range(None, b"a")
    batch = lsmkit.WriteBatch()
    assert not batch
    batch.put(b"k3", np.arange(3))
    batch.delete(bytearray(b"k4"))
    count: int = len(batch)
    size: int = batch.nbytes
    assert batch
    assert (count, size > 0) == (2, True)
    db.write(batch)
    db.write(batch, durability="sync", timeout=None)
    batch.clear()


def once(db: lsmkit.DB) -> None:
    with db.batch(source="kafka-3", seq=7) as b:
        b.put(b"k1", b"v1")
    applied: bool | None = b.applied
    again: bool = db.put_many([b"k1"], [b"v2"], source="kafka-3", seq=7)
    first: bool = db.delete_many([b"none"], source="kafka-3", seq=np.int64(8))
    at: int | None = db.position("kafka-3")
    assert (applied, again, first, at) == (True, False, True, 8)


def transactions(db: lsmkit.DB) -> None:
    def work(t: lsmkit.Transaction) -> int:
        old: bytes | None = t.get(b"k1")
        other: bytes | int = t.get(b"none", 0)
        t[b"k1"] = old or b"0"
        t.put(bytearray(b"k1"), memoryview(b"1"))
        t.delete(b"k9")
        many: list[bytes | None] = t.get_many([b"k1", b"k9"])
        rows: Iterator[tuple[bytes, bytes]] = t.scan(b"a", b"z", include_stop=True)
        keys: list[bytes] = list(t.scan_keys(prefix=b"k", reverse=True))
        values: list[bytes] = list(t.scan_values())
        assert (many, other) == ([b"1", None], 0)
        assert len(list(rows)) <= len(values)
        assert sorted(t.keys()) == sorted(dict(t.items()))
        assert len(list(t.values())) == len(values)
        return len(keys)

    found: int = db.run(work, retries=3, durability="periodic", timeout=1.0)
    assert found > 0
    with db.transaction(durability=None, timeout=None) as t:
        t[b"gone"] = b"1"
        t.delete_range(b"x", None)
        t.clear()
        t.rollback()
    t = db.transaction()
    seen: bytes | None = t.get(b"k1")
    db[b"k1"] = b"2"
    t[b"k2"] = seen or b""
    with lsmkit_raises(lsmkit.ConflictError):
        t.commit()
    t.rollback()


def columns(db: lsmkit.DB) -> None:
    numbers = np.arange(100, dtype="i8")
    db.put_many(numbers, numbers.astype("f8"))
    db.put_many([b"x", b"y"], (b"1", bytearray(b"2")), durability="process", timeout=1)
    db.put_many([b"x"], [b"1"], ttl=0.5)
    db.merge(b"merged", b"1", durability="process", timeout=1)
    db.merge_many([b"merged"], [b"2"], durability="sync", timeout=None)
    db.merge_many(np.array([b"m1", b"m2"]), np.array([b"a", b"b"]))
    db.put_many(np.array([b"k1", b"k2"]), np.zeros((2, 4), np.uint8))
    data, offsets = b"onetwo", np.array([0, 3, 6])
    db.put_many((data, offsets), [b"1", b"2"])

    rows: list[bytes | None] = db.get_many([b"x", b"none"])
    filled: list[bytes | str] = db.get_many((b"x", b"none"), "nothing")
    assert (rows, filled) == ([b"1", None], [b"1", "nothing"])
    of_pair: lsmkit.Column = db.get_many((data, offsets))
    column: lsmkit.Column = db.get_many(numbers)
    assert len(of_pair) == 2
    assert len(column) == 100
    row: bytes | None = column[0]
    part: lsmkit.Column = column[10:20]
    each: Iterator[bytes | None] = iter(part)
    assert next(each) == part[0]
    listed: list[bytes | None] = part.to_pylist()
    assert len(listed) == 10
    assert row is not None
    array: npt.NDArray[Any] = column.to_numpy("<f8")
    converted: npt.NDArray[Any] = np.asarray(part)
    content: npt.NDArray[np.uint8] = column.data
    ends: npt.NDArray[np.int64] = column.offsets
    present: npt.NDArray[np.bool_] | None = column.validity
    assert array[3] == 3.0
    assert len(converted) == 10
    assert len(content) == ends[-1]
    assert present is None or present.all()
    assert column.__arrow_c_schema__() is not None
    assert len(column.__arrow_c_array__()) == 2

    again: lsmkit.Column = db.get_many(column)
    assert len(again) == 100
    db.delete_many(numbers)
    db.delete_many([b"x", b"y"], durability="sync", timeout=1.0)


def keys_of_parts() -> None:
    key: bytes = lsmkit.encode_key("sensor", 7, 1.5, True, b"rest")
    name, number, value, flag, rest = lsmkit.decode_key(key, str, int, float, bool, bytes)
    assert (name, number, value, flag, rest) == ("sensor", 7, 1.5, True, b"rest")
    pair: tuple[str, int] = lsmkit.decode_key(lsmkit.encode_key("a", 1), str, int)
    assert pair == ("a", 1)
    times = np.arange(3).astype("datetime64[s]")
    many: npt.NDArray[np.uint8] = lsmkit.encode_keys(np.array([b"d1", b"d2", b"d3"]), times)
    assert len(many) == 3


def scans(db: lsmkit.DB | lsmkit.Keyspace | lsmkit.Snapshot) -> None:
    pairs: Iterator[tuple[bytes, bytes]] = db.scan(b"a", b"z", reverse=True, include_stop=True)
    assert [key for key, _ in pairs] == [*db.scan_keys(b"a", include_start=True, reverse=True)]
    keys: list[bytes] = list(db.scan_keys(prefix=b"k"))
    values: list[bytes] = list(db.scan_values(stop=memoryview(b"z"), include_start=False))
    assert len(values) >= len(keys)
    total = 0
    for batch in db.scan_columns(prefix=b"k", rows=1000):
        of: lsmkit.Columns = batch
        both: tuple[lsmkit.Column, lsmkit.Column] = of.keys, of.values
        assert len(both[0]) == len(both[1]) == len(of)
        assert of.__arrow_c_schema__() is not None
        assert len(of.__arrow_c_array__()) == 2
        total += len(of)
    assert total == len(keys)
    assert db.scan_columns().__arrow_c_stream__() is not None
    size: int = db.approximate_size(b"a", b"z")
    assert size >= 0


def cursors(db: lsmkit.DB | lsmkit.Snapshot) -> None:
    with db.cursor() as cursor:
        place: lsmkit.Cursor = cursor
        found: bool = place.seek_to_first()
        while place.valid:
            row: tuple[bytes, bytes] = place.key, place.value
            assert db[row[0]] == row[1]
            found = place.next()
        assert not found
        if place.seek_to_last() and place.seek_for_prev(memoryview(b"z")) and place.seek(b"a"):
            moved: bool = place.prev()
            assert moved == place.valid
    cursor.close()


def following(db: lsmkit.DB) -> None:
    with db.snapshot() as snapshot:
        since: int = snapshot.seq
    db.put(b"followed", b"1", ttl=60)
    some: lsmkit.Changes = db.changes(since, prefix=b"foll", follow=0.0)
    change: lsmkit.Change = next(some)
    seq, kind, key, value = change
    named: tuple[int, str, bytes, bytes | None]
    named = (change.seq, change.kind, change.key, change.value)
    until: float | None = change.until
    assert named == (seq, kind, key, value)
    assert until is not None
    assert list(some) == list(db.changes(since=seq, keyspace=db, follow=False))
    assert some.seq == seq
    hot: list[tuple[bytes, float, float]] = db.hot_keys(3)
    assert len(hot) == 3
    kept: int = db.stats().history_bytes
    assert kept >= 0


def snapshots(db: lsmkit.DB) -> None:
    with db.snapshot() as snapshot:
        frozen: Mapping[bytes, bytes] = snapshot
        before = dict(frozen)
        db[b"later"] = b"1"
        assert dict(snapshot.items()) == before
        assert list(snapshot.keys()) == sorted(before)
        assert len(list(snapshot.values())) == len(snapshot)
        scans(snapshot)
        cursors(snapshot)
        absent: bytes | None = snapshot.get(b"later")
        many: list[bytes | int] = snapshot.get_many([b"later"], 0)
        assert (absent, many) == (None, [0])
        assert b"later" not in snapshot
        assert bool(snapshot) == bool(before)
        assert list(reversed(snapshot)) == sorted(before, reverse=True)
    snapshot.close()
    with lsmkit_raises(lsmkit.ClosedError):
        snapshot[b"later"]


def keyspaces(db: lsmkit.DB) -> None:
    readings: lsmkit.Keyspace = db.keyspace("readings", compression="zstd")
    with db.batch() as batch:
        batch.put(b"a", b"1", keyspace=readings)
        batch.delete(b"b", keyspace=db)
    store: lsmkit.DB = readings.db
    names: list[str] = db.keyspaces()
    codec: str = readings.options.compression
    assert (store is db, names, codec) == (True, [readings.name], "zstd")
    scans(readings)
    with db.snapshot() as snapshot:
        frozen: lsmkit.Snapshot = snapshot.keyspace("readings")
        assert dict(frozen) == {b"a": b"1"}
    held: list[tuple[str, int]] = [(ks.name, ks.rows) for ks in db.stats().keyspaces]
    assert held == [("readings", 0)]
    db.drop_keyspace("readings")
    assert readings.closed


def housekeeping(db: lsmkit.DB, directory: str) -> None:
    db.sync()
    db.flush()
    db.compact()
    db.compact(b"a", stop=b"b")
    idle: bool = db.wait_idle(timeout=30)
    pressure: float = db.pressure
    assert idle
    assert 0 <= pressure <= 1
    stats: lsmkit.Stats = db.stats()
    counters: tuple[int, int, int] = (
        stats.writes.records,
        stats.flushes.count,
        stats.compactions.merges,
    )
    figures: tuple[float, float, float] = (
        stats.write_amplification,
        stats.space_amplification,
        stats.runs_mean,
    )
    gauges: tuple[int, ...] = (
        stats.stalls.stopped_ns,
        stats.recovery.lost_bytes,
        stats.cache.fills,
        stats.memory.total,
        stats.table_bytes,
        stats.disk_bytes,
        stats.ranges,
        stats.runs_max,
        stats.background_errors,
        *[level.rows for level in stats.levels],
    )
    as_json: dict[str, Any] = stats.to_dict()
    assert as_json["pressure"] == stats.pressure
    assert counters[0] > 0
    assert min(figures) >= 0
    assert min(gauges) >= 0
    assert stats.last_error == ""
    assert "writes" in str(stats)
    assert isinstance(stats.to_values(), dict)
    assert stats.replace(ranges=7).ranges == 7

    report: lsmkit.Verification = db.verify()
    assert report
    assert report.ok
    found: tuple[lsmkit.Error, ...] = report.errors
    assert (found, report.files > 0, report.blocks >= 0) == ((), True, True)
    assert report.rows + report.bytes >= 0
    assert report.to_dict()["ok"] is True
    path: str = db.path
    closed: bool = db.closed
    assert (path, closed) == (directory, False)


def options(db: lsmkit.DB) -> None:
    wanted = lsmkit.Options(
        segment_bytes=1 << 20,
        block_bytes=4096,
        table_bytes=1 << 20,
        blob_bytes=1 << 14,
        level_base_bytes=1 << 22,
        level_fanout=8,
        filter_bits=12,
        compression="zstd",
        bottom_compression=None,
        compaction=compaction.Leveled(),
        ttl=3600,
        merge_operator=merge.Append(),
        retain_log_bytes=1 << 20,
        cache_bytes=1 << 20,
        memory_bytes=1 << 28,
        log_io="auto",
        background_threads=1,
        rate_limit=0,
        sync_interval_ms=100,
        max_garbage=0.4,
        max_disk_bytes=1 << 40,
    )
    policy: compaction.Policy = wanted.compaction
    assert policy != compaction.LazyLeveled()
    others: list[compaction.Policy] = [
        compaction.SizeTiered(runs=6),
        compaction.TimeWindow(seconds=60),
        compaction.Fifo(max_bytes=1 << 30),
    ]
    assert policy not in others
    assert compaction.Policy.from_text(policy.to_text()) == policy
    changed: lsmkit.Options = wanted.replace(compaction=compaction.LazyLeveled(), level_fanout=4)
    named: frozenset[str] = changed.named
    assert "level_fanout" in named
    assert lsmkit.Options.from_text(wanted.to_text()).compression == "zstd"
    assert lsmkit.Options(filter_bits=3).completed(wanted).segment_bytes == 1 << 20
    assert pickle.loads(pickle.dumps(wanted)) == wanted
    in_force: lsmkit.Options = db.options
    assert in_force.segment_bytes == 1 << 20


async def in_a_loop(db: lsmkit.DB, directory: str) -> None:
    a: aio.AsyncStore = db.aio
    await a.put(b"a", b"1", ttl=9, durability="sync", timeout=1)
    found: bytes | None = await a.get(b"a")
    other: bytes | int = await a.get(b"none", 0)
    popped: bytes = await a.pop(b"a")
    absent: bytes | None = await a.pop(b"a", None)
    assert (found, other, popped, absent) == (b"1", 0, b"1", None)
    kept: bytes = await a.setdefault(b"k1", b"1")
    applied: bool = await a.put_many([b"k1", b"k2"], [kept, b"2"], source="loop", seq=1)
    again: bool = await a.delete_many([b"k9"], source="loop", seq=1)
    at: int | None = await a.position("loop")
    assert (applied, again, at) == (True, False, 1)
    await a.merge(b"k1", b"1")
    await a.merge_many([b"k1"], [b"1"])
    await a.update({b"k3": b"3"})
    await a.delete(b"k9")
    await a.delete_range(b"k9", None)
    async with a.batch() as b:
        batch: aio.AsyncBatch = b
        await batch.put(b"k4", b"4")
        b.delete(b"k9")
    written: bool | None = b.applied
    assert (written, await a.write(lsmkit.WriteBatch())) == (True, True)
    rows: list[tuple[bytes, bytes]] = [row async for row in a.scan(prefix=b"k")]
    scan: aio.AsyncScan[bytes] = a.scan_keys(prefix=b"k")
    assert [key async for key in scan] == [key for key, _ in rows]
    await scan.aclose()
    values: list[bytes] = [value async for value in a.scan_values()]
    parts: list[lsmkit.Columns] = [part async for part in a.scan_columns()]
    assert sum(map(len, parts)) == len(values)
    async with a.snapshot() as snapshot, snapshot.cursor() as cursor:
        moment: aio.AsyncSnapshot = snapshot
        place: aio.AsyncCursor = cursor
        is_there: bool = await place.seek_to_first()
        assert (is_there, await moment.get(place.key)) == (True, place.value)

    async def work(t: aio.AsyncTransaction) -> bytes | None:
        t.put(b"k5", b"5")
        return await t.get(b"k5")

    seen: bytes | None = await a.run(work)
    async with a.transaction() as t:
        many: list[bytes | None] = await t.get_many([b"k5"])
        pairs = [row async for row in t.scan()]
        assert (many, seen) == ([pairs[-1][1]], b"5")
        t.rollback()
    tree: aio.AsyncTree = a
    await tree.flush()
    await a.ingest([b"k6"], [b"6"])
    stats: lsmkit.Stats = await a.stats()
    report: lsmkit.Verification = await a.verify()
    assert (report.ok, stats.table_bytes > 0) == (True, True)
    await a.checkpoint(directory + "-loop")
    lsmkit.destroy(directory + "-loop")


def as_dbm(directory: str) -> None:
    with dbm.open(directory, "c", 0o600) as database:
        mapping: MutableMapping[bytes, bytes] = database
        database["a"] = "1"
        value: bytes = database["a"]
        first: bytes | None = database.firstkey()
        behind: bytes | None = database.nextkey("a")
        keys: list[bytes] = database.keys()
        assert (value, first, behind, keys) == (b"1", b"a", None, [b"a"])
        assert len(mapping) == 1
    try:
        dbm.open(directory + "-none")
    except dbm.error as error:
        cause: BaseException | None = error.__cause__
        assert isinstance(cause, lsmkit.StoreNotFoundError)


class lsmkit_raises:
    """A block that must raise an error of this kind."""

    def __init__(self, kind: type[lsmkit.Error]) -> None:
        self.kind = kind
        self.error: BaseException | None = None

    def __enter__(self) -> lsmkit_raises:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> bool:
        assert kind is not None
        assert issubclass(kind, self.kind), kind
        return True


def elsewhere() -> None:
    with lsmkit.open(":memory:") as db:
        db.put(b"a", b"1")
    disk = lsmkit.testing.FaultyDisk(capacity=1 << 30, seed=1)
    with lsmkit.open("/store", disk=disk, segment_bytes=65536) as db:
        disk.fill(after_bytes=1 << 20)
        disk.fail("fdatasync", nth=1, errno=5, path="/store", sticky=False)
        with lsmkit_raises(lsmkit.StorageError):
            db.put(b"a", b"1", durability="sync")
        disk.heal()
        calls: int = disk.calls("fdatasync")
        used: int = disk.used_bytes
        trace: str = disk.trace()
        assert (calls > 0, used > 0, trace) == (True, True, "")
        disk.power_cut("synced", seed=3)
        disk.kill()


def errors(directory: str) -> None:
    try:
        lsmkit.open(directory, timeout=0.0)
    except lsmkit.LockedError as error:
        owner: tuple[int | None, float | None] = error.pid, error.since
        assert owner[0] == os.getpid()
    with lsmkit_raises(lsmkit.StoreExistsError):
        lsmkit.open(directory, error_if_exists=True)
    with lsmkit_raises(lsmkit.StoreNotFoundError):
        lsmkit.open(os.path.join(directory, "none"), create_if_missing=False)
    assert issubclass(lsmkit.OptionsError, ValueError)
    with lsmkit.open(directory, read_only=True, follow=True) as follower:
        moved: bool = follower.refresh()
        assert not moved
    with lsmkit.open(directory, read_only=True) as reader, lsmkit_raises(lsmkit.ReadOnlyError):
        reader.put(b"a", b"b")
    busy = lsmkit.Busy("full", 0.5)
    seconds: float = busy.retry_after
    oldest: int = lsmkit.ChangesLost("too late", 7).oldest
    assert oldest == 7
    damage = lsmkit.CorruptionError("bad", "file", 7, 1, 2)
    place: tuple[str, int, int | str, int | str | None] = (
        damage.file,
        damage.offset,
        damage.found,
        damage.expected,
    )
    disk = lsmkit.StorageError(28, "full", "file")
    number: int | None = disk.errno
    assert (seconds, number) == (0.5, 28)
    assert place == ("file", 7, 1, 2)


def merging() -> None:
    one = (1).to_bytes(8, "little")
    kinds: list[type[merge.Operator]] = [merge.AddInt64, merge.MaxInt64, merge.MinInt64]
    kinds += [merge.AddFloat64, merge.BitOr, merge.Append, merge.Latest]
    for kind in kinds:
        operator: merge.Operator = merge.operator_of(kind)
        text: str = operator.text
        assert merge.operator_from_text(text) == operator
        value: bytes = operator.fold(None, [one])
        assert operator.combine([one]) == value
    record = merge.Struct(np.dtype([("n", "i8"), ("low", "f8")]), n="add", low="min")
    dtype: np.dtype[Any] = record.dtype
    rules: dict[str, str] = record.rules
    assert (dtype.itemsize, rules) == (16, {"n": "add", "low": "min"})
    seen = merge.HyperLogLog(precision=12)
    bits: int = seen.precision
    about: float = merge.HyperLogLog.estimate(seen.fold(None, [b"a", b"b", b"a"]))
    assert (bits, round(about)) == (12, 2)

    def longest(old: bytes | None, operand: bytes) -> bytes:
        return operand if old is None or len(operand) > len(old) else old

    own = merge.Custom("longest", longest, associative=True)
    name: str = own.name
    folds: bool = own.associative
    assert (name, folds, own.fold(b"ab", [b"c"])) == ("longest", True, b"ab")


def a_b_tree(directory: str) -> None:
    with lsmkit.open_btree(directory, durability="process", cache_bytes=1 << 20) as tree:
        same: lsmkit.BTree = tree
        path: str = same.path
        tree.put(b"a", b"1", durability="sync")
        tree[b"b"] = b"2"
        tree.put_many([b"c", b"d"], [b"3", b"4"])
        with tree.batch() as batch:
            batch.put(b"e", b"5")
        tree.write(lsmkit.WriteBatch())
        found: bytes | None = tree.get(b"a")
        several: list[bytes | None] = tree.get_many([b"a", b"b"])
        pairs: list[tuple[bytes, bytes]] = list(tree.scan(b"a", b"c"))
        keys: list[bytes] = list(tree.scan_keys(prefix=b"a"))
        values: list[bytes] = list(tree.scan_values(reverse=True))
        assert (path, found, several, len(pairs)) == (directory, b"1", [b"1", b"2"], 2)
        assert (keys, values[0]) == ([b"a"], b"5")
        cursor: lsmkit.BTreeCursor = tree.cursor()
        moves: list[bool] = [cursor.seek(b"a"), cursor.next(), cursor.prev(), cursor.valid]
        moves += [cursor.seek_for_prev(b"a"), cursor.seek_to_last(), cursor.seek_to_first()]
        row: tuple[bytes, bytes] = (cursor.key, cursor.value)
        cursor.close()
        assert all(moves)
        assert row == (b"a", b"1")
        kept: bytes = tree.setdefault(b"f", b"6")
        gone: bytes | None = tree.pop(b"f", None)
        tree.update({b"f": b"6"})
        first: tuple[bytes, bytes] = tree.popitem()
        tree.delete(b"f")
        tree.delete_many([b"c"])
        tree.delete_range(b"d", None)
        tree.sync()
        assert (kept, gone, first, list(tree.items())) == (b"6", b"6", (b"a", b"1"), [(b"b", b"2")])
        stats: lsmkit.BTreeStats = tree.stats()
        amplified: float = stats.write_amplification
        numbers: list[int] = [stats.rows, stats.levels, stats.splits, stats.merges]
        numbers += [stats.page_bytes, stats.file_pages, stats.free_pages, stats.cached_pages]
        numbers += [stats.cache_pages, stats.dirty_pages, stats.log_used, stats.log_capacity]
        numbers += [stats.records, stats.frames, stats.user_bytes, stats.log_bytes, stats.syncs]
        numbers += [stats.checkpoints, stats.checkpoint_ns, stats.page_writes, stats.home_bytes]
        numbers += [stats.journal_bytes, stats.extent_bytes, stats.page_reads, stats.evictions]
        numbers += [stats.recovered_records]
        assert (min(numbers), amplified > 0, stats.to_dict()["rows"]) == (0, True, 1)
        report: lsmkit.Verification = tree.verify()
        assert report.ok
        tree.clear()
    tree.close()
    assert tree.closed


def main(directory: str) -> None:
    chosen = lsmkit.Options(segment_bytes=1 << 20)
    with lsmkit.open(
        directory,
        create_if_missing=True,
        durability="process",
        options=chosen,
        filter_bits=8,
        merge_operator=merge.Append,
    ) as db:
        assert str(db) == f"<lsmkit.DB at {directory!r}>"
        single_operations(db)
        mapping(db)
        batches(db)
        once(db)
        transactions(db)
        columns(db)
        keys_of_parts()
        merging()
        scans(db)
        cursors(db)
        snapshots(db)
        keyspaces(db)
        following(db)
        housekeeping(db, directory)
        options(db)
        db.flush()
    db.close()
    assert db.closed
    with lsmkit.open(os.fsencode(directory)) as db:
        errors(directory)
        elsewhere()
        asyncio.run(in_a_loop(db, directory))
        db.ingest([b"many"], [b"rows"])
        db.checkpoint(directory + "-copy")
    mended: lsmkit.Repair = lsmkit.repair(directory + "-copy")
    claims: list[bool] = [mended.ok, mended.changed, mended.rebuilt]
    counts: list[int] = [mended.tables, mended.salvaged, mended.lost, mended.moved]
    counts += [mended.rows_kept, mended.blocks_lost, mended.values_lost]
    counts += [mended.records, mended.log_lost]
    lines: tuple[str, ...] = mended.notes
    assert mended
    assert (claims, sum(counts), len(lines)) == ([True, False, False], 0, 1)
    assert mended.to_dict()["notes"] == list(lines)
    lsmkit.destroy(directory + "-copy")
    as_dbm(directory + "-dbm")
    a_b_tree(directory + "-tree")
    print(f"lsmkit {lsmkit.__version__}: everything has its type")


if __name__ == "__main__":
    main(sys.argv[1])
