"""Claim: whatever is done to a store, in whatever order and with whatever options, it holds what a
sorted dict holds; snapshots and scans hold what it held when they were made.

Method: Hypothesis draws options that are so small that every few writes fill a segment, a block,
a table and a level, then operations; after each the answers are compared with the dict's. A failure
is shrunk and printed as a program. HYPOTHESIS_PROFILE=soak looks for hours.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import lsmkit
from lsmkit import merge
from lsmkit.compaction import Fifo, LazyLeveled, Leveled, SizeTiered, TimeWindow

# Content is what is tested here, not the disk.
FOLDER = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

LONG = (b"a" * 300, b"a" * 300 + b"\0", b"b" * 65_535, b"\xff" * 65_535, b"\0" * 5000)
KEEP_ALL = 1 << 30
LARGE = (b"x" * 5000, bytes(range(256)) * 80)


def long_key(which: int) -> bytes:
    return LONG[which]


def large_value(which: int) -> bytes:
    return LARGE[which]


keys = st.one_of(
    st.lists(st.sampled_from([0, 1, 97, 98, 255]), max_size=3).map(bytes),
    st.lists(st.sampled_from([97, 98]), max_size=6).map(bytes),
    st.integers(0, 99).map(lambda i: b"key%02d" % i),
    st.integers(0, len(LONG) - 1).map(long_key),
)
values = st.one_of(
    st.binary(max_size=12),
    st.tuples(st.binary(min_size=1, max_size=3), st.integers(0, 400)).map(lambda x: x[0] * x[1]),
    st.integers(0, len(LARGE) - 1).map(large_value),
)
pairs = st.lists(st.tuples(keys, values), max_size=40)
bounds = st.one_of(st.none(), keys)
durabilities = st.sampled_from([None, None, None, "process", "periodic", "sync"])
# A row that lives for 0 seconds is gone at once; one that lives for a day outlives the test.
ttls = st.sampled_from([None, None, None, 0, 86_400])


def joined(old: bytes | None, operand: bytes) -> bytes:
    return (b"" if old is None else old) + operand


# All of them append, so the model is the same; a store keeps the one that it was made with.
operators = st.sampled_from(
    [
        merge.Append(),
        merge.Append(),
        merge.Custom("join", joined, associative=True),
        merge.Custom("join in turn", joined),
    ]
)

policies = st.one_of(
    st.builds(LazyLeveled, runs=st.integers(2, 4)),
    st.builds(LazyLeveled, tables_per_range=st.integers(1, 4)),
    st.builds(Leveled),
    st.builds(SizeTiered, runs=st.integers(2, 4)),
    st.builds(TimeWindow, seconds=st.sampled_from([0.01, 3600.0]), runs=st.integers(2, 4)),
    st.just(Fifo(max_bytes=1 << 40)),  # never so large that something has to go
)
# Of the store: they may change at each opening.
options = st.fixed_dictionaries(
    {
        "segment_bytes": st.sampled_from([4096, 8192, 16384]),
        "block_bytes": st.sampled_from([256, 512, 1024]),
        "table_bytes": st.sampled_from([4096, 8192, 16384]),
        "blob_bytes": st.sampled_from([0, 20, 60, 4096]),
        "level_base_bytes": st.sampled_from([4096, 16384, 65536]),
        "level_fanout": st.sampled_from([2, 4, 10]),
        "filter_bits": st.sampled_from([0, 10]),
        "compression": st.sampled_from(["none", "lz4", "zstd"]),
        "bottom_compression": st.sampled_from([None, "none", "zstd"]),
        "cache_bytes": st.sampled_from([0, 16384, 1 << 20]),
        "memory_bytes": st.sampled_from([4 << 20, 1 << 30]),
        "log_io": st.sampled_from(["mapped", "written"]),
        "durability": st.sampled_from(["process", "process", "periodic", "sync"]),
        "background_threads": st.integers(1, 3),
        "sync_interval_ms": st.sampled_from([1, 1000]),
        "compaction": policies,
        "max_garbage": st.sampled_from([0.05, 0.5, 1]),
        "ttl": st.sampled_from([None, None, 86_400.0]),
        "retain_log_bytes": st.sampled_from([0, 20_000, KEEP_ALL]),
    }
)

# What a keyspace may have of its own.
own_options = st.fixed_dictionaries(
    {},
    optional={
        "block_bytes": st.sampled_from([256, 1024]),
        "table_bytes": st.sampled_from([4096, 16384]),
        "filter_bits": st.sampled_from([0, 10]),
        "compression": st.sampled_from(["none", "zstd"]),
        "compaction": policies,
    },
)
names = st.sampled_from(["one", "two"])
places = st.sampled_from(["", "one", "two"])  # "": the store's own rows


def applied(copy: dict[bytes, bytes], change: lsmkit.Change) -> None:
    if change.kind == "delete_range":
        for key, _ in Sorted(copy).range(change.key, change.value):
            del copy[key]
    elif change.kind == "delete" or (change.until is not None and change.until <= time.time()):
        copy.pop(change.key, None)
    else:
        assert change.value is not None
        old = copy.get(change.key, b"") if change.kind == "merge" else b""
        copy[change.key] = old + change.value


class Sorted:
    """The model: a dict, and its keys in order."""

    def __init__(self, pairs: dict[bytes, bytes]) -> None:
        self.pairs = dict(pairs)
        self.keys = sorted(pairs)

    def range(
        self,
        start: bytes | None,
        stop: bytes | None,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> list[tuple[bytes, bytes]]:
        low = 0
        if start is not None:
            low = (bisect_left if include_start else bisect_right)(self.keys, start)
        high = len(self.keys)
        if stop is not None:
            high = (bisect_right if include_stop else bisect_left)(self.keys, stop)
        return [(key, self.pairs[key]) for key in self.keys[low : max(low, high)]]


class Own:
    """The model of a transaction: what it sees, what it has written, and what it has read."""

    def __init__(self, pairs: dict[bytes, bytes]) -> None:
        self.then = dict(pairs)
        self.now = dict(pairs)
        self.writes: dict[bytes, bytes | None] = {}
        self.operands: dict[bytes, bytes] = {}
        self.deleted: list[tuple[bytes | None, bytes | None]] = []
        self.keys: set[bytes] = set()
        self.ranges: list[tuple[bytes, bytes | None]] = []

    @property
    def has_written(self) -> bool:
        return bool(self.writes or self.operands or self.deleted)

    def merge(self, key: bytes, operand: bytes) -> None:
        self.operands[key] = self.operands.get(key, b"") + operand
        self.now[key] = self.now.get(key, b"") + operand

    def delete_range(self, start: bytes | None, stop: bytes | None) -> None:
        if stop is not None and stop <= (start or b""):
            return
        self.deleted.append((start, stop))
        for mine in (self.now, self.writes, self.operands):
            for key, _ in Sorted(mine).range(start, stop):
                del mine[key]

    def write(self, key: bytes, value: bytes | None) -> None:
        self.writes[key] = value
        self.operands.pop(key, None)
        if value is None:
            self.now.pop(key, None)
        else:
            self.now[key] = value

    def read(self, key: bytes) -> bytes | None:
        is_own = key in self.writes or any(
            (start or b"") <= key and (stop is None or key < stop) for start, stop in self.deleted
        )
        if not is_own:
            self.keys.add(key)
        return self.now.get(key)

    def has_read(self, key: bytes) -> bool:
        return key in self.keys or any(
            low <= key and (high is None or key < high) for low, high in self.ranges
        )


def _change(model: dict[bytes, bytes], kind: str, key: bytes, value: bytes) -> None:
    """What a write of a keyspace does; its operator is Append."""
    if kind == "put":
        model[key] = value
    elif kind == "delete":
        model.pop(key, None)
    else:
        model[key] = model.get(key, b"") + value


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="lsmkit-model-", dir=FOLDER)
        self.path = os.path.join(self.folder, "store")
        self.model: dict[bytes, bytes] = {}
        self.snapshots: list[tuple[lsmkit.Snapshot, Sorted]] = []
        self.scans: list[tuple[Iterator[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]] = []
        self.cursors: list[tuple[lsmkit.Cursor, Sorted, int]] = []
        self.positions: dict[str, int] = {}
        self.copy: dict[
            bytes, bytes
        ] = {}  # made of changes alone, as of the one with this sequence
        self.copied = 0
        self.keeps_all = False
        self.may_be_lost = False
        self.transactions: list[tuple[lsmkit.Transaction, Own]] = []
        self.had_snapshot = False
        self.may_renew = True  # the checkpoint, if there is one
        self.had_operand = False
        self.operator: merge.Operator
        # A reader beside the owner, where it stands, and snapshots that it has taken.
        self.beside: lsmkit.DB | None = None
        self.beside_at = Sorted({})
        self.beside_held: list[tuple[lsmkit.Snapshot, Sorted]] = []
        self.spaces: dict[str, dict[bytes, bytes]] = {}  # keyspaces, by name
        self.moments: list[tuple[lsmkit.Snapshot, dict[str, Sorted]]] = []  # of all of them
        self.db: lsmkit.DB

    @initialize(options=options, operator=operators)
    def make(self, options: dict[str, Any], operator: merge.Operator) -> None:
        self.operator = operator
        self.db = lsmkit.open(self.path, merge_operator=operator, **options)
        self.keeps_log(options)

    def keeps_log(self, options: dict[str, Any]) -> None:
        if "retain_log_bytes" in options:
            self.keeps_all = options["retain_log_bytes"] == KEEP_ALL
        self.may_be_lost = self.may_be_lost or not self.keeps_all

    # --- Writing

    def stored(self, key: bytes, value: bytes, ttl: float | None) -> None:
        if ttl == 0:
            self.model.pop(key, None)
        else:
            self.model[key] = value

    @rule(key=keys, value=values, ttl=ttls, durability=durabilities)
    def put(self, key: bytes, value: bytes, ttl: float | None, durability: str | None) -> None:
        self.db.put(key, value, ttl=ttl, durability=durability)
        self.stored(key, value, ttl)

    @rule(key=keys, value=values)
    def set_item(self, key: bytes, value: bytes) -> None:
        self.db[key] = value
        self.model[key] = value

    @rule(key=keys, durability=durabilities)
    def delete(self, key: bytes, durability: str | None) -> None:
        self.db.delete(key, durability=durability)
        self.model.pop(key, None)

    @rule(
        pairs=pairs,
        ttl=ttls,
        durability=durabilities,
        form=st.sampled_from(["list", "tuple", "offsets"]),
    )
    def put_many(
        self,
        pairs: list[tuple[bytes, bytes]],
        ttl: float | None,
        durability: str | None,
        form: str,
    ) -> None:
        columns = [[key for key, _ in pairs], [value for _, value in pairs]]
        rows = [column_of(column, form) for column in columns]
        self.db.put_many(*rows, ttl=ttl, durability=durability)
        for key, value in pairs:
            self.stored(key, value, ttl)

    def appended(self, key: bytes, operand: bytes) -> None:
        self.model[key] = self.model.get(key, b"") + operand
        self.had_operand = True

    @rule(key=keys, operand=values, durability=durabilities)
    def merge(self, key: bytes, operand: bytes, durability: str | None) -> None:
        self.db.merge(key, operand, durability=durability)
        self.appended(key, operand)

    @rule(pairs=pairs, durability=durabilities, form=st.sampled_from(["list", "tuple", "offsets"]))
    def merge_many(
        self, pairs: list[tuple[bytes, bytes]], durability: str | None, form: str
    ) -> None:
        columns = [[key for key, _ in pairs], [operand for _, operand in pairs]]
        self.db.merge_many(*[column_of(column, form) for column in columns], durability=durability)
        for key, operand in pairs:
            self.appended(key, operand)

    @rule(first=st.integers(0, 80), count=st.integers(1, 200), value=values)
    def put_range(self, first: int, count: int, value: bytes) -> None:
        rows = [b"key%02d" % (i % 100) + b"x" * (i // 100) for i in range(first, first + count)]
        self.db.put_many(rows, [value[:200]] * count)
        self.model.update(dict.fromkeys(rows, value[:200]))

    @rule(keys=st.lists(keys, max_size=40), form=st.sampled_from(["list", "tuple", "offsets"]))
    def delete_many(self, keys: list[bytes], form: str) -> None:
        self.db.delete_many(column_of(keys, form))
        for key in keys:
            self.model.pop(key, None)

    @rule(
        writes=st.lists(
            st.tuples(
                keys,
                st.one_of(st.none(), values, st.just(...)),
                st.one_of(st.just("merge"), ttls),
                bounds,
            ),
            max_size=30,
        ),
        durability=durabilities,
        fails=st.booleans(),
    )
    def batch(
        self,
        writes: list[tuple[bytes, Any, Any, bytes | None]],
        durability: str | None,
        fails: bool,
    ) -> None:
        try:
            with self.db.batch(durability=durability) as batch:
                for key, value, ttl, stop in writes:
                    if value is None:
                        batch.delete(key)
                    elif value is ...:
                        batch.delete_range(key, stop)
                    elif ttl == "merge":
                        batch.merge(key, value)
                    else:
                        batch.put(key, value, ttl=ttl)
                if fails:
                    raise InterruptedError
        except InterruptedError:
            return
        for key, value, ttl, stop in writes:
            if value is None:
                self.model.pop(key, None)
            elif value is ...:
                self.deleted_range(key, stop)
            elif ttl == "merge":
                self.appended(key, value)
            else:
                self.stored(key, value, ttl)

    @rule(pairs=pairs, form=st.sampled_from(["list", "tuple", "offsets"]))
    def ingest(self, pairs: list[tuple[bytes, bytes]], form: str) -> None:
        columns = [[key for key, _ in pairs], [value for _, value in pairs]]
        self.db.ingest(*[column_of(rows, form) for rows in columns])
        self.model.update(pairs)
        self.may_be_lost = self.may_be_lost or bool(pairs)

    @rule(start=bounds, stop=bounds, durability=durabilities)
    def delete_range(self, start: bytes | None, stop: bytes | None, durability: str | None) -> None:
        self.db.delete_range(start, stop, durability=durability)
        self.deleted_range(start, stop)

    def deleted_range(self, start: bytes | None, stop: bytes | None) -> None:
        for key, _ in Sorted(self.model).range(start, stop):
            del self.model[key]

    @rule()
    def clear(self) -> None:
        self.db.clear()
        self.model.clear()

    @rule(key=keys, value=values)
    def setdefault(self, key: bytes, value: bytes) -> None:
        assert self.db.setdefault(key, value) == self.model.setdefault(key, value)

    @rule(key=keys)
    def pop(self, key: bytes) -> None:
        assert self.db.pop(key, b"absent") == self.model.pop(key, b"absent")

    @rule(
        writes=pairs,
        source=st.sampled_from(["a", "b"]),
        seq=st.integers(0, 20),
        durability=durabilities,
        by_batch=st.booleans(),
    )
    def put_once(
        self,
        writes: list[tuple[bytes, bytes]],
        source: str,
        seq: int,
        durability: str | None,
        by_batch: bool,
    ) -> None:
        applied: bool | None
        if by_batch:
            with self.db.batch(source=source, seq=seq, durability=durability) as batch:
                for key, value in writes:
                    batch.put(key, value)
            applied = batch.applied
        else:
            rows = [key for key, _ in writes], [value for _, value in writes]
            applied = self.db.put_many(*rows, source=source, seq=seq, durability=durability)
        assert applied == (seq > self.positions.get(source, -1))
        if applied:
            self.positions[source] = seq
            self.model.update(writes)

    @rule(source=st.sampled_from(["a", "b", "c"]))
    def position(self, source: str) -> None:
        assert self.db.position(source) == self.positions.get(source)

    # --- Transactions

    @precondition(lambda self: len(self.transactions) < 3)
    @rule()
    def begin_transaction(self) -> None:
        self.transactions.append((self.db.transaction(), Own(self.model)))
        self.had_snapshot = True

    @precondition(lambda self: self.transactions)
    @rule(
        data=st.data(),
        changes=st.lists(
            st.tuples(keys, st.none() | values, st.sampled_from(["put", "merge", "range"]), bounds),
            max_size=5,
        ),
    )
    def write_in_transaction(
        self, data: st.DataObject, changes: list[tuple[bytes, bytes | None, str, bytes | None]]
    ) -> None:
        t, own = data.draw(st.sampled_from(self.transactions), label="transaction")
        for key, value, how, stop in changes:
            if how == "range":
                own.delete_range(key, stop)
                t.delete_range(key, stop)
            elif value is None:
                own.write(key, None)
                t.delete(key)
            elif how == "merge":
                own.merge(key, value)
                t.merge(key, value)
            else:
                own.write(key, value)
                t[key] = value

    @precondition(lambda self: self.transactions)
    @rule(data=st.data(), keys=st.lists(keys, max_size=5))
    def read_in_transaction(self, data: st.DataObject, keys: list[bytes]) -> None:
        t, own = data.draw(st.sampled_from(self.transactions), label="transaction")
        assert [t.get(key) for key in keys] == [own.read(key) for key in keys]

    @precondition(lambda self: self.transactions)
    @rule(data=st.data(), start=bounds, stop=bounds, reverse=st.booleans())
    def scan_in_transaction(
        self, data: st.DataObject, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> None:
        t, own = data.draw(st.sampled_from(self.transactions), label="transaction")
        expected = Sorted(own.now).range(start, stop)
        assert list(t.scan(start, stop, reverse=reverse)) == (
            expected[::-1] if reverse else expected
        )
        own.ranges.append((start or b"", stop))

    @precondition(lambda self: self.transactions)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.transactions) - 1), label="transaction")
        t, own = self.transactions.pop(which)
        changed = {
            key
            for key in own.then.keys() | self.model.keys()
            if own.then.get(key) != self.model.get(key)
        }
        try:
            t.commit()
        except lsmkit.ConflictError:
            # A value that was written anew as it was is a conflict too.
            assert own.has_written
            assert own.keys or own.ranges
            return
        assert not own.has_written or not any(own.has_read(key) for key in changed)
        for start, stop in own.deleted:
            self.deleted_range(start, stop)
        for key, value in own.writes.items():
            if value is None:
                self.model.pop(key, None)
            else:
                self.model[key] = value
        for key, operand in own.operands.items():
            self.appended(key, operand)

    # --- Reading

    @rule(key=keys)
    def get(self, key: bytes) -> None:
        assert self.db.get(key) == self.model.get(key)
        assert (key in self.db) == (key in self.model)

    @rule(keys=st.lists(keys, max_size=30), form=st.sampled_from(["list", "tuple", "offsets"]))
    def get_many(self, keys: list[bytes], form: str) -> None:
        found = self.db.get_many(column_of(keys, form))
        assert list(found) == [self.model.get(key) for key in keys]

    @rule(
        start=bounds,
        stop=bounds,
        reverse=st.booleans(),
        include_start=st.booleans(),
        include_stop=st.booleans(),
        data=st.data(),
    )
    def scan(
        self,
        start: bytes | None,
        stop: bytes | None,
        reverse: bool,
        include_start: bool,
        include_stop: bool,
        data: st.DataObject,
    ) -> None:
        reader, model = self.reader(data)
        expected = model.range(start, stop, include_start, include_stop)
        found = reader.scan(
            start,
            stop,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )
        assert list(found) == (expected[::-1] if reverse else expected)

    @rule(prefix=keys, reverse=st.booleans(), data=st.data())
    def scan_prefix(self, prefix: bytes, reverse: bool, data: st.DataObject) -> None:
        reader, model = self.reader(data)
        expected = [key for key in model.keys if key.startswith(prefix)]
        found = list(reader.scan_keys(prefix=prefix, reverse=reverse))
        assert found == (expected[::-1] if reverse else expected)

    @rule(start=bounds, stop=bounds, rows=st.sampled_from([1, 7, 100, 65536]), data=st.data())
    def scan_columns(
        self, start: bytes | None, stop: bytes | None, rows: int, data: st.DataObject
    ) -> None:
        reader, model = self.reader(data)
        found: list[tuple[bytes | None, bytes | None]] = []
        for part in reader.scan_columns(start, stop, rows=rows):
            assert 0 < len(part) <= rows
            found += zip(part.keys, part.values, strict=True)
        assert found == model.range(start, stop)

    def reader(self, data: st.DataObject) -> tuple[lsmkit.DB | lsmkit.Snapshot, Sorted]:
        """The store, or one of its snapshots, and what it holds."""
        which = data.draw(st.integers(-1, len(self.snapshots) - 1), label="snapshot")
        return self.snapshots[which] if which >= 0 else (self.db, Sorted(self.model))

    @rule(start=bounds, stop=bounds)
    def size(self, start: bytes | None, stop: bytes | None) -> None:
        assert self.db.wait_idle(60)
        stats = self.db.stats()
        most = stats.table_bytes + stats.blobs.bytes
        assert 0 <= self.db.approximate_size(start, stop) <= most

    # --- Moments

    @precondition(lambda self: len(self.snapshots) < 4)
    @rule()
    def take_snapshot(self) -> None:
        self.snapshots.append((self.db.snapshot(), Sorted(self.model)))
        self.had_snapshot = True

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), keys=st.lists(keys, max_size=10))
    def read_snapshot(self, data: st.DataObject, keys: list[bytes]) -> None:
        snapshot, then = data.draw(st.sampled_from(self.snapshots))
        assert snapshot.get_many(keys) == [then.pairs.get(key) for key in keys]
        assert [snapshot.get(key) for key in keys] == [then.pairs.get(key) for key in keys]
        assert len(snapshot) == len(then.keys)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), by_hand=st.booleans())
    def drop_snapshot(self, data: st.DataObject, by_hand: bool) -> None:
        snapshot, then = self.snapshots.pop(
            data.draw(st.integers(0, len(self.snapshots) - 1), label="snapshot")
        )
        assert list(snapshot.items()) == then.range(None, None)
        if by_hand:
            snapshot.close()

    @precondition(lambda self: len(self.scans) < 3)
    @rule(start=bounds, stop=bounds, reverse=st.booleans(), data=st.data())
    def begin_scan(
        self, start: bytes | None, stop: bytes | None, reverse: bool, data: st.DataObject
    ) -> None:
        reader, model = self.reader(data)
        expected = model.range(start, stop)
        scan = reader.scan(start, stop, reverse=reverse)
        self.scans.append((scan, expected[::-1] if reverse else expected))

    @precondition(lambda self: self.scans)
    @rule(data=st.data(), count=st.sampled_from([1, 10, 1000]))
    def advance_scan(self, data: st.DataObject, count: int) -> None:
        at = data.draw(st.integers(0, len(self.scans) - 1), label="scan")
        scan, expected = self.scans[at]
        assert list(islice(scan, count)) == expected[:count]
        del expected[:count]
        if not expected:
            assert next(scan, None) is None
            del self.scans[at]

    @precondition(lambda self: len(self.cursors) < 3)
    @rule(data=st.data())
    def make_cursor(self, data: st.DataObject) -> None:
        reader, model = self.reader(data)
        self.cursors.append((reader.cursor(), Sorted(model.pairs), -1))

    @precondition(lambda self: self.cursors)
    @rule(data=st.data(), key=bounds, backwards=st.booleans())
    def seek_cursor(self, data: st.DataObject, key: bytes | None, backwards: bool) -> None:
        which = data.draw(st.integers(0, len(self.cursors) - 1), label="cursor")
        cursor, model, _ = self.cursors[which]
        if backwards:
            found = cursor.seek_to_last() if key is None else cursor.seek_for_prev(key)
            at = len(model.keys) if key is None else bisect_right(model.keys, key)
            at -= 1
        else:
            found = cursor.seek_to_first() if key is None else cursor.seek(key)
            at = 0 if key is None else bisect_left(model.keys, key)
        self.cursors[which] = (cursor, model, at)
        assert found == (0 <= at < len(model.keys))
        self.check_cursor(which)

    @precondition(lambda self: self.cursors)
    @rule(data=st.data(), steps=st.sampled_from([1, 1, 2, 10, 300]), backwards=st.booleans())
    def move_cursor(self, data: st.DataObject, steps: int, backwards: bool) -> None:
        which = data.draw(st.integers(0, len(self.cursors) - 1), label="cursor")
        cursor, model, at = self.cursors[which]
        for _ in range(steps):
            if not 0 <= at < len(model.keys):
                break
            at += -1 if backwards else 1
            moved = cursor.prev() if backwards else cursor.next()
            assert moved == (0 <= at < len(model.keys))
        self.cursors[which] = (cursor, model, at)
        self.check_cursor(which)

    def check_cursor(self, which: int) -> None:
        cursor, model, at = self.cursors[which]
        assert cursor.valid == (0 <= at < len(model.keys))
        if cursor.valid:
            key = model.keys[at]
            assert (cursor.key, cursor.value) == (key, model.pairs[key])

    @precondition(lambda self: self.cursors)
    @rule(data=st.data())
    def drop_cursor(self, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.cursors) - 1), label="cursor")
        self.check_cursor(which)
        self.cursors.pop(which)[0].close()

    # --- Keyspaces

    def place(self, name: str) -> tuple[lsmkit.DB | lsmkit.Keyspace, dict[bytes, bytes]]:
        """The store or a keyspace, made where there is none, and what it holds."""
        if not name:
            return self.db, self.model
        keyspace = self.db.keyspace(name, merge_operator=merge.Append)
        return keyspace, self.spaces.setdefault(name, {})

    @rule(name=names, options=own_options)
    def open_keyspace(self, name: str, options: dict[str, Any]) -> None:
        keyspace = self.db.keyspace(name, **options)
        self.spaces.setdefault(name, {})
        assert self.db.keyspace(name) is keyspace
        assert all(getattr(keyspace.options, each) == value for each, value in options.items())

    @rule(name=names, pairs=pairs, gone=st.lists(keys, max_size=10))
    def write_keyspace(
        self, name: str, pairs: list[tuple[bytes, bytes]], gone: list[bytes]
    ) -> None:
        keyspace, model = self.place(name)
        keyspace.put_many([key for key, _ in pairs], [value for _, value in pairs])
        model.update(pairs)
        for key in gone:
            keyspace.delete(key)
            model.pop(key, None)

    @rule(name=names, first=st.integers(0, 80), count=st.integers(1, 200), value=values)
    def fill_keyspace(self, name: str, first: int, count: int, value: bytes) -> None:
        keyspace, model = self.place(name)
        rows = [b"key%03d" % i for i in range(first, first + count)]
        keyspace.put_many(rows, [value[:200]] * count)
        model.update(dict.fromkeys(rows, value[:200]))

    @rule(
        home=places,
        writes=st.lists(st.tuples(st.none() | places, keys, st.none() | values), max_size=30),
        by_hand=st.booleans(),
        durability=durabilities,
    )
    def batch_across(
        self,
        home: str,
        writes: list[tuple[str | None, bytes, bytes | None]],
        by_hand: bool,
        durability: str | None,
    ) -> None:
        writer, _ = self.place(home)
        made = lsmkit.WriteBatch() if by_hand else writer.batch(durability=durability)
        for name, key, value in writes:
            named: dict[str, Any] = {} if name is None else {"keyspace": self.place(name)[0]}
            if value is None:
                made.delete(key, **named)
            else:
                made.put(key, value, **named)
        if by_hand:
            writer.write(made, durability=durability)
        else:
            with made:
                pass
        for name, key, value in writes:
            model = self.place(home if name is None else name)[1]
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value

    @rule(name=names, key=keys, start=bounds, stop=bounds, reverse=st.booleans())
    def read_keyspace(
        self, name: str, key: bytes, start: bytes | None, stop: bytes | None, reverse: bool
    ) -> None:
        keyspace, model = self.place(name)
        assert keyspace.get(key) == model.get(key)
        assert keyspace.get_many([key, b"key005"]) == [model.get(key), model.get(b"key005")]
        expected = Sorted(model).range(start, stop)
        found = list(keyspace.scan(start, stop, reverse=reverse))
        assert found == (expected[::-1] if reverse else expected)

    @rule(name=names, pairs=pairs, singly=st.booleans())
    def merge_keyspace(self, name: str, pairs: list[tuple[bytes, bytes]], singly: bool) -> None:
        keyspace, model = self.place(name)
        if singly:
            for key, operand in pairs:
                keyspace.merge(key, operand)
        else:
            keyspace.merge_many([key for key, _ in pairs], [operand for _, operand in pairs])
        for key, operand in pairs:
            model[key] = model.get(key, b"") + operand

    @rule(name=names, start=bounds, stop=bounds)
    def delete_range_keyspace(self, name: str, start: bytes | None, stop: bytes | None) -> None:
        keyspace, model = self.place(name)
        keyspace.delete_range(start, stop)
        for key, _ in Sorted(model).range(start, stop):
            del model[key]

    @rule(
        home=places,
        steps=st.lists(
            st.tuples(st.sampled_from(["get", "put", "delete", "merge"]), places, keys, values),
            max_size=10,
        ),
        rival=st.none() | st.tuples(places, keys, values),
    )
    def transact_across(
        self,
        home: str,
        steps: list[tuple[str, str, bytes, bytes]],
        rival: tuple[str, bytes, bytes] | None,
    ) -> None:
        """Somebody else writes one key meanwhile: a conflict if, and only if, it was read."""
        t = self.place(home)[0].transaction()
        own: dict[str, dict[bytes, bytes]] = {}
        read: set[tuple[str, bytes]] = set()
        written: set[tuple[str, bytes]] = set()
        writes = []
        for kind, name, key, value in steps:
            keyspace, model = self.place(name)
            part, mine = t.keyspace(keyspace), own.setdefault(name, dict(model))
            if kind == "get" or (kind == "merge" and not name):
                assert part.get(key) == mine.get(key)
                if (name, key) not in written:
                    read.add((name, key))
                continue
            writes.append((kind, name, key, value))
            if kind == "put":
                part.put(key, value)
            elif kind == "delete":
                part.delete(key)
            else:
                part.merge(key, value)
            if kind != "merge":
                written.add((name, key))
            _change(mine, kind, key, value)
        if rival is not None:
            name, key, value = rival
            keyspace, model = self.place(name)
            keyspace.put(key, value)
            model[key] = value
            if writes and (name, key) in read:
                with pytest.raises(lsmkit.ConflictError):
                    t.commit()
                return
        t.commit()
        for kind, name, key, value in writes:
            _change(self.place(name)[1], kind, key, value)

    @rule(name=names, start=bounds, stop=bounds)
    def compact_keyspace(self, name: str, start: bytes | None, stop: bytes | None) -> None:
        self.place(name)[0].compact(start, stop)

    @rule(name=names)
    def drop_keyspace(self, name: str) -> None:
        if name not in self.spaces:
            with pytest.raises(KeyError):
                self.db.drop_keyspace(name)
            return
        keyspace = self.db.keyspace(name)
        self.db.drop_keyspace(name)
        del self.spaces[name]
        for _, then in self.moments:
            then.pop(name, None)
        assert keyspace.closed
        with pytest.raises(lsmkit.ClosedError):
            keyspace.get(b"a")
        with pytest.raises(lsmkit.ClosedError):
            keyspace.put(b"a", b"")

    @precondition(lambda self: len(self.moments) < 2)
    @rule()
    def take_moment(self) -> None:
        then = {name: Sorted(model) for name, model in {"": self.model, **self.spaces}.items()}
        self.moments.append((self.db.snapshot(), then))
        self.had_snapshot = True

    @precondition(lambda self: self.moments)
    @rule(data=st.data(), ends=st.booleans())
    def read_moment(self, data: st.DataObject, ends: bool) -> None:
        at = data.draw(st.integers(0, len(self.moments) - 1), label="moment")
        snapshot, then = self.moments[at]
        for name in {"", *self.spaces}:
            reader = snapshot.keyspace(name) if name else snapshot
            # What was made later, also in the place of one that was dropped, was empty then.
            assert list(reader.scan()) == (then[name].range(None, None) if name in then else [])
        if ends:
            snapshot.close()
            del self.moments[at]

    @rule(steps=st.integers(0, 30))
    def apply_changes(self, steps: int) -> None:
        """To the end, after some that were read by an iterator of their own."""
        try:
            if self.copied == 0 and self.may_be_lost:  # 0 is the beginning of what is kept
                raise lsmkit.ChangesLost("nothing was copied yet")
            for change in islice(self.db.changes(self.copied), steps):
                applied(self.copy, change)
                assert change.seq > self.copied
                self.copied = change.seq
            some = self.db.changes(self.copied)
            for change in some:
                applied(self.copy, change)
            self.copied = some.seq
        except lsmkit.ChangesLost:
            assert self.may_be_lost
            with self.db.snapshot() as snapshot:
                self.copy, self.copied = dict(snapshot.items()), snapshot.seq
            self.may_be_lost = not self.keeps_all
        assert self.copy == self.model

    # --- Background and files

    @rule()
    def flush(self) -> None:
        self.db.flush()

    @rule(start=bounds, stop=bounds)
    def compact(self, start: bytes | None, stop: bytes | None) -> None:
        self.db.compact(start, stop)

    @rule()
    def compact_all(self) -> None:
        self.db.compact()
        for name in self.spaces:
            self.db.keyspace(name).compact()
        assert self.db.wait_idle(60)
        # Versions that a snapshot has kept stay in the last level until it is merged again.
        if not self.had_snapshot:
            stats = self.db.stats()
            # Rows of different ages stay apart, and with them what newer ones have replaced.
            is_by_age = isinstance(self.db.options.compaction, (TimeWindow, Fifo))
            assert is_by_age or sum(level.tombstones for level in stats.levels) == 0
            rows = sum(level.rows for level in stats.levels)
            held = sum(map(len, (self.model, *self.spaces.values())))
            # An operand stays beside a value that has a deadline; positions are rows of a tree of
            # their own, which this has not merged.
            is_loose = self.had_operand or self.positions or is_by_age
            assert rows >= held if is_loose else rows == held

    @rule()
    def wait_idle(self) -> None:
        assert self.db.wait_idle(60)

    @rule()
    def sync(self) -> None:
        self.db.sync()

    @rule()
    def verify(self) -> None:
        report = self.db.verify()
        assert report.ok, report.errors

    # --- Beside the owner

    @rule(follow=st.booleans())
    def open_beside(self, follow: bool) -> None:
        self.close_beside()
        self.beside = lsmkit.open(
            self.path, read_only=True, follow=follow, merge_operator=self.operator
        )
        self.move_beside()

    def move_beside(self) -> None:
        assert self.beside is not None
        self.beside_at = Sorted(self.model)
        assert list(self.beside.items()) == self.beside_at.range(None, None)

    @precondition(lambda self: self.beside is not None)
    @rule()
    def refresh_beside(self) -> None:
        assert self.beside is not None
        moved = self.beside.refresh()
        assert moved or self.beside_at.pairs == self.model
        assert not self.beside.refresh()
        self.move_beside()

    @precondition(lambda self: self.beside is not None)
    @rule(keys=st.lists(keys, max_size=10), start=bounds, stop=bounds)
    def read_beside(self, keys: list[bytes], start: bytes | None, stop: bytes | None) -> None:
        assert self.beside is not None
        if self.beside._follows:
            self.beside_at = Sorted(self.model)
        then = self.beside_at
        assert [self.beside.get(key) for key in keys] == [then.pairs.get(key) for key in keys]
        assert self.beside.get_many(keys) == [then.pairs.get(key) for key in keys]
        assert list(self.beside.scan(start, stop)) == then.range(start, stop)

    @precondition(lambda self: self.beside is not None and len(self.beside_held) < 3)
    @rule()
    def hold_beside(self) -> None:
        assert self.beside is not None
        if self.beside._follows:
            self.beside_at = Sorted(self.model)
        self.beside_held.append((self.beside.snapshot(), self.beside_at))

    @precondition(lambda self: self.beside_held)
    @rule(keys=st.lists(keys, max_size=10), drop=st.booleans())
    def read_held_beside(self, keys: list[bytes], drop: bool) -> None:
        snapshot, then = self.beside_held[0]
        assert snapshot.get_many(keys) == [then.pairs.get(key) for key in keys]
        assert list(snapshot.items()) == then.range(None, None)
        if drop:
            snapshot.close()
            del self.beside_held[0]

    def close_beside(self) -> None:
        held, self.beside_held = self.beside_held, []
        for snapshot, then in held:
            assert list(snapshot.items()) == then.range(None, None)
        if self.beside is not None:
            assert self.beside.verify()
            self.beside.close()
        self.beside = None

    @rule()
    def read_keyspaces_beside(self) -> None:
        with lsmkit.open(self.path, read_only=True, merge_operator=self.operator) as reader:
            assert reader.keyspaces() == sorted(self.spaces)
            for name, model in self.spaces.items():
                assert list(reader.keyspace(name).items()) == sorted(model.items())

    @rule(onto=st.booleans(), write=st.booleans())
    def checkpoint(self, onto: bool, write: bool) -> None:
        """Over the one before, or a new one; which is looked at, and perhaps written to, so that
        it is no checkpoint any more."""
        copy = os.path.join(self.folder, "copy")
        if os.path.exists(copy) and not (onto and self.may_renew):
            lsmkit.destroy(copy)
        self.db.checkpoint(copy)
        self.may_renew = not write
        with lsmkit.open(copy, read_only=not write, merge_operator=self.operator) as made:
            assert list(made.items()) == sorted(self.model.items())
            assert made.verify().ok
            if write:
                made.clear()

    @rule(options=st.one_of(st.just({}), options), verify=st.booleans())
    def reopen(self, options: dict[str, Any], verify: bool) -> None:
        scans, snapshots, cursors = self.scans, self.snapshots, self.cursors
        self.scans, self.snapshots, self.cursors, self.moments = [], [], [], []
        transactions, self.transactions = self.transactions, []
        self.db.close()
        for t, _ in transactions:
            with pytest.raises(lsmkit.ClosedError):
                t.get(b"never asked for")
        for cursor, _, _ in cursors:
            with pytest.raises(lsmkit.ClosedError):
                cursor.seek_to_first()
        for scan, _ in scans:
            with pytest.raises(lsmkit.ClosedError):
                next(scan)
        for snapshot, _ in snapshots:
            with pytest.raises(lsmkit.ClosedError):
                snapshot.get(b"a")
        self.db = lsmkit.open(self.path, merge_operator=self.operator, **options)
        self.keeps_log(options)
        assert self.db.stats().recovery.records == 0
        if verify:
            self.verify()

    # --- Always

    @invariant()
    def length(self) -> None:
        if hasattr(self, "db"):
            assert len(self.db) == len(self.model)

    def teardown(self) -> None:
        try:
            if hasattr(self, "db"):
                assert list(self.db.items()) == sorted(self.model.items())
                for which in range(len(self.cursors)):
                    self.check_cursor(which)
                assert self.db.keyspaces() == sorted(self.spaces)
                for name, model in self.spaces.items():
                    assert list(self.db.keyspace(name).items()) == sorted(model.items())
                for snapshot, then in self.snapshots:
                    assert list(snapshot.items()) == then.range(None, None)
                assert self.db.stats().background_errors == 0, self.db.stats().last_error
                self.verify()
                self.close_beside()
        finally:
            if self.beside is not None:
                self.beside.close()
            if hasattr(self, "db"):
                self.db.close()
            shutil.rmtree(self.folder)


def column_of(rows: list[bytes], form: str) -> Any:
    if form == "list":
        return list(rows)
    if form == "tuple":
        return tuple(rows)
    ends = [0]
    for row in rows:
        ends.append(ends[-1] + len(row))
    from array import array

    return b"".join(rows), array("q", ends)


@pytest.mark.timeout(0 if settings.default.max_examples > 1000 else 300)
def test_a_store_is_a_sorted_dict() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=8 * settings.default.max_examples,
            stateful_step_count=30,
            suppress_health_check=list(HealthCheck),
        ),
    )
