"""Claim: LazyLeveled keeps merging, space, runs and job size within its published bounds, for every
kind of load, and never asks for a job that the core would have to refuse.

Method: a store without files (compaction_sim.py) carries the jobs out by the core's rules, checking
each; the loads are uniform overwrites, appending, late events, a queue, deletes, skewed writes.
"""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lsmkit.compaction import LazyLeveled, Leveled, Policy
from lsmkit.options import Options
from lsmkit.version import LEVEL_LAST, Job, Tree

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


def new_store(policy: Policy | None = None) -> Any:
    return sim.SimStore(policy or LazyLeveled(), OPTIONS)


def table(file: int, low: bytes, high: bytes, size: int = 40_000, dead: int = 0) -> tuple[Any, ...]:
    return (file, size, size // 100, dead, low, high, file, file, 0, 0, True, 0, 0, 0)


def tree(*ranges: tuple[bytes, tuple[Any, ...]]) -> Tree:
    return Tree.from_raw(0, ranges)


def pick(t: Tree, *busy: Job) -> Job | None:
    return LazyLeveled().pick(t, OPTIONS, busy, 0.0)


# ---- write amplification and runs, against the published simulation


@pytest.mark.parametrize(("live", "merged", "runs"), [(2, 1.3, 2.5), (8, 2.3, 3.0), (32, 3.9, 3.9)])
def test_uniform_overwrites_merge_as_little_as_published(
    live: int, merged: float, runs: float
) -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, live, seed=live)
    warm_up = 3 * live
    met: list[float] = []
    for number in range(9 * live + 30):
        if number == warm_up:
            store.writes = store.merged_rows = store.peak_rows = store.largest_job = 0
            met.clear()
        store.flush(load.next(), FLUSH)
        store.settle()
        met.append(store.tree().runs_mean())
        assert store.tree().runs_max() <= 9
    assert store.amplification == pytest.approx(merged, rel=0.25)
    assert sum(met) / len(met) == pytest.approx(runs, rel=0.25)
    assert store.largest_job <= 8 * FLUSH
    assert store.peak_rows <= 4 * live * FLUSH if live < 8 else 2.5 * live * FLUSH
    store.check(load.rng)


def test_ranges_keep_jobs_and_space_small() -> None:
    """The same load with one range for all: what the cut into ranges is for."""
    figures = {}
    for per_range in (4, 1024):
        store = new_store(LazyLeveled(tables_per_range=per_range))
        load = sim.Uniform(FLUSH, 32, seed=1)
        for _ in range(150):
            store.flush(load.next(), FLUSH)
            store.settle()
        figures[per_range] = store
    assert 8 <= len(figures[4].ranges) <= 32
    assert len(figures[1024].ranges) == 1
    assert figures[1024].largest_job > 4 * figures[4].largest_job
    assert figures[1024].peak_rows > 1.3 * figures[4].peak_rows
    assert figures[4].amplification < 1.2 * figures[1024].amplification


# ---- other loads


def test_appending_only_moves_tables() -> None:
    store = new_store()
    for number in range(100):
        first = number * FLUSH
        store.flush({key: key + 1 for key in range(first, first + FLUSH)})
        store.settle()
        assert store.tree().runs_max() == 1
    assert {job.kind for job in store.jobs} == {"move"}
    assert 100 / 4 <= len(store.ranges) <= 100
    store.check(random.Random(0))


def test_appending_in_small_flushes_does_not_leave_small_tables() -> None:
    store = new_store()
    small = FLUSH // 40
    for number in range(1000):
        first = number * small
        store.flush({key: key + 1 for key in range(first, first + small)})
        store.settle()
    assert len(store.tables()) <= 1000 // 4 + 4
    assert len(store.ranges) <= 20
    assert store.amplification < 2
    store.check(random.Random(0))


