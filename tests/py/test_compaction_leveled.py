"""Claim: Leveled keeps levels within their sizes and reads at few runs, moves what it can, counts
deletes, and never asks for a job that the core would have to refuse.

Method: the store without files of compaction_sim.py, as for LazyLeveled; and single decisions.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from lsmkit.compaction import LazyLeveled, Leveled
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
OPTIONS = Options(
    table_bytes=FLUSH * sim.ROW_BYTES,
    level_base_bytes=4 * FLUSH * sim.ROW_BYTES,
    level_fanout=10,
)


def table(file: int, low: bytes, high: bytes, size: int = 40_000, dead: int = 0) -> tuple[Any, ...]:
    return (file, size, size // 100, dead, low, high, file, file, 0, 0, True, 0, 0, 0)


def tree(*runs: tuple[Any, ...]) -> Tree:
    return Tree.from_raw(0, ((b"", runs),))


def pick(t: Tree, *busy: Job) -> Job | None:
    return Leveled().pick(t, OPTIONS, busy, 0.0)


def flushed(count: int, low: bytes = b"a", high: bytes = b"z") -> tuple[Any, ...]:
    return tuple((0, 100 + n, (table(100 + n, low, high),)) for n in range(count, 0, -1))


# ---- whole loads


@pytest.mark.parametrize(("live", "merged"), [(8, 4.1), (32, 7.1)])
def test_uniform_overwrites_stay_within_the_published_figures(live: int, merged: float) -> None:
    store = sim.SimStore(Leveled(), OPTIONS)
    load = sim.Uniform(FLUSH, live, seed=live)
    for number in range(9 * live + 30):
        if number == 3 * live:
            store.writes = store.merged_rows = store.peak_rows = 0
        store.flush(load.next(), FLUSH)
        store.settle()
        assert store.tree().runs_max() <= 6
        assert len(store.ranges) == 1
    assert 0.6 * merged <= store.amplification <= 1.1 * merged
    assert store.peak_rows <= 3 * live * FLUSH
    store.check(load.rng)


def test_appending_only_moves_tables() -> None:
    store = sim.SimStore(Leveled(), OPTIONS)
    for number in range(100):
        first = number * FLUSH
        store.flush({key: key + 1 for key in range(first, first + FLUSH)})
        store.settle()
        assert store.tree().runs_max() <= 6
    assert {job.kind for job in store.jobs} == {"move"}
    store.check(random.Random(0))


@pytest.mark.parametrize("length", [2, 8, 32])
def test_the_space_of_a_queue_is_bounded(length: int) -> None:
    store = sim.SimStore(Leveled(), OPTIONS)
    load = sim.Queue(FLUSH, length * FLUSH)
    rows = []
    for _ in range(300):
        store.flush(load.next())
        store.settle()
        rows.append(store.row_count())
    assert max(rows[100:]) <= 1.5 * length * FLUSH + 4 * FLUSH
    assert max(rows[200:]) <= 1.1 * max(rows[100:200]), "it grows"
    store.check(random.Random(0))


@pytest.mark.parametrize("seed", range(6))
def test_jobs_that_run_side_by_side_never_meet(seed: int) -> None:
    rng = random.Random(seed)
    store = sim.SimStore(Leveled(), OPTIONS)
    load = sim.Uniform(FLUSH, 12, seed) if seed % 2 else sim.Queue(FLUSH, 6 * FLUSH)
    busy: list[Job] = []
    together = 0
    for _ in range(150):
        store.flush(load.next(), FLUSH)
        for _ in range(rng.randrange(8)):
            while len(busy) < 3 and (job := store.pick(busy)) is not None:
                assert not any(set(job.inputs) & set(other.inputs) for other in busy)
                busy.append(job)
            together = max(together, len(busy))
            if busy:
                store.apply(busy.pop(rng.randrange(len(busy))))
    while busy:
        store.apply(busy.pop())
    store.settle()
    store.check(rng)
    assert together > 1


def test_a_store_of_lazy_leveling_is_taken_over() -> None:
    """It has many ranges and a last run in each; both go on to be used."""
    store = sim.SimStore(LazyLeveled(), OPTIONS)
    load = sim.Uniform(FLUSH, 16, seed=2)
    for _ in range(100):
        store.flush(load.next(), FLUSH)
        store.settle()
    assert len(store.ranges) > 4
    store.policy = Leveled()
    for _ in range(60):
        store.settle()
        assert store.tree().runs_max() <= 6
        store.flush(load.next(), FLUSH)
    store.check(load.rng)


# ---- single decisions


def test_level_zero_waits_for_its_fourth_run() -> None:
    assert pick(tree()) is None
    assert pick(tree(*flushed(3))) is None
    job = pick(tree(*flushed(5), (1, 1, (table(1, b"a", b"c"),))))
    assert job is not None
    assert (job.kind, job.out_level, sorted(job.inputs)) == (
        "merge",
        1,
        [1, 101, 102, 103, 104, 105],
    )
    assert job.split_tables == 0


def test_level_zero_takes_only_what_it_overlaps() -> None:
    below = (1, 1, (table(1, b"a", b"c"), table(2, b"m", b"n"), table(3, b"x", b"z")))
    job = pick(tree(*flushed(4, b"l", b"o"), below))
    assert job is not None
    assert sorted(job.inputs) == [2, 101, 102, 103, 104]


def test_level_zero_waits_for_a_job_below_it() -> None:
    below = (1, 1, tuple(table(n, b"%d" % n, b"%d~" % n, size=35_000) for n in range(1, 6)))
    job = pick(tree(below))
    assert job is not None
    assert job.inputs == (1,)
    assert pick(tree(*flushed(4, b"1", b"3"), below), job) is None
    beside = pick(tree(*flushed(4, b"2", b"3"), below), job)
    assert beside is not None
    assert (beside.out_level, 2 in beside.inputs) == (1, True)


def test_level_zero_waits_until_the_next_level_is_one_run() -> None:
    left = ((1, 7, (table(7, b"m", b"n"),)), (1, 6, (table(6, b"a", b"c"),)))
    busy = Job(tree=0, lower=b"", upper=None, inputs=(6, 7), out_level=2)
    assert pick(tree(*flushed(4, b"a", b"b"), *left), busy) is None


def test_only_one_job_at_a_time_takes_from_level_zero() -> None:
    job = pick(tree(*flushed(4)))
    assert job is not None
    assert pick(tree(*flushed(9)), job) is None


def test_the_level_that_is_most_over_its_size_is_first() -> None:
    one = (1, 1, tuple(table(n, b"%02d" % n, b"%02d~" % n) for n in range(1, 9)))
    job = pick(tree(*flushed(4), one))
    assert job is not None
    assert job.priority == 2.0
    assert job.out_level == 2


def test_the_table_with_the_least_overlap_goes_down() -> None:
    one = (1, 1, tuple(table(n, b"%d" % n, b"%d~" % n) for n in range(1, 6)))
    two = (2, 1, tuple(table(20 + n, b"%d" % n, b"%d!" % n) for n in (1, 2, 4, 5)))
    job = pick(tree(one, two))
    assert job is not None
    assert (job.kind, job.inputs, job.out_level) == ("move", (3,), 2)
    three = (2, 1, (*two[2][:2], table(23, b"3", b"3!", size=9), *two[2][2:]))
    job = pick(tree(one, three))
    assert job is not None
    assert (job.kind, job.inputs) == ("merge", (3, 23))


def test_of_equal_overlap_the_table_with_deletes_goes_down() -> None:
    one = (1, 1, tuple(table(n, b"%d" % n, b"%d~" % n, dead=80 * (n == 4)) for n in range(1, 6)))
    two = (2, 1, tuple(table(20 + n, b"%d" % n, b"%d!" % n) for n in range(1, 6)))
    job = pick(tree(one, two))
    assert job is not None
    assert job.inputs == (4, 24)


def test_a_table_that_is_mostly_deletes_does_not_wait_for_its_level() -> None:
    two = (2, 1, tuple(table(20 + n, b"%d" % n, b"%d!" % n) for n in range(1, 6)))
    few = (1, 1, (table(9, b"0", b"0~"), table(2, b"2", b"2~", dead=199)))
    many = (1, 1, (table(9, b"0", b"0~"), table(2, b"2", b"2~", dead=200)))
    assert pick(tree(few, two)) is None
    job = pick(tree(many, two))
    assert job is not None
    assert (job.kind, job.inputs) == ("merge", (2, 22))
    assert pick(tree(many)) is None, "there is nothing below that they could end"


def test_a_small_last_run_is_the_next_level_and_a_large_one_has_levels_above() -> None:
    one = (1, 1, tuple(table(n, b"%d" % n, b"%d~" % n) for n in range(1, 6)))
    small = (15, 1, (table(30, b"1", b"9"),))
    job = pick(tree(one, small))
    assert job is not None
    assert (job.out_level, 30 in job.inputs) == (LEVEL_LAST, True)
    between = (2, 2, (table(40, b"7", b"9"),))
    job = pick(tree(one, between, small))
    assert job is not None
    assert (job.out_level, job.kind) == (2, "move"), "it would pass over level 2"
    large = (15, 1, (table(30, b"1", b"9", size=10**8),))
    job = pick(tree(one, large))
    assert job is not None
    assert (job.out_level, job.kind) == (2, "move")


def test_runs_that_another_policy_left_in_one_level_are_merged_first() -> None:
    left = tuple((2, n, (table(n, b"a", b"z"),)) for n in (7, 6))
    job = pick(tree(*flushed(5), *left))
    assert job is not None
    assert (job.kind, job.inputs, job.out_level) == ("move", (6,), 3)
    job = pick(tree(*flushed(5), *left, (3, 1, (table(1, b"c", b"d"),))))
    assert job is not None
    assert (job.kind, sorted(job.inputs), job.out_level) == ("merge", [1, 6, 7], 3)


def test_each_range_has_its_part_of_the_sizes() -> None:
    def level(low: bytes) -> tuple[bytes, tuple[Any, ...]]:
        tables = (table(ord(low) + n, low + b"%d" % n, low + b"%d~" % n) for n in range(3))
        return low, ((1, 1, tuple(tables)),)

    alone = Tree.from_raw(0, ((b"", level(b"a")[1]),))
    assert pick(alone) is None
    job = pick(Tree.from_raw(0, ((b"", level(b"a")[1]), level(b"k"))))
    assert job is not None
    assert job.priority == 1.5


def test_pressure_is_the_number_of_flushed_runs() -> None:
    assert Leveled().pressure(tree(*flushed(7), (1, 1, (table(1, b"a", b"c"),)))) == 7


def test_a_full_compaction_goes_to_the_deepest_level() -> None:
    runs = (*flushed(2, b"a", b"c"), (1, 5, (table(5, b"a", b"b"), table(6, b"x", b"z"))))
    deep = (3, 1, (table(1, b"a", b"d"), table(2, b"y", b"z")))
    (job,) = Leveled().full_jobs(tree(*runs, deep), OPTIONS, None, None)
    assert (job.out_level, sorted(job.inputs)) == (3, [1, 2, 5, 6, 101, 102])
    (job,) = Leveled().full_jobs(tree(*runs, deep), OPTIONS, b"x", None)
    assert (job.out_level, sorted(job.inputs)) == (3, [2, 6])
    assert Leveled().full_jobs(tree(deep), OPTIONS, None, None) == []
    (job,) = Leveled().full_jobs(tree(*flushed(1)), OPTIONS, None, None)
    assert (job.out_level, job.inputs) == (1, (101,))


def test_its_parameter_has_a_range() -> None:
    with pytest.raises(ValueError, match="runs must be from 1 to 64"):
        Leveled(runs=0)
