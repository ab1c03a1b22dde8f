"""Lazy leveling by key range: the default policy.

Above, in each range, runs are gathered in tiers: as many runs of one tier as a read can bear are
merged into one run of the next. Below stands one last run, and only when the upper runs hold a
good part of what it holds are they merged into it, because that is what costs. So writes are
nearly as cheap as with tiering, reads and space nearly as with leveling (Dayan and Idreos,
"Dostoevsky: Better Space-Time Trade-Offs for LSM-Tree Based Key-Value Stores", 2018).

Each range decides alone, and a range has no more than a few tables in its last run: jobs stay
small, and so do the space that they need for a while and the time for which a writer may have to
wait. Simulated with uniform overwrites and live data of 8 and 32 flushes, a row is merged 2.4 and
3.6 times, and a read meets 3 and 4 runs; leveled compaction merges 2.9 and 6.6 times.
"""

from __future__ import annotations

from .._record import check_float, check_int, record
from ..version import LEVEL_LAST, Job
from .policy import (
    Policy,
    blocked_ranges,
    compression_of,
    parts_of,
    settled_bytes,
    small_bytes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from ..options import Options
    from ..version import Range, Run, Table, Tree

__all__ = ["LazyLeveled"]

MOVE_PRIORITY = 2000.0
JOIN_PRIORITY = 1000.0
"""Both cost one line of the manifest and make the other jobs smaller, so they come first."""


@record(frozen=True, kw_only=True)
class LazyLeveled(Policy):
    """Tiers of runs above, one last run below, in key ranges of a few tables."""

    name: ClassVar[str] = "lazy-leveled"

    runs: int = 4
    """Runs of one tier that are merged into one of the next: 2 to 32. More make writing cheaper
    and reading dearer."""
    ratio: float = 0.5
    """The upper runs are merged into the last run once they hold this share of it: 0.01 to 1.
    Less makes for fewer dead rows and dearer writing."""
    tables_per_range: int = 4
    """Tables of the last run after which a range is cut: 1 to 1024."""

    def _check(self, name: str, value: Any) -> None:
        if name == "runs":
            check_int("runs", value, 2, 32)
        elif name == "tables_per_range":
            check_int("tables_per_range", value, 1, 1024)
        else:
            check_float("ratio", value, 0.01, 1)

    def split_tables(self) -> int:
        return self.tables_per_range

    def level_names(self, tree: Tree) -> dict[int, str]:
        names = super().level_names(tree)
        return {
            level: "flushed" if level == 0 else name.replace("level", "tier")
            for level, name in names.items()
        }

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        """Moves and joins, which are free, first; then the range with the most runs."""
        blocked = blocked_ranges(tree, busy)
        ready = [index for index, r in enumerate(tree.ranges) if r.lower not in blocked]
        for index in ready:
            job = self._move(tree, tree.ranges[index], options)
            if job is None:
                job = self._join(tree, index, blocked)
            if job is not None:
                return job
        horizon = _horizon(tree)
        ready.sort(key=lambda index: -tree.ranges[index].upper_runs)
        for index in ready:
            job = self._merge(tree, tree.ranges[index], options, horizon)
            if job is not None:
                return job
        return None

    def _move(self, tree: Tree, r: Range, options: Options) -> Job | None:
        """Tables that lie in this range alone and above nothing older go to the last level as they
        are: all that an append-only load needs.

        A small table, or one with many deletes, is better merged with others first: in the last
        level nothing would touch it again.
        """
        enough = settled_bytes(options)
        for index, run in enumerate(r.runs[: r.upper_runs]):
            moved = [
                table
                for table in run.tables
                if table.bytes >= enough
                and table.tombstones * 10 <= table.rows
                and r.holds(table)
                and not _overlaps(r.runs[index + 1 :], table)
            ]
            if moved:
                return Job(
                    tree=tree.tree,
                    lower=r.lower,
                    upper=r.upper,
                    inputs=tuple([table.file for table in moved]),
                    kind="move",
                    split_tables=self._split_limit(tree, r, moved, len(moved), options),
                    priority=MOVE_PRIORITY,
                    reason="nothing older overlaps",
                )
        return None

    def _split_limit(
        self, tree: Tree, r: Range, inputs: list[Table], outputs: int, options: Options
    ) -> int:
        """How many tables the last run of the range may have: more than `tables_per_range` where
        they are smaller than `table_bytes`, as tables that were moved can be."""
        taken = {table.file for table in inputs}
        kept = [t for t in _tables(r.runs[r.upper_runs :]) if t.file not in taken]
        total = tree.share(kept) + tree.share(inputs)
        full = self.tables_per_range * options.table_bytes
        return max(self.tables_per_range, full * (len(kept) + outputs) // max(total, 1))

    def _join(self, tree: Tree, index: int, blocked: set[bytes]) -> Job | None:
        """An empty range goes to its left neighbour, unless a table of that one reaches over the
        bound: its dead rows beyond would come back."""
        r = tree.ranges[index]
        if index == 0 or r.runs:
            return None
        left = tree.ranges[index - 1]
        if left.lower in blocked or any(table.max_key >= r.lower for table in left.tables()):
            return None
        return Job(
            tree=tree.tree,
            lower=r.lower,
            upper=r.upper,
            kind="join",
            priority=JOIN_PRIORITY,
            reason="the range is empty",
        )

    def _merge(self, tree: Tree, r: Range, options: Options, horizon: int) -> Job | None:
        """The merge that is due in this range; for `horizon` see the function of that name."""
        upper = r.runs[: r.upper_runs]
        tables = _tables(upper)
        tier = _full_tier(upper, self.runs)
        if tier is None:
            if any(table.tombstones for table in tables):
                is_left = all(table.seq_max < horizon for table in tables)
                return self._end_rows(tree, r, options, tables, is_left)
            return None
        last = _under(r, tables)
        upper_bytes = tree.share(tables)
        # Beside a last run, small tables would stay small for ever.
        is_beside = not last and r.upper_runs < len(r.runs) and upper_bytes < settled_bytes(options)
        if upper_bytes >= self.ratio * tree.share(last) and not is_beside:
            return self._job(tree, r, [*tables, *last], LEVEL_LAST, options, "much is above")
        # Only now, not as soon as the ratio is met: between two full tiers it would be met once a
        # flush where little lives, and the last run merged for each.
        first, end, level = tier
        while end < len(upper) and (n := _count(upper, end, level)) + 1 >= self.runs:
            end += n
            level += 1
        if level >= LEVEL_LAST:
            return self._job(tree, r, [*tables, *last], LEVEL_LAST, options, "no tier is left")
        return self._job(tree, r, _tables(upper[first:end]), level, options, "a tier is full")

    def _end_rows(
        self, tree: Tree, r: Range, options: Options, upper: list[Table], is_left: bool
    ) -> Job | None:
        """Ends deleted rows where no tier is full; `upper` are the tables above the last level.

        If the deletes are half of what else is there, at least a third of all rows go for good by
        merging into the last run. A range that writes have left (`is_left`: the last flush did not
        touch it), as a queue's head leaves one after another, would never fill a tier again, so
        its upper runs are brought together: what they hold here is then known, not estimated.
        """
        last = _under(r, upper)
        rows, tombstones = tree.rows(upper)
        last_rows, _ = tree.rows(last)
        is_worth_it = is_left or tree.share(upper) + tree.share(last) >= small_bytes(options)
        if is_worth_it and 2 * tombstones >= rows - tombstones + last_rows:
            return self._job(tree, r, [*upper, *last], LEVEL_LAST, options, "deletes")
        if is_left and not all(r.holds(table) for table in upper):
            level = max(r.runs[r.upper_runs - 1].level, 1)
            return self._job(tree, r, upper, level, options, "writes have left the range")
        return None

    def _job(
        self,
        tree: Tree,
        r: Range,
        tables: list[Table],
        level: int,
        options: Options,
        reason: str,
    ) -> Job:
        """The merge of these tables into a run of `level`."""
        is_last = level == LEVEL_LAST
        outputs = -(-tree.share(tables) // options.table_bytes)
        return Job(
            tree=tree.tree,
            lower=r.lower,
            upper=r.upper,
            inputs=tuple([table.file for table in tables]),
            out_level=level,
            split_tables=self._split_limit(tree, r, tables, outputs, options) if is_last else 0,
            cut_bytes=options.table_bytes,
            compression=compression_of(options, is_last),
            parts=parts_of(tree.share(tables), options),
            priority=float(r.upper_runs),
            reason=reason,
        )


def _tables(runs: Sequence[Run]) -> list[Table]:
    return [table for run in runs for table in run.tables]


def _under(r: Range, upper: list[Table]) -> list[Table]:
    """The tables of the last run that the upper ones, all together, reach over: where writes have
    gone to a part of the range, the rest of it stays."""
    low = min([table.min_key for table in upper])
    high = max([table.max_key for table in upper])
    return [table for run in r.runs[r.upper_runs :] for table in run.overlapping(low, high)]


def _horizon(tree: Tree) -> int:
    """The least sequence of the newest table above the last level: a range whose upper tables are
    all older was not touched by the last flush."""
    newest = None
    for r in tree.ranges:
        for run in r.runs[: r.upper_runs]:
            for table in run.tables:
                if newest is None or table.seq_max > newest.seq_max:
                    newest = table
    return newest.seq_min if newest else 0


def _overlaps(runs: Sequence[Run], table: Table) -> bool:
    return any(run.overlapping(table.min_key, table.max_key) for run in runs)


def _count(runs: Sequence[Run], first: int, level: int) -> int:
    """How many runs from `first` on are of this level."""
    end = first
    while end < len(runs) and runs[end].level == level:
        end += 1
    return end - first


def _full_tier(upper: Sequence[Run], runs: int) -> tuple[int, int, int] | None:
    """First and end of the newest tier that is full, and the level that it is merged to."""
    first = 0
    while first < len(upper):
        level = upper[first].level
        end = first + _count(upper, first, level)
        if end - first >= runs:
            return first, end, level + 1
        first = end
    return None