def test_late_events_cost_little() -> None:
    """One record in a hundred comes up to half a flush late, so that neighbours overlap."""
    store = new_store()
    rng = random.Random(5)
    for number in range(200):
        rows = {}
        for key in range(number * FLUSH, (number + 1) * FLUSH):
            late = rng.randrange(FLUSH // 2) if rng.random() < 0.01 and key > FLUSH else 0
            rows[key - late] = key + 1
        store.flush(rows)
        store.settle()
    assert store.amplification < 1.3
    store.check(rng)


@pytest.mark.parametrize("length", [0.2, 2, 8, 32])
def test_the_space_of_a_queue_is_bounded(length: float) -> None:
    store = new_store()
    load = sim.Queue(FLUSH, int(length * FLUSH))
    rows = []
    for _ in range(300):
        store.flush(load.next())
        store.settle()
        rows.append(store.row_count())
        assert store.tree().runs_max() <= 6
    assert max(rows[100:]) <= 1.5 * length * FLUSH + 4 * FLUSH
    assert max(rows[200:]) <= 1.1 * max(rows[100:200]), "it grows"
    assert len(store.ranges) <= 3 * length + 3
    assert store.amplification < 3.9
    store.check(random.Random(0))


def test_a_queue_that_was_drained_leaves_one_empty_range() -> None:
    store = new_store()
    keys = 20 * FLUSH
    for first in range(0, keys, FLUSH):
        store.flush({key: key + 1 for key in range(first, first + FLUSH)})
        store.settle()
    for first in range(0, keys, 2 * FLUSH):
        store.flush({key: -(keys + key + 1) for key in range(first, first + 2 * FLUSH)})
        store.settle()
    assert store.row_count() == 0
    assert len(store.ranges) == 1


def test_deletes_everywhere_give_their_space_back() -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, 8, seed=3)
    for _ in range(60):
        store.flush(load.next(), FLUSH)
        store.settle()
    for number in range(8):
        part = range(number * FLUSH, (number + 1) * FLUSH)
        store.flush({key: -(10**6 + key) for key in part if key in store.model})
        store.settle()
    assert store.live_count() == 0
    assert store.row_count() <= FLUSH
    store.check(load.rng)


def test_writes_to_one_range_stay_there() -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, 16, seed=4)
    for _ in range(120):
        store.flush(load.next(), FLUSH)
        store.settle()
    for job in store.policy.full_jobs(store.tree(), OPTIONS, None, None):
        store.apply(job)
    store.jobs.clear()
    store.writes = store.merged_rows = 0
    last = store.bounds(len(store.ranges) - 1)[0]
    clock = load.clock
    for _ in range(40):
        rows = {}
        for _ in range(FLUSH):
            clock += 1
            rows[load.rng.randrange(last, load.keys)] = clock
        store.flush(rows, FLUSH)
        store.settle()
    touched = {int.from_bytes(job.lower, "big") for job in store.jobs}
    assert min(touched) >= last
    assert store.amplification < 3


@pytest.mark.parametrize("seed", range(6))
def test_jobs_that_run_side_by_side_never_meet(seed: int) -> None:
    """Jobs end late and in any order; the simulated store refuses what does not fit any more."""
    rng = random.Random(seed)
    store = new_store()
    load = sim.Uniform(FLUSH, 12, seed) if seed % 2 else sim.Queue(FLUSH, 6 * FLUSH)
    busy: list[Job] = []
    for _ in range(150):
        store.flush(load.next(), FLUSH)
        for _ in range(rng.randrange(8)):
            while len(busy) < 3 and (job := store.pick(busy)) is not None:
                assert all(job.lower != other.lower for other in busy)
                busy.append(job)
            if busy:
                store.apply(busy.pop(rng.randrange(len(busy))))
    while busy:
        store.apply(busy.pop())
    store.settle()
    store.check(rng)


# ---- single decisions


def test_an_empty_tree_wants_nothing() -> None:
    assert pick(tree((b"", ()))) is None


def test_a_small_store_is_merged_at_the_fourth_flush() -> None:
    store = new_store()
    for number in range(3):
        store.flush({key: 100 * number + key + 1 for key in range(20)})
        assert store.pick() is None
    store.flush({key: 900 + key for key in range(20)})
    job = store.pick()
    assert (job.kind, job.out_level, len(job.inputs)) == ("merge", LEVEL_LAST, 4)
    store.apply(job)
    assert store.pick() is None
    assert store.row_count() == 20


def test_a_full_tier_above_a_large_last_run_becomes_one_run() -> None:
    last = tuple(table(n, b"%d" % n, b"%d~" % n) for n in range(1, 10))
    flushed = tuple((0, 20 + n, (table(20 + n, b"1", b"9~"),)) for n in range(4, 0, -1))
    job = pick(tree((b"", (*flushed, (15, 1, last)))))
    assert job is not None
    assert (job.out_level, sorted(job.inputs)) == (1, [21, 22, 23, 24])
    assert job.split_tables == 0


