"""Claim: any number of threads may use one store, each sees only what can be true at that moment,
and the store may be closed in the middle of it all.

Method: threads write, read, scan both ways, take snapshots, flush and compact for some seconds.
Every read is checked: a counter lies between the last that was acknowledged before the read and
the last that was begun after it, a group that is written at once is there whole and of one round,
a snapshot does not move, keys are in order. At the end the store is opened again and checked.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import lsmkit

OPTIONS: dict[str, Any] = {
    "segment_bytes": 256 << 10,
    "block_bytes": 1024,
    "table_bytes": 128 << 10,
    "cache_bytes": 256 << 10,
}
FILLING = 40  # bytes behind each counter, so that segments fill up
GROUP = 40
WRITERS = 2
COUNTERS = 30


def value_of(counter: int) -> bytes:
    return counter.to_bytes(8, "big") + bytes(FILLING)


def counter_of(value: bytes | None) -> int:
    return -1 if value is None else int.from_bytes(value[:8], "big")


def group_keys(name: str) -> list[bytes]:
    return [f"group:{name}:{i:03}".encode() for i in range(GROUP)]


class Counters:
    """Keys of one writer with a counter each: what was begun, and what was acknowledged."""

    def __init__(self, name: str) -> None:
        self.keys = [f"counter:{name}:{i:03}".encode() for i in range(COUNTERS)]
        self.begun = [-1] * COUNTERS
        self.done = [-1] * COUNTERS

    def write(self, db: lsmkit.DB, i: int, **how: Any) -> None:
        self.begun[i] += 1
        if self.begun[i] % 7 == 3:
            db[self.keys[i]] = value_of(self.begun[i])
        else:
            db.put(self.keys[i], value_of(self.begun[i]), **how)
        self.done[i] = self.begun[i]

    def check(self, i: int, read: Callable[[bytes], bytes | None]) -> None:
        low = self.done[i]
        found = counter_of(read(self.keys[i]))
        assert low <= found <= self.begun[i], self.keys[i]


class Crowd:
    """Threads that do one thing each, again and again, until they are stopped or one fails."""

    def __init__(self, db: lsmkit.DB) -> None:
        self.db = db
        self.counters = [Counters(str(n)) for n in range(WRITERS)]
        self.rounds = dict.fromkeys(("batch", "write", "lists", "columns"), 0)
        self.queue_ends = [0, 0]
        self.stopped = threading.Event()
        self.errors: list[BaseException] = []
        self.turns: dict[str, int] = {}
        self.threads: list[threading.Thread] = []
        db[b"queue:%08d" % 0] = value_of(0)
        for name, round_no in self.rounds.items():
            db.put_many(group_keys(name), [value_of(round_no)] * GROUP)

    def start(self, what: Iterable[Callable[[random.Random], None]], seed: int) -> None:
        for n, work in enumerate(what):
            args = (work, f"{work.__name__} {n}", random.Random(seed + n))
            self.threads.append(
                threading.Thread(target=self.run, args=args, name=args[1], daemon=True)
            )
        for thread in self.threads:
            thread.start()

    def run(self, work: Callable[[random.Random], None], name: str, rng: random.Random) -> None:
        self.turns[name] = 0
        while not self.stopped.is_set():
            try:
                work(rng)
            except BaseException as error:
                self.errors.append(error)
                if not isinstance(error, lsmkit.ClosedError):
                    self.stopped.set()
                return
            self.turns[name] += 1

    def join(self) -> None:
        until = time.monotonic() + 30
        for thread in self.threads:
            thread.join(max(until - time.monotonic(), 0))
        self.stopped.set()
        assert [thread.name for thread in self.threads if thread.is_alive()] == []

    # --- Writers.

    def put_0(self, rng: random.Random) -> None:
        self.counters[0].write(self.db, rng.randrange(COUNTERS))

    def put_1(self, rng: random.Random) -> None:
        durability = rng.choice([None, None, None, "periodic", "sync"])
        self.counters[1].write(self.db, rng.randrange(COUNTERS), durability=durability, timeout=60)

    def batch(self, rng: random.Random) -> None:
        value = value_of(self.rounds["batch"] + 1)
        with self.db.batch() as b:
            for key in group_keys("batch"):
                b.delete(key)
                b.put(key, value)
        self.rounds["batch"] += 1

    def write(self, rng: random.Random) -> None:
        value = value_of(self.rounds["write"] + 1)
        batch = lsmkit.WriteBatch()
        for key in reversed(group_keys("write")):
            batch.put(key, value)
        self.db.write(batch, durability=rng.choice([None, "sync"]))
        self.rounds["write"] += 1

    def lists(self, rng: random.Random) -> None:
        self.db.put_many(group_keys("lists"), [value_of(self.rounds["lists"] + 1)] * GROUP)
        self.rounds["lists"] += 1

    def columns(self, rng: random.Random) -> None:
        value = value_of(self.rounds["columns"] + 1)
        keys = b"".join(group_keys("columns"))
        rows = memoryview(keys).cast("B", (GROUP, len(keys) // GROUP))
        values = memoryview(value * GROUP).cast("B", (GROUP, len(value)))
        self.db.put_many(rows, values)  # type: ignore[arg-type]
        self.rounds["columns"] += 1

    def queue(self, rng: random.Random) -> None:
        """One row moves on: there is always exactly one."""
        head = self.queue_ends[0]
        with self.db.batch() as b:
            b.delete(b"queue:%08d" % head)
            b.put(b"queue:%08d" % (head + 1), value_of(head + 1))
        self.queue_ends[0] = head + 1

    # --- Readers.

    def get(self, rng: random.Random) -> None:
        counters = rng.choice(self.counters)
        for i in rng.sample(range(COUNTERS), 10):
            counters.check(i, self.db.get)

    def get_many(self, rng: random.Random) -> None:
        name = rng.choice([*self.rounds])
        low = self.rounds[name]
        self.check_group(name, low, self.db.get_many(group_keys(name)))

    def check_group(self, name: str, low: int, values: Iterable[bytes | None]) -> None:
        found = {counter_of(value) for value in values}
        assert len(found) == 1, f"{name} is of rounds {sorted(found)}"
        assert low <= found.pop() <= self.rounds[name] + 1, name

    def scan(self, rng: random.Random) -> None:
        reverse = rng.random() < 0.5
        low = dict(self.rounds)
        self.check_rows(list(self.db.scan(reverse=reverse)), low, reverse)
        queue = list(self.db.scan_keys(prefix=b"queue:", reverse=reverse))
        assert len(queue) == 1, queue

    def check_rows(self, rows: list[tuple[bytes, bytes]], low: dict[str, int], back: bool) -> None:
        keys = [key for key, _ in rows]
        assert keys == sorted(set(keys), reverse=back)
        found = dict(rows)
        for name in low:
            self.check_group(name, low[name], [found.get(key) for key in group_keys(name)])
        assert sum(key.startswith(b"queue:") for key in keys) == 1

    def scan_columns(self, rng: random.Random) -> None:
        low = dict(self.rounds)
        rows: list[tuple[bytes, bytes]] = []
        for part in self.db.scan_columns(rows=rng.randrange(1, 200)):
            rows.extend(zip(part.keys, part.values, strict=True))  # type: ignore[arg-type]
        self.check_rows(rows, low, False)

    def snapshot(self, rng: random.Random) -> None:
        low = dict(self.rounds)
        counters = rng.choice(self.counters)
        done = list(counters.done)
        with self.db.snapshot() as snapshot:
            begun = list(counters.begun)
            rows = list(snapshot.items())
            self.check_rows(rows, low, False)
            assert rows == list(snapshot.scan(reverse=True))[::-1]
            assert len(snapshot) == len(rows)
            for i, value in enumerate(snapshot.get_many(counters.keys)):
                assert done[i] <= counter_of(value) <= begun[i]
            for key, value in rng.sample(rows, 20):
                assert snapshot[key] == value
            assert list(snapshot.scan()) == rows

    # --- The background.

    def flush(self, rng: random.Random) -> None:
        self.stopped.wait(rng.random() * 0.05)
        self.db.flush()

    def compact(self, rng: random.Random) -> None:
        self.stopped.wait(rng.random() * 0.1)
        start, stop = sorted([rng.randbytes(1), rng.randbytes(1)])
        self.db.compact(start, stop) if rng.random() < 0.5 else self.db.compact()

    def look(self, rng: random.Random) -> None:
        self.stopped.wait(0.02)
        assert self.db.verify().errors == ()
        stats = self.db.stats()
        assert (stats.background_errors, stats.last_error) == (0, "")
        assert self.db.approximate_size() >= 0
        assert 0 <= self.db.pressure <= 1
        self.db.sync()

    # --- Afterwards.

    def check_end(self, db: lsmkit.DB) -> None:
        """What must be there when nobody writes any more."""
        for counters in self.counters:
            for i in range(COUNTERS):
                counters.check(i, db.get)
        self.check_rows(list(db.items()), self.rounds, False)
        assert [counter_of(x) - self.queue_ends[0] for x in db.scan_values(prefix=b"queue")] in (
            [0],
            [1],
        )
        assert db.verify().errors == ()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """The interpreter changes threads more often, so that more orders of events are seen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0002)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_reads_are_true_whatever_others_do(
    store_path: str, rng: random.Random, log_io: str
) -> None:
    with lsmkit.open(store_path, log_io=log_io, **OPTIONS) as db:
        crowd = Crowd(db)
        c = crowd
        writers = [c.put_0, c.put_1, c.batch, c.write, c.lists, c.columns, c.queue]
        readers = [c.get, c.get, c.get_many, c.scan, c.scan, c.scan_columns, c.snapshot, c.snapshot]
        crowd.start([*writers, *readers, c.flush, c.compact, c.look], rng.randrange(1 << 30))
        crowd.stopped.wait(2.0)
        crowd.stopped.set()
        crowd.join()
        assert crowd.errors == []
        assert min(crowd.turns.values()) > 0, "every thread had its turn"
        stats = db.stats()
        assert stats.flushes.count > 1
        assert stats.compactions.merges > 0
        crowd.check_end(db)
    with lsmkit.open(store_path) as db:
        crowd.check_end(db)


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.3])
def test_closing_in_the_middle_of_it_all(store_path: str, rng: random.Random, after: float) -> None:
    db = lsmkit.open(store_path, **OPTIONS)
    crowd = Crowd(db)
    c = crowd
    writers = [c.put_0, c.put_1, c.batch, c.write, c.lists, c.columns, c.queue]
    readers = [c.get, c.get_many, c.scan, c.scan_columns, c.snapshot]
    crowd.start([*writers, *readers, c.flush, c.compact, c.look], rng.randrange(1 << 30))
    crowd.stopped.wait(after)
    db.close()
    crowd.join()
    assert {type(error) for error in crowd.errors} == {lsmkit.ClosedError}, crowd.errors
    assert len(crowd.errors) == len(crowd.threads), "each was told"
    with lsmkit.open(store_path) as db:
        crowd.check_end(db)


