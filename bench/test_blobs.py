"""Large values, which stand apart from their tables: those of 64 KiB written at LMDB's rate at
least, those of 4 KiB at twice it, and each written to tables or beside them once.

LMDB puts a value that is longer than a page into pages of its own and never moves it, so it is
the one to beat. Values are random bytes: nobody can save anything by compressing.
"""

from __future__ import annotations

import numpy as np
import pytest

from bench import workloads as w
from bench.engines import Lsmkit

BYTES = w.rows(1_000_000_000, multiple=1 << 20)
SECONDS_MAX = w.seconds(2)
DISTINCT = 64


def large_values(size: int) -> list[bytes]:
    rng = np.random.default_rng([w.SEED, 4, size])
    return [rng.bytes(size) for _ in range(DISTINCT)]


@pytest.mark.parametrize(("size", "target"), [(64 << 10, 1), (4 << 10, 2)])
def test_put_large(compete, place, report, size, target):
    pieces = w.chunks(w.keys(BYTES // size // DISTINCT * DISTINCT), large_values(size), DISTINCT)
    samples = compete(
        place.fresh(lambda store: w.rate(w.putter(store.put), pieces, SECONDS_MAX, DISTINCT))
    )
    report.race(f"put, values of {size >> 10} KiB", samples, target, against=["lmdb"])


def test_large_values_are_written_once(benchmark, place, report):
    """Bytes of tables and of files of values, for each that came in, with all compaction done."""
    size = 64 << 10
    count = BYTES // size // DISTINCT * DISTINCT
    pieces = w.chunks(w.keys(count), large_values(size), DISTINCT)
    found = []

    def run():
        with place.store(Lsmkit) as store:
            for piece in pieces:
                store.put_many(*piece)
            store.rest()
            stats = store.db.stats()
            written = stats.flushes.bytes + stats.compactions.bytes_out
            found.append(written / (count * (size + w.KEY_BYTES)))

    benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.extra_info["amplification"] = found[0]
    report.limit("large values, bytes beside the log for each", found[0], 1.2, "x")