def test_a_full_tier_takes_the_next_one_along_when_that_becomes_full() -> None:
    last = tuple(table(n, b"%02d" % n, b"%02d~" % n) for n in range(1, 40))
    flushed = tuple((0, 60 + n, (table(60 + n, b"01", b"39~"),)) for n in range(4, 0, -1))
    first = tuple((1, 50 + n, (table(50 + n, b"01", b"39~"),)) for n in range(3, 0, -1))
    job = pick(tree((b"", (*flushed, *first, (15, 1, last)))))
    assert job is not None
    assert job.out_level == 2
    assert len(job.inputs) == 7


def test_only_what_is_written_over_is_merged_in_the_last_run() -> None:
    last = tuple(table(n, b"%d" % n, b"%d~" % n) for n in range(1, 4))
    flushed = tuple((0, 20 + n, (table(20 + n, b"3", b"3~"),)) for n in range(4, 0, -1))
    job = pick(tree((b"", (*flushed, (15, 1, last)))))
    assert job is not None
    assert (job.out_level, sorted(job.inputs)) == (LEVEL_LAST, [3, 21, 22, 23, 24])


def test_small_runs_beside_a_last_run_are_gathered_first() -> None:
    small = tuple((0, 20 + n, (table(20 + n, b"x", b"y", size=500),)) for n in range(4, 0, -1))
    last = (15, 1, (table(1, b"a", b"m"),))
    job = pick(tree((b"", (*small, last))))
    assert job is not None
    assert (job.out_level, len(job.inputs)) == (1, 4)
    job = pick(tree((b"", small)))
    assert job is not None
    assert job.out_level == LEVEL_LAST, "a small store has no use for tiers"


def test_a_table_is_moved_only_from_above_nothing() -> None:
    free = (0, 9, (table(9, b"n", b"z"),))
    under = (15, 1, (table(1, b"a", b"m"),))
    job = pick(tree((b"", (free, under))))
    assert job is not None
    assert (job.kind, job.inputs, job.out_level) == ("move", (9,), LEVEL_LAST)
    over = (0, 8, (table(8, b"m", b"o"),))
    assert pick(tree((b"", (free, over, under)))) is None


def test_a_table_that_reaches_into_another_range_is_not_moved() -> None:
    wide = (0, 9, (table(9, b"a", b"z"),))
    assert pick(tree((b"", (wide,)), (b"k", (wide,)))) is None


def test_a_small_table_and_one_of_deletes_are_not_moved() -> None:
    assert pick(tree((b"", ((0, 9, (table(9, b"a", b"b", size=1000),)),)))) is None
    job = pick(tree((b"", ((0, 9, (table(9, b"a", b"b", dead=100),)),))))
    assert job is None or job.kind == "merge"


def test_the_range_with_the_most_runs_is_first() -> None:
    def runs(count: int, low: bytes, first: int) -> tuple[Any, ...]:
        flushed = range(first + count, first, -1)
        last = (15, 1, (table(first, low, low + b"~"),))
        return (*((0, n, (table(n, low, low + b"~"),)) for n in flushed), last)

    t = tree((b"", runs(4, b"a", 0)), (b"b", runs(6, b"b", 10)), (b"c", runs(5, b"c", 20)))
    job = pick(t)
    assert job is not None
    assert job.lower == b"b"
    second = pick(t, job)
    assert second is not None
    assert second.lower == b"c"
    third = pick(t, job, second)
    assert third is not None
    assert third.lower == b""
    assert pick(t, job, second, third) is None


def test_deletes_bring_a_merge_before_any_tier_is_full() -> None:
    last = (15, 1, (table(1, b"a", b"z", size=40_000),))
    few = (0, 9, (table(9, b"a", b"z", size=18_000, dead=100),))
    many = (0, 9, (table(9, b"a", b"z", size=18_000, dead=180),))
    assert pick(tree((b"", (few, last)))) is None
    job = pick(tree((b"", (many, (15, 1, (table(1, b"a", b"z", size=36_000),))))))
    assert job is not None
    assert (job.kind, job.out_level, job.inputs, job.reason) == ("merge", 15, (9, 1), "deletes")


def test_a_range_that_writes_have_left_is_looked_at_closely() -> None:
    wide = (0, 8, (table(8, b"a", b"z", dead=100),))
    last = (15, 1, (table(1, b"a", b"b"),))
    newer = (0, 9, (table(9, b"x", b"z~", dead=100),))
    t = tree((b"", (wide, last)), (b"k", (newer, wide)), (b"t", (newer, wide)))
    job = pick(t)
    assert job is not None
    assert (job.lower, job.inputs, job.out_level) == (b"", (8,), 1)


