"""A queue: rows are appended at the tail, and read and deleted at the head, 100 at a time.

Ten times plyvel, and as fast at the end as at the start: dead rows at the head are what a
log-structured store has to walk over. Once the reader begins where it left off, which is what a
careful program does, and once it begins at the first key each time.
"""

from __future__ import annotations

import time

import pytest

from bench import workloads as w

DEPTH = 10_000
STEP = 100
STEPS = w.rows(10_000, multiple=100)
SECONDS_MAX = w.seconds(1.0)


@pytest.mark.parametrize("remembers", [True, False], ids=["remembered", "from the start"])
def test_queue(compete, place, report, remembers):
    total = DEPTH + STEPS * STEP
    keys, values = w.counted_keys(total), w.values(min(total, 1_000_000))
    pieces = w.chunks(keys, values, STEP)
    speeds = []

    def work(store):
        for piece in pieces[: DEPTH // STEP]:
            store.put_many(*piece)
        spent = []
        done = queue(store, pieces[DEPTH // STEP :], remembers, spent)
        if store.name == "lsmkit":
            fifth = max(len(spent) // 5, 1)
            speeds.append((sum(spent[:fifth]), sum(spent[-fifth:])))
        return done

    samples = compete(place.fresh(work))
    name = "from its last key" if remembers else "from the first key"
    report.race(f"queue, read {name}", samples, 10, against=["plyvel"])
    slower = sorted(end / start for start, end in speeds)[len(speeds) // 2]
    report.limit("  time at the end to that at the start", slower, 1.1, "x")


def queue(store, pieces, remembers, spent):
    """Rows a second that went through; the time of each step goes to `spent`."""
    put, delete, scan, first = store.put, store.delete, store.scan, w.first
    now = time.perf_counter
    head = None
    begin = last = now()
    for keys, values in pieces:
        for key, value in zip(keys, values, strict=True):
            put(key, value)
        found = first(scan(head) if remembers else scan(), STEP)
        for key, _ in found:
            delete(key)
        assert len(found) == STEP
        head = found[-1][0]
        time_now = now()
        spent.append(time_now - last)
        last = time_now
        if last - begin > SECONDS_MAX:
            break
    return len(spent) * STEP / (last - begin)
