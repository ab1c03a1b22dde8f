"""Commits that survive power loss: the disk decides for one row, and batches share its price.

A new store's files get their blocks in its first moments, so those are not counted for anybody.
"""

from __future__ import annotations

import pytest

from bench import workloads as w

SECONDS_MAX = w.seconds(0.4)
UNCOUNTED_SECONDS = 0.2


@pytest.mark.parametrize(("size", "target"), [(1, 1.3), (100, 2.5), (1000, 5)])
def test_sync(compete, place, report, size, target):
    commits = max(20_000 // size, 1000)
    count = commits * size
    uncounted = commits // 3
    pieces = w.chunks(w.keys(count), w.values(min(count, 100_000)), size)

    def work(store):
        do = w.putter(store.put) if size == 1 else w.batcher(store.put_many)
        w.rate(do, pieces[:uncounted], UNCOUNTED_SECONDS, 1)
        return w.rate(do, pieces[uncounted:], SECONDS_MAX, 1)

    samples = compete(place.fresh(work, durability="sync"))
    report.race(f"synced commits of {size}", samples, target)
