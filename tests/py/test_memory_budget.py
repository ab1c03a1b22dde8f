"""`memory_bytes`: one budget for all that a store holds, kept however much data goes through.

What the store says that it holds is looked at again and again while it works. What the process has
in memory is measured in a process of its own. Scans that are held open keep memory that nobody else
can give back: with segments of some KiB a few of them are too many.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from typing import Any

import pytest

import lsmkit

MIB = 1 << 20
SMALL: dict[str, Any] = {"memory_bytes": 4 * MIB, "block_bytes": 1024}


def keys(first: int, count: int) -> list[bytes]:
    return [b"%08x" % (i * 2654435761 % (1 << 32)) for i in range(first, first + count)]


# ---- sizes


def test_the_sizes_that_are_not_named_follow_the_budget(store_path: str) -> None:
    with lsmkit.open(store_path, memory_bytes=32 * MIB) as db:
        o = db.options
        assert (o.segment_bytes, o.cache_bytes, o.table_bytes) == (2 * MIB, 8 * MIB, 4 * MIB)
        assert db.stats().memory.limit == 32 * MIB
        assert db.stats().cache.capacity_bytes == 8 * MIB
        db[b"k"] = b"v"
    with lsmkit.open(store_path) as db:
        defaults = lsmkit.Options()
        assert db.options.segment_bytes == defaults.segment_bytes, "it was not stored"
        assert db.options.memory_bytes == 1024 * MIB
        assert db[b"k"] == b"v"


def test_a_store_with_large_segments_opens_in_a_small_budget(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=64 * MIB) as db:
        db[b"k"] = b"v"
    with lsmkit.open(store_path, memory_bytes=8 * MIB) as db:
        assert db.options.segment_bytes == MIB // 2
        assert db[b"k"] == b"v"


@pytest.mark.parametrize(
    ("given", "segment", "cache"),
    [
        ({"memory_bytes": 32 * MIB, "segment_bytes": 8 * MIB}, 8 * MIB, 0),
        ({"memory_bytes": 32 * MIB, "segment_bytes": 7 * MIB}, 7 * MIB, 4 * MIB),
        ({"memory_bytes": 32 * MIB, "cache_bytes": 30 * MIB}, MIB // 2, 30 * MIB),
        ({"memory_bytes": 32 * MIB, "cache_bytes": 0}, 2 * MIB, 0),
        ({"memory_bytes": 4 * MIB}, MIB // 4, MIB),
    ],
)
def test_what_is_named_stays_and_the_rest_is_made_to_fit(
    given: dict[str, Any], segment: int, cache: int
) -> None:
    with lsmkit.open(":memory:", **given) as db:
        assert (db.options.segment_bytes, db.options.cache_bytes) == (segment, cache)
        db.put_many(keys(0, 1000), [bytes(100)] * 1000)
        assert len(db) == 1000


@pytest.mark.parametrize(
    "given",
    [
        {"segment_bytes": 9 * MIB},
        {"cache_bytes": 33 * MIB},
        {"segment_bytes": 4 * MIB, "cache_bytes": 17 * MIB},
    ],
)
def test_named_sizes_that_do_not_fit_are_refused(store_path: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"memory_bytes must be from \d+ bytes.*, not 33554432"):
        lsmkit.open(store_path, memory_bytes=32 * MIB, **given)
    assert not os.path.exists(store_path)


def test_a_budget_that_is_not_named_is_as_large_as_the_sizes_that_are() -> None:
    with lsmkit.open(":memory:", cache_bytes=4096 * MIB) as db:
        assert db.options.memory_bytes == (4096 + 12 * 64) * MIB


def test_a_table_size_that_is_named_stays() -> None:
    with lsmkit.open(":memory:", memory_bytes=32 * MIB, table_bytes=32 * MIB) as db:
        assert db.options.table_bytes == 32 * MIB


# ---- what gives way


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_what_is_held_stays_below_the_budget_while_data_goes_through(
    store_path: str, log_io: str
) -> None:
    with lsmkit.open(store_path, log_io=log_io, **SMALL) as db:
        scans: list[Any] = []
        for i in range(100):
            db.put_many(keys(i * 200, 200), [b"%06d" % i * 100] * 200)
            if i % 10 == 0:
                scans = [db.snapshot(), db.scan()]
                next(scans[1])
            db.get_many(keys(i * 100, 100))
            memory = db.stats().memory
            # The cache gives way a moment after a segment has been begun.
            assert memory.total <= memory.limit + db.options.segment_bytes, memory
        assert db.stats().flushes.count > 10


def hold_too_many(db: lsmkit.DB) -> tuple[list[Any], lsmkit.Busy]:
    """Scans begun again and again while rows are put, until a put is refused for them."""
    scans = []
    for i in itertools.count():
        scans.append(db.scan())
        next(scans[-1])
        try:
            db.put_many(keys(i * 400, 400), [bytes(400)] * 400, timeout=0.2)
        except lsmkit.Busy as busy:
            if "scans" in str(busy):
                return scans, busy
    raise AssertionError


def test_the_cache_gives_way_to_what_scans_keep(store_path: str) -> None:
    with lsmkit.open(store_path, log_io="written", **SMALL) as db:
        db.put_many(keys(0, 5000), [os.urandom(300) for _ in range(5000)])
        db.compact()
        db.get_many(keys(0, 5000))
        full = db.stats().memory.cache
        assert full > MIB // 2
        scans, _ = hold_too_many(db)
        db.get_many(keys(0, 5000))
        assert db.stats().memory.cache < full / 2
        assert len(scans) > 1


def test_scans_that_keep_too_much_are_waited_for_and_named(store_path: str) -> None:
    with lsmkit.open(store_path, log_io="written", **SMALL) as db:
        db.put(b"first", b"")
        scans, busy = hold_too_many(db)
        assert busy.retry_after > 0
        assert db.stats().memory.pinned > MIB
        records = db.stats().writes.records
        with pytest.raises(lsmkit.Busy):
            db.put_many(keys(0, 400), [bytes(400)] * 400, timeout=0)
        assert db.stats().writes.records == records, "nothing of it was applied"
        scans.clear()
        db.put_many(keys(0, 400), [b"after"] * 400)
        assert db[keys(0, 1)[0]] == b"after"
        memory = db.stats().memory
        assert memory.total <= memory.limit


def test_one_scan_never_stops_who_writes_while_it_reads(store_path: str) -> None:
    with lsmkit.open(store_path, log_io="written", **SMALL) as db:
        db.put_many(keys(0, 3000), [bytes(100)] * 3000)
        count = 0
        for key, value in db.scan():
            db.put(b"copy " + key, value + bytes(900), timeout=30)
            count += 1
        assert count == 3000
        assert len(db) == 6000


# ---- what the process holds

CHILD = """
import json, os, sys
import lsmkit

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS"))

value, rows = os.urandom(1000), 200_000_000 // 1016
told = {"grown": 0, "held": 0}
scans = []
with lsmkit.open(sys.argv[1], memory_bytes=32 << 20) as db:
    base = resident()
    for i in range(rows):
        db.put((i * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8, "big"), value)
        if i % 1000 == 0:
            told["grown"] = max(told["grown"], resident() - base)
            told["held"] = max(told["held"], db.stats().memory.total)
        if i % 10_000 == 0:
            scans = [*scans[-4:], db.snapshot(), db.scan()]
            next(scans[-1])
    told["rows"] = rows
    told["scanned"] = sum(1 for _ in scans[1])
print(json.dumps(told))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
def test_two_hundred_million_bytes_go_through_thirty_two_mebibytes(store_path: str) -> None:
    """With two scans and three snapshots held open all the time. Half as much as the budget is for
    what malloc keeps and the interpreter needs."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, store_path],
        stdout=subprocess.PIPE,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    told = json.loads(done.stdout)
    assert told["held"] <= 32 * MIB
    assert told["grown"] <= 48 * MIB
    assert told["scanned"] > told["rows"] // 2
