"""Arrays go in without an object a row: five times rocksdict's batch, twice its sorted bulk path,
and eight times the best peer's batch where rows are 8 and 8 bytes.

Sustained: the mean over several segments with flush and compaction running. Peers get rows that
are `bytes` already, and the bulk path gets rows that are sorted already: neither is in their time.
"""

from __future__ import annotations

import os
import time

import numpy as np

from bench import workloads as w
from bench.engines import BY_NAME

CALL = 10_000
ROWS = w.rows(3_000_000, multiple=CALL)
SMALL_ROWS = w.rows(6_000_000, multiple=CALL)
TABLE_ROWS = 500_000
SECONDS_MAX = w.seconds(1.5)


def pieces_of_arrays(keys, values):
    return [(keys[i : i + CALL], values[i : i + CALL]) for i in range(0, len(keys), CALL)]


def race_of_batches(place, arrays, lists):
    """Arrays for lsmkit, lists of the same rows for the others."""

    def work(store):
        pieces = arrays if store.name == "lsmkit" else lists
        return w.rate(w.batcher(store.put_many), pieces, SECONDS_MAX, CALL)

    return place.fresh(work)


def test_columns_of_numpy(compete, place, report):
    keys, values = w.key_array(ROWS), w.value_array(ROWS)
    lists = w.chunks(w.keys(ROWS), w.values(min(ROWS, 1_000_000)), CALL)
    turns = race_of_batches(place, pieces_of_arrays(keys, values), lists)
    if "rocksdict" in BY_NAME:
        tables = sorted_tables(keys, values)
        turns["bulk"] = lambda: bulk(place, tables)
    samples = compete(turns)
    report.race("put_many, arrays of 10,000", samples, 5, against=["rocksdict"])
    report.race("  beside rocksdict's bulk path", samples, 2, against=["bulk"])
    if "bulk" in samples:
        rate = np.median(samples["bulk"])
        report.note(f"rocksdict's sorted bulk path (SstFileWriter, ingest): {rate / 1e6:.2f} M/s")


def sorted_tables(keys, values):
    """All rows in key order, in pieces of a table each."""
    halves = keys.view(">u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return w.chunks(w.drawn(keys, order), w.drawn(values, order), min(TABLE_ROWS, ROWS))


def bulk(place, tables):
    """Rows a second of sorted tables, written and taken in."""
    with place.store(BY_NAME["rocksdict"]) as store:
        done = 0
        start = time.perf_counter()
        for piece in tables:
            store.ingest(*piece, os.path.join(store.path, "bulk.sst"))
            done += len(piece[0])
            if time.perf_counter() - start > SECONDS_MAX:
                break
        return done / (time.perf_counter() - start)


def test_columns_of_small_rows(compete, place, report):
    rng = np.random.default_rng(w.SEED)
    keys = rng.integers(0, 1 << 63, SMALL_ROWS)
    values = rng.integers(0, 1 << 63, SMALL_ROWS)
    few = min(SMALL_ROWS, w.rows(3_000_000, multiple=CALL))
    lists = w.chunks(
        w.as_list(keys[:few].astype(">i8").view(np.uint8).reshape(-1, 8)),
        w.as_list(values[:few].view(np.uint8).reshape(-1, 8)),
        CALL,
    )
    samples = compete(race_of_batches(place, pieces_of_arrays(keys, values), lists))
    report.race("put_many, arrays, 8 + 8 bytes", samples, 8)
