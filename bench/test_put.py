"""A put by itself: eight times the best LSM peer with random keys, four times with sorted ones.

Two million rows in a new store, so that several segments are flushed while the clock runs.
"""

from __future__ import annotations

from bench import workloads as w
from bench.engines import LSM_PEERS

ROWS = w.rows(2_000_000, multiple=10_000)
SECONDS_MAX = w.seconds(1.2)


def test_put_random(compete, place, report):
    pieces = w.chunks(w.keys(ROWS), w.values(min(ROWS, 1_000_000)), 10_000)
    samples = compete(
        place.fresh(lambda store: w.rate(w.putter(store.put), pieces, SECONDS_MAX, 10_000))
    )
    report.race("put, random keys", samples, 8, against=LSM_PEERS)


def test_put_sequential(compete, place, report):
    pieces = w.chunks(w.counted_keys(ROWS), w.values(min(ROWS, 1_000_000)), 10_000)
    samples = compete(
        place.fresh(lambda store: w.rate(w.putter(store.put), pieces, SECONDS_MAX, 10_000))
    )
    report.race("put, sequential keys", samples, 4, against=LSM_PEERS)
