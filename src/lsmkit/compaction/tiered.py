"""Size-tiered compaction: runs of about the same size are merged into one, and that is all.

The cheapest policy for writers, the dearest for readers and for the disk: a row is merged once for
each tier, a read meets up to `runs - 1` runs of each, and a key that was overwritten stands in as
many (Cassandra's SizeTieredCompactionStrategy; Lakshman and Malik, "Cassandra: A Decentralized
Structured Storage System", 2010). Only runs that follow one another in age are merged, so a newer
row is always found first. Simulated with uniform overwrites and live data of 8 and 32 flushes, a
row is merged 2.5 and 3.4 times, a read meets 3.5 and 5 runs, and the tables hold 1.6 times what
lives, 3.2 times while the largest runs are merged.

A tier is a power of `runs`: runs of up to an eighth of `table_bytes` are of the first, those that
are `runs` times as large of the second, and so on. A run counts as large as the largest that is
newer, or small old ones would be left behind between large ones for ever.

Runs that overlap nothing older go to the last level as they are: appending costs no merging.
"""

from __future__ import annotations

from .._record import check_int, record
from ..version import Job
from .policy import (
    Policy,
    compression_of,
    is_alone,
    parts_of,
    settled_bytes,
    small_bytes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from ..options import Options
    from ..version import Range, Run, Tree

__all__ = [
    "SizeTiered",
    "fullest_tier",
    "groups_of",
    "is_taken",
    "merge_in_place",
    "taken_files",
    "waiting_runs",
]


@record(frozen=True, kw_only=True)
class SizeTiered(Policy):
    """Runs of about the same size are merged: little writing, much reading, much space."""

    name: ClassVar[str] = "size-tiered"

    runs: int = 4
    """Runs of one size that are merged into one: 2 to 32. More make writing cheaper and reading
    dearer."""

    def _check(self, name: str, value: Any) -> None:
        check_int(name, value, 2, 32)

    def counted_runs(self, r: Range) -> int:
        return waiting_runs(r.runs, self.runs)

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        """What is free first; then the fullest tier, of equal ones the newest."""
        best: Job | None = None
        for r in tree.ranges:
            taken = taken_files(tree, r, busy)
            if taken is None:
                continue
            job = None if taken else self._move(tree, r, options)
            if job is not None:
                return job
            best = fullest_tier(tree, r, options, self.runs, taken, best)
        return best

    def _move(self, tree: Tree, r: Range, options: Options) -> Job | None:
        enough = settled_bytes(options)
        for index, run in enumerate(r.runs[: r.upper_runs]):
            moved = [
                table.file
                for table in run.tables
                if table.bytes >= enough
                and table.tombstones * 10 <= table.rows
                and r.holds(table)
                and is_alone(r, index, table)
            ]
            if moved:
                return Job(
                    tree=tree.tree,
                    lower=r.lower,
                    upper=r.upper,
                    inputs=tuple(moved),
                    kind="move",
                    priority=float(len(r.runs)),
                    reason="nothing older overlaps",
                )
        return None


def fullest_tier(
    tree: Tree,
    r: Range,
    options: Options,
    runs: int,
    taken: frozenset[int],
    best: Job | None,
    first: int = 0,
    end: int | None = None,
) -> Job | None:
    """The merge of the tier of [first, end) with the most runs, if those are `runs` or more, and
    more than `best` has; else `best`."""
    for begin, behind in groups_of(tree, r, options, runs, first, end):
        if behind - begin < runs or is_taken(r.runs[begin:behind], taken):
            continue
        if best is None or behind - begin > best.priority:
            best = merge_in_place(tree, r, options, begin, behind, "runs of about the same size")
    return best


def groups_of(
    tree: Tree, r: Range, options: Options, runs: int, first: int = 0, end: int | None = None
) -> list[tuple[int, int]]:
    """The runs of [first, end), cut where a tier ends: from the newest to the oldest."""
    groups: list[tuple[int, int]] = []
    end = len(r.runs) if end is None else end
    before = -1
    for index in range(first, end):
        size = tree.share(r.runs[index].tables)
        tier = 0
        while size > small_bytes(options) * runs**tier:
            tier += 1
        if tier > before:
            groups.append((index, index + 1))
            before = tier
        else:
            groups[-1] = (groups[-1][0], index + 1)
    return groups


def waiting_runs(found: Sequence[Run], runs: int) -> int:
    """How many of the runs are more than tiers of `runs - 1` account for."""
    sizes = [sum([table.bytes for table in run.tables]) for run in found]
    rest, tiers = sum(sizes) // max(min(sizes, default=1), 1), 1
    while rest >= runs:
        rest //= runs
        tiers += 1
    return max(len(sizes) - (runs - 1) * tiers, 0)


def merge_in_place(
    tree: Tree, r: Range, options: Options, first: int, end: int, reason: str
) -> Job:
    """The runs of [first, end) become one, which stands where the newest stood."""
    tables = [table for run in r.runs[first:end] for table in run.tables]
    return Job(
        tree=tree.tree,
        lower=r.lower,
        upper=r.upper,
        inputs=tuple([table.file for table in tables]),
        out_level=r.runs[first].level,
        in_place=True,
        cut_bytes=options.table_bytes,
        compression=compression_of(options, end == len(r.runs)),
        parts=parts_of(tree.share(tables), options),
        priority=float(end - first),
        reason=reason,
    )


def taken_files(tree: Tree, r: Range, busy: Sequence[Job]) -> frozenset[int] | None:
    """The inputs of the jobs that run in this range; None when nothing else may run beside them:
    only what stays in its place cannot meet the output of another."""
    running = [job for job in busy if job.tree == tree.tree and job.lower == r.lower]
    if not all(job.in_place for job in running):
        return None
    return frozenset([file for job in running for file in job.inputs])


def is_taken(runs: Sequence[Run], taken: frozenset[int]) -> bool:
    return any(table.file in taken for run in runs for table in run.tables)
