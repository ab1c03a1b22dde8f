"""A batch of a thousand rows: eight times the best peer's batch as lists in one call, three times
row by row in `with db.batch()`."""

from __future__ import annotations

from bench import workloads as w

ROWS = w.rows(2_000_000)
SECONDS_MAX = w.seconds(1.2)


def test_put_many(compete, place, report):
    pieces = w.chunks(w.keys(ROWS), w.values(min(ROWS, 1_000_000)), 1000)

    def many(store):
        return w.rate(w.batcher(store.put_many), pieces, SECONDS_MAX, 1000)

    def batch(store):
        return w.rate(w.batcher(store.batch), pieces, SECONDS_MAX, 1000)

    turns = place.fresh(many)
    turns["batch()"] = place.fresh(batch, only=["lsmkit"])["lsmkit"]
    samples = compete(turns)
    report.race("put_many, lists of 1000", samples, 8)
    report.race("with db.batch() of 1000", samples, 3, ours="batch()")
