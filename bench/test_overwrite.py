"""Keys that are there already, written again: what compaction has to keep up with.

In batches, among a million keys: eight times the best peer. One by one, among two million keys with
32 MiB of cache, half a minute without a pause: four times rocksdict, 99.9 % of the calls under
30 µs, none over 20 ms, and no more bytes written to the disk for each byte that came in.
"""

from __future__ import annotations

import os
import time
from array import array
from itertools import cycle

import numpy as np
import pytest

from bench import workloads as w
from bench.engines import ENGINES, MIB, Memory
from bench.race import at_rest

SUSTAINED_SECONDS = w.seconds(30)
SUSTAINED_KEYS = w.rows(2_000_000, multiple=10_000)
DRAWS = w.rows(4_000_000, multiple=50_000)
MEMORY = Memory(cache_bytes=32 * MIB)


def test_overwrite_batches(compete, changing, report):
    count = len(changing.keys)
    draws = w.rows(2_000_000)
    keys = w.drawn(w.key_array(count), w.uniform(draws, count))
    pieces = w.chunks(keys, w.values(count, 1), 1000)
    samples = compete(
        changing.turns(lambda s: w.rate(w.batcher(s.put_many), pieces, w.seconds(1.2), 1000))
    )
    report.race("overwrites in batches of 1000", samples, 8)


def test_overwrite_sustained(benchmark, place, report):
    """One run an engine, not five: a pause between rounds is what this must not have."""
    order = w.uniform(DRAWS, SUSTAINED_KEYS)
    pieces = w.chunks(
        w.drawn(w.key_array(SUSTAINED_KEYS), order),
        w.values(w.rows(1_000_000, multiple=50_000), 1),
        50_000,
    )
    load = w.sorted_chunks(w.keys(SUSTAINED_KEYS), w.values(SUSTAINED_KEYS), 10_000)
    found = {}

    def run():
        for engine in ENGINES:
            with place.store(engine, memory=MEMORY) as store:
                for piece in load:
                    store.put_many(*piece)
                store.rest()
                at_rest()
                found[engine.name] = sustained(store, pieces)

    benchmark.pedantic(run, rounds=1, iterations=1)
    benchmark.extra_info.update(found)
    tell(report, found)


def sustained(store, pieces):
    """Rate, latencies in µs, and amplification of puts without a pause."""
    before, said_before = disk_bytes(), store.written_bytes()
    stamps = []
    start = time.perf_counter()
    for piece in cycle(pieces):
        stamps.append(timed_puts(store.put, piece))
        if time.perf_counter() - start > SUSTAINED_SECONDS:
            break
    took = time.perf_counter() - start
    at_rest()  # what is owed by now belongs to these puts
    after, said_after = disk_bytes(), store.written_bytes()
    calls = sum(len(piece) - 1 for piece in stamps)
    came = calls * w.ROW_BYTES
    result = {"rate": calls / took, **percentiles(stamps)}
    if before is not None and after is not None:
        result["amplification"] = (after - before) / came
    if said_before is not None and said_after is not None:
        result["amplification, told"] = (said_after - said_before) / came
    if store.name == "lsmkit":
        result["stats"] = str(store.db.stats())
    return result


def timed_puts(put, piece):
    """The time after each put, in ns, begun with the time before the first."""
    stamps = array("q")
    now, note = time.perf_counter_ns, stamps.append
    note(now())
    for key, value in zip(*piece, strict=True):
        put(key, value)
        note(now())
    return stamps


def percentiles(stamps):
    spent = np.concatenate([np.diff(np.frombuffer(piece, np.int64)) for piece in stamps])
    places = [int((len(spent) - 1) * share) for share in (0.5, 0.99, 0.999, 1)]
    spent.partition(places)
    names = ("p50", "p99", "p99.9", "max")
    return {name: float(spent[i]) / 1000 for name, i in zip(names, places, strict=True)}


def disk_bytes():
    """Bytes that this process has made the disk write, where the system counts them (Linux). A page
    that is dirtied through a map counts as one that is written by a call."""
    if not os.path.exists("/proc/self/io"):
        return None
    with open("/proc/self/io", encoding="ascii") as file:
        counts = dict(line.split(": ") for line in file.read().splitlines())
    return int(counts["write_bytes"]) - int(counts["cancelled_write_bytes"])


def tell(report, found):
    length = f"{SUSTAINED_SECONDS:g} s"
    rates = {name: [each["rate"]] for name, each in found.items()}
    report.race(f"{length} of overwrites, one by one", rates, 4, against=["rocksdict"])

    def limit(work, what, most, unit, factor=1.0):
        figures = {n: each[what] * factor for n, each in found.items() if what in each}
        if "lsmkit" in figures:
            report.limit(work, figures.pop("lsmkit"), most, unit, figures)

    limit("  a call, p50", "p50", None, "µs")
    limit("  a call, p99", "p99", None, "µs")
    limit("  a call, p99.9", "p99.9", 30, "µs")
    limit("  the longest call", "max", 20, "ms", 0.001)
    rocks = found.get("rocksdict", {})
    limit("  disk bytes a byte (/proc/self/io)", "amplification", rocks.get("amplification"), "x")
    limit("  the same by the engines' count", "amplification, told", None, "x")
    report.note(f"lsmkit after {length} of overwrites:\n" + found["lsmkit"]["stats"])


@pytest.fixture(scope="module", autouse=True)
def _once(changing):
    """The small test comes first, and its stores are closed before half a minute begins."""
    return changing