def test_few_deletes_are_ended_where_no_more_will_come() -> None:
    dead = (0, 8, (table(8, b"a", b"b", size=1000, dead=10),))
    last = (15, 1, (table(1, b"a", b"b", size=2000),))
    newer = (0, 9, (table(9, b"x", b"y", size=1000),))
    other = (15, 2, (table(2, b"l", b"m"),))
    assert pick(tree((b"", (dead, last)), (b"k", (other,)))) is None
    job = pick(tree((b"", (dead, last)), (b"k", (newer,))))
    assert job is not None
    assert (job.inputs, job.out_level) == ((8, 1), LEVEL_LAST)


def test_an_empty_range_joins_its_left_neighbour_unless_a_table_reaches_over() -> None:
    inside = (15, 1, (table(1, b"a", b"j"),))
    over = (15, 1, (table(1, b"a", b"k"),))
    job = pick(tree((b"", (inside,)), (b"k", ())))
    assert job is not None
    assert (job.kind, job.lower) == ("join", b"k")
    assert pick(tree((b"", (over,)), (b"k", ()))) is None
    assert pick(tree((b"", ()), (b"k", ((15, 1, (table(1, b"k", b"l"),)),)))) is None


def test_a_join_waits_for_the_jobs_of_both_ranges() -> None:
    t = tree((b"", ()), (b"k", ()))
    for lower in (b"", b"k"):
        assert pick(t, Job(tree=0, lower=lower, upper=None)) is None
    other_tree = Job(tree=1, lower=b"", upper=None)
    assert pick(t, other_tree) is not None
    joining = Job(tree=0, lower=b"k", upper=None, kind="join")
    assert pick(t, joining) is None


# ---- pressure, full compaction, text


def test_pressure_is_the_mean_of_the_upper_runs_or_half_the_worst() -> None:
    def runs(count: int, first: int) -> tuple[Any, ...]:
        return tuple((0, n, (table(n, b"a", b"z"),)) for n in range(first + count, first, -1))

    last = (15, 1, (table(1, b"a", b"z"),))
    policy = LazyLeveled()
    assert policy.pressure(tree((b"", ()))) == 0
    assert policy.pressure(tree((b"", (*runs(4, 5), last)), (b"k", (*runs(2, 5), last)))) == 3
    assert policy.pressure(tree((b"", runs(10, 5)), *((b"%d" % n, ()) for n in range(9)))) == 5


@pytest.mark.parametrize("seed", range(4))
def test_a_full_compaction_leaves_one_run_of_live_rows(seed: int) -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, 8, seed) if seed % 2 else sim.Queue(FLUSH, 5 * FLUSH)
    for _ in range(37):
        store.flush(load.next(), FLUSH)
        store.settle()
    for job in store.policy.full_jobs(store.tree(), OPTIONS, None, None):
        store.apply(job)
    assert store.policy.full_jobs(store.tree(), OPTIONS, None, None) == []
    assert store.tree().runs_max() <= 1
    assert store.row_count() == store.live_count()
    store.check(random.Random(seed))


def test_a_full_compaction_of_a_range_leaves_the_others() -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, 16, seed=8)
    for _ in range(80):
        store.flush(load.next(), FLUSH)
        store.settle()
    store.flush(load.next(), FLUSH)
    assert len(store.ranges) > 4
    start, stop = (sim.key_bytes(store.ranges[i][0]) for i in (1, 3))
    jobs = store.policy.full_jobs(store.tree(), OPTIONS, start, stop)
    assert [job.lower for job in jobs] == [sim.key_bytes(store.ranges[i][0]) for i in (1, 2)]
    assert store.policy.full_jobs(store.tree(), OPTIONS, stop, start) == []
    middle = sim.key_bytes(store.ranges[1][0] + 1)
    assert store.policy.full_jobs(store.tree(), OPTIONS, middle, middle) == []


def test_a_full_compaction_ends_although_writes_go_on() -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, 4, seed=9)
    store.flush(load.next(), FLUSH)
    store.flush(load.next(), FLUSH)
    files = store.policy.unsettled(store.tree(), None, None)
    assert len(files) == 2
    for job in store.policy.full_jobs(store.tree(), OPTIONS, None, None, files):
        store.flush(load.next(), FLUSH)
        store.apply(job)
    assert store.policy.full_jobs(store.tree(), OPTIONS, None, None, files) == []
    assert store.policy.full_jobs(store.tree(), OPTIONS, None, None) != []


