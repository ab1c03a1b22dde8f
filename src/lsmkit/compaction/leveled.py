"""Leveled compaction, as LevelDB and RocksDB do it: few runs for a read, dear writing.

Flushes gather in level 0. Every deeper level is one run, `level_fanout` times as large as the one
above; what is over a level's size moves down, table by table, merged with the tables there that it
overlaps. Beside `LazyLeveled` it merges a row about twice as often and keeps reads at three runs.

A tree has one range. One that was written by another policy has more, and each is compacted for
itself, with its part of the sizes; a last run (level 15) that is there stays the deepest level.
"""

from __future__ import annotations

from .._record import check_int, record
from ..version import LEVEL_LAST, Job
from .policy import Policy, compression_of, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from ..options import Options
    from ..version import Range, Run, Table, Tree

__all__ = ["Leveled"]

SCORE_OF_RUNS = 100.0
"""Score of a deep level of several runs, which only another policy leaves: first of all."""


@record(frozen=True, kw_only=True)
class Leveled(Policy):
    """Levels of one run each; sizes by the options `level_base_bytes` and `level_fanout`."""

    name: ClassVar[str] = "leveled"

    runs: int = 4
    """Runs in level 0 that are merged into level 1: 1 to 64."""

    def _check(self, name: str, value: Any) -> None:
        check_int(name, value, 1, 64)

    def bottom(self, r: Range) -> int:
        return max(r.runs[-1].level, 1) if r.runs else 1

    def counted_runs(self, r: Range) -> int:
        return _flushed(r)

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        """The level that is most over its size, of all ranges."""
        best: Job | None = None
        for r in tree.ranges:
            running = [job for job in busy if job.tree == tree.tree and job.lower == r.lower]
            job = _RangeLevels(self, tree, r, options, running).pick()
            if job is not None and (best is None or job.priority > best.priority):
                best = job
        return best


def _flushed(r: Range) -> int:
    """The number of runs in level 0."""
    count = 0
    while count < len(r.runs) and r.runs[count].level == 0:
        count += 1
    return count


class _RangeLevels:
    """One range with its levels, while a job is looked for."""

    def __init__(
        self,
        policy: Leveled,
        tree: Tree,
        r: Range,
        options: Options,
        running: Sequence[Job],
    ) -> None:
        self.policy = policy
        self.tree = tree
        self.range = r
        self.options = options
        self.taken = frozenset([file for job in running for file in job.inputs])
        self.levels: dict[int, list[Run]] = {}
        for run in r.runs:
            self.levels.setdefault(run.level, []).append(run)

    def pick(self) -> Job | None:
        scores = [(self.score(level), level) for level in self.levels if level < LEVEL_LAST]
        # Of equal scores the deeper level first: it makes room for the others.
        for score, level in sorted(scores, reverse=True):
            if score >= 1.0:
                many = level == 0 or len(self.levels[level]) > 1
                job = self.merge_runs(level, score) if many else self.merge_table(level, score)
                if job is not None:
                    return job
        return None

    def target(self, level: int) -> float:
        """Bytes that level 1 and deeper may hold in this range."""
        whole = self.options.level_base_bytes * float(self.options.level_fanout) ** (level - 1)
        return whole / len(self.tree.ranges)

    def score(self, level: int) -> float:
        """How full the level is: 1 is just full."""
        runs = self.levels[level]
        if level == 0:
            return len(runs) / self.policy.runs
        if len(runs) > 1:
            return SCORE_OF_RUNS + level
        tables = [table for table in runs[0].tables if table.file not in self.taken]
        full = self.tree.share(tables) / self.target(level)
        # In the deepest level only a snapshot can have kept them.
        if full < 1.0 and level < max(self.levels) and any(_is_dying(table) for table in tables):
            return 1.0
        return full

    def next_level(self, level: int) -> int:
        """Where tables of this level go: one deeper, or right to a last run that is so small that
        the next level has no need to stand between."""
        last = self.levels.get(LEVEL_LAST)
        if last is None or any(level < other < LEVEL_LAST for other in self.levels):
            return level + 1
        last_bytes = self.tree.share([table for run in last for table in run.tables])
        is_small = level + 1 >= LEVEL_LAST or self.target(level + 1) >= last_bytes
        return LEVEL_LAST if is_small else level + 1

    def merge_runs(self, level: int, score: float) -> Job | None:
        """All runs of level 0 into the next; one job at a time, or their ages would mix."""
        runs = self.levels[level]
        tables = [table for run in runs for table in run.tables]
        if any(table.file in self.taken for table in tables):
            return None
        out = self.next_level(level)
        below = self.levels.get(out, [])
        if len(below) > 1:
            return None
        oldest = list(runs[-1].tables)
        if all(self.may_move(table, below) for table in oldest):
            return self.job(oldest, out, "move", score, "nothing overlaps")
        low = min([table.min_key for table in tables])
        high = max([table.max_key for table in tables])
        under = below[0].overlapping(low, high) if below else ()
        if any(table.file in self.taken for table in under):
            return None
        return self.job([*tables, *under], out, "merge", score, f"level {level} has many runs")

    def merge_table(self, level: int, score: float) -> Job | None:
        """The table that costs least: the bytes below that it is merged with, for each byte that
        leaves the level. Deletes count as the rows that they end, and a table of little else comes
        first, or a queue's dead rows would stay for ever where overlap is dear."""
        out = self.next_level(level)
        below = self.levels.get(out, [])
        if len(below) > 1:
            return None
        best: list[Table] = []
        best_cost = (False, 0.0)
        for table in self.levels[level][0].tables:
            under = below[0].overlapping(table.min_key, table.max_key) if below else ()
            if table.file in self.taken or any(other.file in self.taken for other in under):
                continue
            cost = (not _is_dying(table), self.cost(table, under))
            if not best or cost < best_cost:
                best, best_cost = [table, *under], cost
        if not best:
            return None
        if len(best) == 1 and self.may_move(best[0], []):
            return self.job(best, out, "move", score, "nothing overlaps")
        return self.job(best, out, "merge", score, f"level {level} is full")

    def cost(self, table: Table, under: Sequence[Table]) -> float:
        under_bytes = sum([other.bytes for other in under])
        under_rows = sum([other.rows for other in under])
        ended = table.tombstones * under_bytes / under_rows if under_rows else 0.0
        return under_bytes / (table.bytes + ended + 1.0)

    def may_move(self, table: Table, below: Sequence[Run]) -> bool:
        """Whether the table can go down as it is. Not with deletes, which merging would end, nor
        out of a range that is not the only one to hold it."""
        return (
            table.tombstones * 10 <= table.rows
            and self.range.holds(table)
            and not any(run.overlapping(table.min_key, table.max_key) for run in below)
        )

    def job(self, tables: Sequence[Table], out: int, kind: str, score: float, reason: str) -> Job:
        return Job(
            tree=self.tree.tree,
            lower=self.range.lower,
            upper=self.range.upper,
            inputs=tuple([table.file for table in tables]),
            out_level=out,
            kind=kind,
            cut_bytes=self.options.table_bytes,
            compression=compression_of(self.options, out >= max(self.levels)),
            parts=parts_of(self.tree.share(tables), self.options) if kind == "merge" else 1,
            priority=score,
            reason=reason,
        )


def _is_dying(table: Table) -> bool:
    """Whether most rows of the table are deletes."""
    return 2 * table.tombstones >= table.rows > 0
