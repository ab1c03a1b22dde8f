"""Reading in key order: all pairs, ranges of a hundred, and all of it as columns.

A million rows in tables, all in the cache; rates are rows a second.
"""

from __future__ import annotations

import time

import pytest

from bench import workloads as w

RANGES = w.rows(20_000)
SECONDS_MAX = w.seconds(0.6)


@pytest.fixture(scope="module", autouse=True)
def _warm(million):
    million.warm()


def all_pairs(store, count):
    start = time.perf_counter()
    w.drain(store.scan())
    return count / (time.perf_counter() - start)


def test_scan(compete, million, report):
    count = len(million.keys)
    for store in million.stores.values():
        assert sum(1 for _ in store.scan()) == count
    samples = compete(million.turns(lambda store: all_pairs(store, count)))
    report.race("scan of all pairs", samples, 1.3, against=["lmdb"])


def test_scan_ranges(compete, million, report):
    starts = w.drawn(w.key_array(len(million.keys)), w.uniform(RANGES, len(million.keys)))
    ordered = sorted(million.keys)
    for store in million.stores.values():
        found = [key for key, _ in w.first(store.scan(ordered[5]), 100)]
        assert found == ordered[5:105]

    def work(store):
        scan, first = store.scan, w.first
        return w.rate(lambda start: first(scan(start), 100), starts, SECONDS_MAX, 100)

    samples = compete(million.turns(work))
    report.race("scans of 100 pairs", samples, 1.1, against=["lmdb"])


def test_scan_columns(compete, million, report):
    count = len(million.keys)
    turns = million.turns(lambda store: all_pairs(store, count))
    db = million.stores["lsmkit"].db

    def columns():
        start = time.perf_counter()
        found = sum(map(len, db.scan_columns()))
        took = time.perf_counter() - start
        assert found == count
        return count / took

    turns["lsmkit"] = columns
    samples = compete(turns)
    report.race("scan_columns, peers' iterators", samples, 15)