@pytest.mark.usefixtures("eager_threads")
def test_closing_by_many_at_once(store_path: str) -> None:
    db = lsmkit.open(store_path, **OPTIONS)
    db.put_many(group_keys("x"), group_keys("x"))
    errors: list[BaseException] = []
    gate = threading.Barrier(8)

    def close() -> None:
        try:
            gate.wait(10)
            db.close()
            assert db.closed
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    with lsmkit.open(store_path) as db:
        assert list(db) == group_keys("x")


def read_together(scan: Iterator[lsmkit.Columns]) -> tuple[list[bytes], int]:
    """The keys that four threads got of one iterator, and how often one was refused."""
    taken: list[list[bytes | None]] = [[] for _ in range(4)]
    refused = [0] * 4
    errors: list[BaseException] = []
    gate = threading.Barrier(4)

    def take(n: int) -> None:
        gate.wait(10)
        while not errors:
            try:
                taken[n].extend(next(scan).keys)
            except StopIteration:
                return
            except RuntimeError as error:
                refused[n] += 1
                if "another thread" not in str(error) or refused[n] > 1_000_000:
                    errors.append(error)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=take, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    return sorted([key or b"" for mine in taken for key in mine]), sum(refused)


@pytest.mark.usefixtures("eager_threads")
def test_an_iterator_read_by_several_threads_gives_no_row_twice(store_path: str) -> None:
    """Whoever comes while another is inside is refused, as by a generator."""
    keys = [b"%06d" % i for i in range(20_000)]
    with lsmkit.open(store_path, cache_bytes=0, block_bytes=64 << 10) as db:
        db.put_many(keys, keys)
        db.flush()
        met = 0
        for _ in range(100):
            got, refused = read_together(db.scan_columns(rows=500))
            assert got == keys
            met += refused
            if met:
                break
        assert met > 0, "no thread has met another inside"