def test_a_full_compaction_ends_deletes_in_the_last_run() -> None:
    """A snapshot can have kept them there."""
    last = (15, 1, (table(1, b"a", b"b", dead=1), table(2, b"c", b"d")))
    (job,) = LazyLeveled().full_jobs(tree((b"", (last,))), OPTIONS, None, None)
    assert (job.inputs, job.out_level) == ((1,), LEVEL_LAST)
    assert LazyLeveled().full_jobs(tree((b"", (last,))), OPTIONS, b"c", None) == []


def test_a_full_compaction_takes_all_that_hangs_together() -> None:
    runs = (
        (0, 9, (table(9, b"a", b"c"),)),
        (1, 8, (table(8, b"b", b"f"), table(7, b"x", b"z"))),
        (15, 1, (table(1, b"e", b"i"), table(2, b"j", b"k"))),
    )
    (job,) = LazyLeveled().full_jobs(tree((b"", runs)), OPTIONS, b"a", b"aa")
    assert sorted(job.inputs) == [1, 8, 9]


def test_a_store_of_leveled_compaction_is_taken_over_without_merging_all() -> None:
    store = new_store(Leveled())
    load = sim.Uniform(FLUSH, 16, seed=2)
    for _ in range(100):
        store.flush(load.next(), FLUSH)
        store.settle()
    store.policy = LazyLeveled()
    store.merged_rows = 0
    store.settle()
    assert store.merged_rows <= 0.7 * store.row_count()
    for _ in range(40):
        store.flush(load.next(), FLUSH)
        store.settle()
        assert store.tree().runs_max() <= 8
    store.check(load.rng)


def test_large_jobs_are_divided_and_the_bottom_is_compressed_in_its_own_way() -> None:
    options = OPTIONS.replace(bottom_compression="zstd", background_threads=3)
    last = tuple(table(n, b"%02d" % n, b"%02d~" % n) for n in range(1, 10))
    flushed = tuple((0, 60 + n, (table(60 + n, b"01", b"39~"),)) for n in range(8, 0, -1))
    job = LazyLeveled().pick(tree((b"", (*flushed, (15, 1, last)))), options, (), 0.0)
    assert job is not None
    assert (job.out_level, job.compression, job.parts) == (15, "zstd", 3)
    job = LazyLeveled().pick(tree((b"", (*flushed[:4], (15, 1, last)))), options, (), 0.0)
    assert job is not None
    assert (job.out_level, job.compression, job.parts) == (1, "lz4", 1)


def test_parameters_have_ranges() -> None:
    with pytest.raises(ValueError, match="runs must be from 2 to 32"):
        LazyLeveled(runs=1)
    with pytest.raises(ValueError, match=r"ratio must be from 0\.01 to 1"):
        LazyLeveled(ratio=1.5)
    with pytest.raises(TypeError, match="ratio must be a float"):
        LazyLeveled(ratio="0.5")
    with pytest.raises(ValueError, match="tables_per_range must be from 1"):
        LazyLeveled(tables_per_range=0)


@pytest.mark.parametrize(
    "policy", [LazyLeveled(), LazyLeveled(runs=8, ratio=1), Leveled(), Leveled(runs=2)]
)
def test_a_policy_comes_back_from_its_text(policy: Policy) -> None:
    assert Policy.from_text(policy.to_text()) == policy


def test_levels_have_names() -> None:
    runs = ((0, 9, (table(9, b"a", b"z"),)), (2, 5, (table(5, b"a", b"z"),)))
    t = tree((b"", (*runs, (15, 1, (table(1, b"a", b"z"),)))))
    assert LazyLeveled().level_names(t) == {0: "flushed", 2: "tier 2", 15: "last"}
    assert Leveled().level_names(t) == {0: "level 0", 2: "level 2", 15: "last"}


def test_a_share_is_counted_by_reach_and_not_by_what_is_left() -> None:
    wide = (0, 9, (table(9, b"a", b"z", size=9000),))
    t = tree((b"", ()), (b"k", (wide,)), (b"t", ()))
    (found,) = t.ranges[1].runs[0].tables
    assert t.reach(found) == 3
    assert t.share([found]) == 3000


def test_reasons_are_told() -> None:
    store = new_store()
    load = sim.Uniform(FLUSH, 16, seed=6)
    for _ in range(60):
        store.flush(load.next(), FLUSH)
        store.settle()
    reasons = Counter(job.reason for job in store.jobs)
    assert set(reasons) <= {"nothing older overlaps", "a tier is full", "much is above"}
    assert len(reasons) == 3
