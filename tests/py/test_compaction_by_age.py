"""Claim: TimeWindow keeps rows of one age together and merges a window that is over once; Fifo
keeps no more than its bytes, drops the oldest first, and never lets an older row come back.

Method: the store without files of compaction_sim.py with a clock of its own; single decisions; and,
for what is dropped, real stores of tiny tables.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit.compaction import Fifo, LazyLeveled, Policy, TimeWindow
from lsmkit.options import Options
from lsmkit.version import Job, Tree

FLUSH = 400  # rows


def load_sim() -> Any:
    path = Path(__file__).with_name("compaction_sim.py")
    spec = importlib.util.spec_from_file_location("compaction_sim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sim = load_sim()
OPTIONS = Options(table_bytes=FLUSH * sim.ROW_BYTES)
SMALL = FLUSH * sim.ROW_BYTES // 8
SECOND = 1_000_000
TINY: dict[str, Any] = {"segment_bytes": 4096, "table_bytes": 4096, "block_bytes": 256}


def table(file: int, written: int, **more: Any) -> tuple[Any, ...]:
    low, high = more.get("keys", (b"a", b"z"))
    size = more.get("size", SMALL)
    dead, expired = more.get("dead", 0), more.get("expired", 0)
    return (file, size, size // 100, dead, low, high, 1, 1, expired, 0, True, written, 0, 0)


def runs(*tables: tuple[Any, ...]) -> Tree:
    """A run of each table, the newest first."""
    return Tree.from_raw(0, ((b"", tuple((0, t[0], (t,)) for t in tables)),))


def window(seconds: float = 10) -> TimeWindow:
    return TimeWindow(seconds=seconds)


def pick(policy: Policy, t: Tree, *busy: Job) -> Job | None:
    return policy.pick(t, OPTIONS, busy, 0.0)


# ---- TimeWindow


def test_a_window_that_is_over_becomes_one_run_once() -> None:
    store = sim.SimStore(window(10), OPTIONS)
    load = sim.Uniform(FLUSH, 8, seed=3)
    for number in range(200):
        store.clock = number * SECOND
        store.flush(load.next(), FLUSH)
        store.settle()
        assert store.tree().runs_max() <= number // 10 + 7
    store.check(load.rng)
    windows = [
        {table.written // (10 * SECOND) for table in run}
        for _, found in store.ranges
        for _, run in sorted(found.items())
    ]
    assert all(len(numbers) == 1 for numbers in windows), "a run of two windows"
    old = [numbers.pop() for numbers in windows if min(numbers) < 19]
    assert old == list(range(18, -1, -1))
    assert store.amplification < 2.5, "what is over is left alone"


def test_a_clock_that_was_set_back_does_not_mix_the_ages_of_rows() -> None:
    store = sim.SimStore(window(10), OPTIONS)
    load = sim.Uniform(FLUSH, 4, seed=4)
    rng = random.Random(5)
    for _ in range(100):
        store.clock = rng.randrange(100 * SECOND)
        store.flush(load.next(), FLUSH)
        store.settle()
    store.check(load.rng)


def test_the_newest_window_is_merged_by_size_and_older_ones_whole() -> None:
    newest = [table(n, 50 * SECOND) for n in (9, 8, 7)]
    assert pick(window(), runs(*newest, table(5, 49 * SECOND))) is None
    job = pick(window(), runs(*newest, table(5, 49 * SECOND), table(4, 41 * SECOND)))
    assert job is not None
    assert (job.inputs, job.in_place, job.reason) == ((5, 4), True, "the window is over")
    job = pick(window(), runs(table(10, 51 * SECOND), *newest, table(5, 49 * SECOND)))
    assert job is not None
    assert sorted(job.inputs) == [7, 8, 9, 10]


def test_a_full_compaction_keeps_windows_apart() -> None:
    t = runs(table(9, 50 * SECOND), table(8, 51 * SECOND), table(3, 5 * SECOND, dead=3))
    (job,) = window().full_jobs(t, OPTIONS, None, None)
    assert job.inputs == (9, 8)
    (job,) = window().full_jobs(t, OPTIONS, None, None, frozenset([3]))
    assert job.inputs == (3,)
    assert window().unsettled(t, None, None) == {3, 8, 9}
    settled = runs(table(9, 50 * SECOND, dead=2), table(3, 5 * SECOND))
    assert window().unsettled(settled, None, None) == set(), "its deletes are needed"


def test_a_table_of_expired_rows_is_written_anew_where_it_stands() -> None:
    policy, rows = window(), SMALL // 100
    t = runs(table(9, 50 * SECOND), table(3, 5 * SECOND, expired=rows // 2 + 1), table(2, 0))
    job = policy.reclaim(t, OPTIONS.replace(table_bytes=SMALL), ())
    assert job is not None
    assert (job.inputs, job.in_place) == ((3,), True)
    few = runs(table(9, 50 * SECOND), table(3, 5 * SECOND, expired=rows // 2 - 1), table(2, 0))
    assert policy.reclaim(few, OPTIONS.replace(table_bytes=SMALL), ()) is None
    assert policy.reclaim(few, OPTIONS.replace(table_bytes=SMALL, max_garbage=0.3), ()) is not None


def test_a_window_whose_rows_have_all_expired_goes_unread(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", compaction=TimeWindow(seconds=0.001), **TINY) as db:
        for n in range(300):
            db.put(b"%05d" % n, b"v" * 40, ttl=0.02)
        db.flush()
        while db.get(b"00299") is not None:
            pass
        rows = -1
        while db.stats().table_bytes:
            db.wait_idle()
            assert rows in (-1, db.stats().compactions.rows), "a merge read what is dead"
            rows = db.stats().compactions.rows
        assert list(db.scan()) == []


def test_lengths_of_windows_have_a_range_and_no_default() -> None:
    with pytest.raises(TypeError, match="needs seconds"):
        TimeWindow()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match=r"seconds must be from 0\.001"):
        TimeWindow(seconds=0)
    with pytest.raises(ValueError, match="runs must be from 2 to 32"):
        TimeWindow(seconds=1, runs=1)


# ---- Fifo


def test_the_oldest_rows_go_and_nothing_older_comes_back() -> None:
    most = 12 * FLUSH * sim.ROW_BYTES
    store = sim.SimStore(Fifo(max_bytes=most), OPTIONS)
    load = sim.Uniform(FLUSH, 6, seed=6)
    for number in range(100):
        store.clock = number
        store.flush(load.next(), FLUSH)
        store.settle()
        assert store.row_count() * sim.ROW_BYTES <= most
        for key in load.rng.sample(range(6 * FLUSH), 200):
            found = store.get(key)
            assert found in (0, store.model.get(key, 0)), "an older row came back"
    assert store.merged_rows == 0
    newest = sorted(store.model.values())[-FLUSH // 2 :]
    kept = {store.get(key) for key in range(6 * FLUSH)}
    assert kept.issuperset(newest)


def test_small_runs_are_merged_until_they_are_not() -> None:
    store = sim.SimStore(Fifo(max_bytes=1 << 40), OPTIONS)
    for number in range(400):
        store.flush({key: 10 * number + key + 1 for key in range(number % 7, number % 7 + 5)})
        store.settle()
        assert store.tree().runs_max() <= 12
    store.check(random.Random(0))
    assert max(job.inputs.__len__() for job in store.jobs) >= 4


def test_a_store_of_another_policy_loses_its_oldest_rows_range_by_range() -> None:
    store = sim.SimStore(LazyLeveled(), OPTIONS)
    load = sim.Uniform(FLUSH, 16, seed=7)
    for number in range(60):
        store.clock = number
        store.flush(load.next(), FLUSH)
        store.settle()
    assert len(store.ranges) > 4
    most = 8 * FLUSH * sim.ROW_BYTES
    store.policy = Fifo(max_bytes=most)
    for number in range(60, 90):
        store.clock = number
        store.flush(load.next(), FLUSH)
        store.settle()
        assert store.row_count() * sim.ROW_BYTES <= most
        for key in load.rng.sample(range(16 * FLUSH), 200):
            assert store.get(key) in (0, store.model.get(key, 0))


def test_what_is_being_merged_is_not_dropped_under_it() -> None:
    t = runs(*[table(n, n) for n in range(9, 0, -1)])
    small = OPTIONS.replace(table_bytes=64 * SMALL)
    merge = Fifo(max_bytes=1 << 40).pick(t, small, (), 0.0)
    assert merge is not None
    assert 1 in merge.inputs
    tight = Fifo(max_bytes=8 * SMALL)
    drop = tight.pick(t, small, (), 0.0)
    assert drop is not None
    assert (drop.kind, drop.inputs) == ("drop", (1,))
    assert tight.pick(t, small, (merge,), 0.0) is None
    assert tight.pick(t, small, (drop,), 0.0) is None


def test_a_store_keeps_its_newest_rows_within_the_bytes(tmp_path: Path) -> None:
    most = 40_000
    with lsmkit.open(tmp_path / "s", compaction=Fifo(max_bytes=most), **TINY) as db:
        for n in range(4000):
            db.put(b"%05d" % n, random.Random(n).randbytes(40))
            if n % 100 == 0:
                db.put(b"again", b"%d" % n)
        db.flush()
        db.wait_idle()
        assert most / 2 < db.stats().table_bytes <= most
        kept = [int(key) for key in db.scan_keys(stop=b"a")]
        assert kept == list(range(kept[0], 4000)), "it lost more than the oldest"
        assert 200 < len(kept) < 1500
        assert db[b"again"] == b"3900"
        assert db.verify()
    with lsmkit.open(tmp_path / "s") as db:
        assert db.options.compaction == Fifo(max_bytes=most)
        assert [int(key) for key in db.scan_keys(stop=b"a")] == kept
        db.compact()
        assert [int(key) for key in db.scan_keys(stop=b"a")] == kept


def test_positions_of_sources_are_not_dropped(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", compaction=Fifo(max_bytes=8192), **TINY) as db:
        with db.batch(source="s", seq=7) as batch:
            batch.put(b"a", b"1")
        for n in range(3000):
            db.put(b"%05d" % n, random.Random(n).randbytes(40))
        db.flush()
        db.wait_idle()
        assert b"a" not in db
        assert db.position("s") == 7


def test_its_bytes_have_a_range_and_no_default() -> None:
    with pytest.raises(TypeError, match="needs max_bytes"):
        Fifo()  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="max_bytes must be from 4096"):
        Fifo(max_bytes=0)
