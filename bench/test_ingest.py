"""Rows that are there at once, as arrays: straight into tables, beside the same through the log.

Sustained, so the clock runs until flush and compaction have nothing left to do. rocksdict's bulk
path gets rows that are sorted already, and `bytes`; sorting them is not in its time.
"""

from __future__ import annotations

import os
import time

import numpy as np

from bench import workloads as w
from bench.engines import BY_NAME

ROWS = w.rows(2_000_000, multiple=10_000)
CALL = 50_000


def settled(store, work):
    """Rows a second, until the store is at rest."""
    start = time.perf_counter()
    work(store)
    store.db.flush()
    store.db.wait_idle()
    return ROWS / (time.perf_counter() - start)


def test_ingest(compete, place, report):
    keys, values = w.key_array(ROWS), w.value_array(ROWS)
    halves = keys.view(">u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    in_order = keys[order], values[order]

    def many(store):
        for i in range(0, ROWS, CALL):
            store.put_many(keys[i : i + CALL], values[i : i + CALL])

    def turn(work):
        return place.fresh(lambda store: settled(store, work), only=["lsmkit"])["lsmkit"]

    turns = {
        "put_many": turn(many),
        "ingest": turn(lambda store: store.db.ingest(keys, values)),
        "sorted": turn(lambda store: store.db.ingest(*in_order)),
    }
    if "rocksdict" in BY_NAME:
        tables = w.chunks(w.drawn(keys, order), w.drawn(values, order), min(500_000, ROWS))
        turns["bulk"] = lambda: bulk(place, tables)
    samples = compete(turns)
    report.race("ingest, settled", samples, 1, ours="ingest", against=["put_many"])
    report.race("ingest of sorted rows", samples, 2, ours="sorted", against=["put_many"])
    report.race("  beside rocksdict's bulk path", samples, 1, ours="sorted", against=["bulk"])


def bulk(place, tables):
    with place.store(BY_NAME["rocksdict"]) as store:
        start = time.perf_counter()
        for i, piece in enumerate(tables):
            store.ingest(*piece, os.path.join(store.path, f"bulk{i}.sst"))
        return ROWS / (time.perf_counter() - start)
