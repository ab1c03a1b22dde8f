"""Counting: a million increments of a hundred thousand counters, some far more often than others.

`merge_many` at once: eight times the best peer, which gets and puts each in one transaction. A
`merge` a call: eight times LevelDB's get and put. Counters have 8 bytes, and none is there at
first.
"""

from __future__ import annotations

import struct
import time
from functools import partial

import numpy as np

from bench import workloads as w
from bench.engines import BY_NAME, PEERS, Lsmkit

COUNTERS = w.rows(100_000)
INCREMENTS = w.rows(1_000_000)
CALLS = w.rows(1_000_000)
SECONDS_MAX = w.seconds(1.2)
NUMBER = struct.Struct("<q")


class Counting(Lsmkit):
    def open(self, path, sync, memory):
        from lsmkit import merge

        self.options = {"merge_operator": merge.AddInt64()}
        super().open(path, sync, memory)


def bump_all(get, put, keys):
    """What a program does to a store that cannot merge."""
    unpack, pack = NUMBER.unpack, NUMBER.pack
    for key in keys:
        found = get(key)
        put(key, pack(1 if found is None else unpack(found)[0] + 1))


def bump_in_one_transaction(store, keys):
    if store.name == "lmdb":
        with store.env.begin(write=True) as transaction:
            bump_all(transaction.get, transaction.put, keys)
    elif store.name == "sqlite3":
        store.db.execute("BEGIN")
        bump_all(store.get, store.put, keys)
        store.db.execute("COMMIT")
    else:
        bump_all(store.get, store.put, keys)  # LSM peers read nothing of an open batch


def in_a_new_store(place, engine, work):
    with place.store(engine) as store:
        return work(store)


def once(work, store):
    """Increments a second of `work`, which makes all of them."""
    start = time.perf_counter()
    work(store)
    return INCREMENTS / (time.perf_counter() - start)


def counters(count):
    """Keys in the order in which they are counted, as an array and as objects."""
    drawn = w.key_array(COUNTERS)[w.zipfian(count, COUNTERS)]
    return np.ascontiguousarray(drawn), w.as_list(drawn)


def test_merge_many(compete, place, report):
    array, keys = counters(INCREMENTS)
    operands = [NUMBER.pack(1)] * INCREMENTS
    ones = np.ones(INCREMENTS, "i8")
    turns = {
        name: partial(in_a_new_store, place, engine, partial(once, work))
        for name, engine, work in (
            ("lsmkit", Counting, lambda store: store.db.merge_many(keys, operands)),
            ("arrays", Counting, lambda store: store.db.merge_many(array, ones)),
            *(
                (peer, BY_NAME[peer], lambda store: bump_in_one_transaction(store, keys))
                for peer in PEERS
                if peer in BY_NAME
            ),
        )
    }
    samples = compete(turns)
    report.race("merge_many, a million, lists", samples, 8)
    report.race("  the same as arrays", samples, 8, ours="arrays")


def test_merge(compete, place, report):
    _, keys = counters(CALLS)
    pieces = [keys[i : i + 1000] for i in range(0, CALLS, 1000)]

    def merge(store):
        call, one = store.db.merge, NUMBER.pack(1)

        def work(piece):
            for key in piece:
                call(key, one)

        return w.rate(work, pieces, SECONDS_MAX, 1000)

    def get_and_put(store):
        return w.rate(partial(bump_all, store.get, store.put), pieces, SECONDS_MAX, 1000)

    turns = place.fresh(get_and_put, only=["plyvel", "rocksdict", "lmdb"])
    turns["lsmkit"] = partial(in_a_new_store, place, Counting, merge)
    samples = compete(turns)
    report.race("merge, one a call", samples, 8, against=["plyvel"])
