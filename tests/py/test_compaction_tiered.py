"""Claim: SizeTiered merges little, keeps the number of runs within its tiers, moves what it can,
and never asks for a job that the core would have to refuse.

Method: the store without files of compaction_sim.py, as for the other policies; single decisions.
"""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from lsmkit.compaction import SizeTiered
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
SMALL = FLUSH * sim.ROW_BYTES // 8


def table(file: int, low: bytes, high: bytes, size: int = SMALL, dead: int = 0) -> tuple[Any, ...]:
    return (file, size, size // 100, dead, low, high, file, file, 0, 0, True, 0, 0, 0)


def tree(*sizes: int) -> Tree:
    """Runs that all overlap, the newest first, as files 100, 99 and so on; the oldest is the last
    run."""
    runs = [(0, 100 - n, (table(100 - n, b"a", b"z", size),)) for n, size in enumerate(sizes)]
    if runs:
        runs[-1] = (LEVEL_LAST, *runs[-1][1:])
    return Tree.from_raw(0, ((b"", tuple(runs)),))


def pick(t: Tree, *busy: Job) -> Job | None:
    return SizeTiered().pick(t, OPTIONS, busy, 0.0)


# ---- whole loads


@pytest.mark.parametrize(("live", "merged", "runs"), [(8, 2.47, 6), (32, 3.4, 9)])
def test_uniform_overwrites_stay_within_the_stated_figures(
    live: int, merged: float, runs: int
) -> None:
    store = sim.SimStore(SizeTiered(), OPTIONS)
    load = sim.Uniform(FLUSH, live, seed=live)
    for number in range(9 * live + 30):
        if number == 3 * live:
            store.writes = store.merged_rows = store.peak_rows = 0
        store.flush(load.next(), FLUSH)
        store.settle()
        assert store.tree().runs_max() <= runs
        assert store.policy.pressure(store.tree()) == 0, "nothing is left to be done"
    assert store.amplification <= 1.05 * merged
    assert store.peak_rows <= 3.3 * live * FLUSH
    store.check(load.rng)


def test_appending_only_moves_tables() -> None:
    store = sim.SimStore(SizeTiered(), OPTIONS)
    for number in range(60):
        first = number * FLUSH
        store.flush({key: key + 1 for key in range(first, first + FLUSH)})
        store.settle()
        assert store.tree().runs_max() == 1
    assert {job.kind for job in store.jobs} == {"move"}
    store.check(random.Random(0))


@pytest.mark.parametrize("seed", range(6))
def test_jobs_that_run_side_by_side_never_meet(seed: int) -> None:
    """Also not with flushes that come while they run."""
    rng = random.Random(seed)
    store = sim.SimStore(SizeTiered(runs=2 + seed % 3), OPTIONS)
    load = sim.Uniform(FLUSH, 12, seed) if seed % 2 else sim.Queue(FLUSH, 6 * FLUSH)
    busy: list[Job] = []
    together = 0
    for _ in range(100):
        store.flush(load.next(), FLUSH)
        store.flush(load.next(), FLUSH)
        for _ in range(rng.randrange(3)):
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


def test_a_backlog_is_pressure() -> None:
    store = sim.SimStore(SizeTiered(), OPTIONS)
    load = sim.Uniform(FLUSH, 8, seed=1)
    for _ in range(30):
        store.flush(load.next(), FLUSH)
    assert store.policy.pressure(store.tree()) >= 18, "writers wait"
    store.settle()
    assert store.policy.pressure(store.tree()) == 0


# ---- single decisions


def test_a_tier_waits_for_its_fourth_run() -> None:
    assert pick(tree()) is None
    assert pick(tree(SMALL, SMALL, SMALL)) is None
    job = pick(tree(*[SMALL] * 4))
    assert job is not None
    assert (job.kind, job.in_place, job.out_level) == ("merge", True, 0)
    assert sorted(job.inputs) == [97, 98, 99, 100]


def test_runs_of_other_sizes_are_left_alone() -> None:
    assert pick(tree(SMALL, SMALL, SMALL, 4 * SMALL, 4 * SMALL, 4 * SMALL, 16 * SMALL)) is None
    job = pick(tree(SMALL, *[4 * SMALL] * 4, 16 * SMALL))
    assert job is not None
    assert sorted(job.inputs) == [96, 97, 98, 99]


def test_small_runs_behind_large_ones_do_not_stay_for_ever() -> None:
    job = pick(tree(4 * SMALL, SMALL, 4 * SMALL, SMALL))
    assert job is not None
    assert sorted(job.inputs) == [97, 98, 99, 100]


def test_the_place_is_that_of_the_newest_run_whatever_its_level() -> None:
    runs = tuple((level, 1, (table(20 + level, b"a", b"z"),)) for level in (2, 3, 5, LEVEL_LAST))
    job = pick(Tree.from_raw(0, ((b"", runs),)))
    assert job is not None
    assert (job.in_place, job.out_level) == (True, 2)


def test_only_jobs_that_stay_in_their_place_run_beside_others() -> None:
    t = tree(*[SMALL] * 4, *[4 * SMALL] * 4)
    first = pick(t)
    assert first is not None
    second = pick(t, first)
    assert second is not None
    assert not set(first.inputs) & set(second.inputs)
    assert pick(t, first.replace(in_place=False)) is None


def test_its_parameter_has_a_range() -> None:
    with pytest.raises(ValueError, match="runs must be from 2 to 32"):
        SizeTiered(runs=1)
