"""Compaction by time, for rows that are written once and leave by their age.

Runs are grouped by the stretch of time, the *window*, in which their newest row was written. Within
the newest window they are merged as `SizeTiered` does; each older window becomes one run, once, and
is left alone from then on (Cassandra's TimeWindowCompactionStrategy, by Jeff Jirsa). So rows of one
age stand together, and where all rows are written with a `ttl`, whole tables expire and leave
without being read (`Policy.reclaim`), the oldest first. A read meets a run for each window.

The time of a run is that of its newest row, or of an older run's where a clock was set back: so
windows follow one another as the ages of their runs do, and the newer row is found first.
"""

from __future__ import annotations

from .._record import check_float, check_int, record
from .policy import Policy, dead_bytes, is_alone, small_bytes, touches
from .tiered import fullest_tier, is_taken, merge_in_place, taken_files, waiting_runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, ClassVar

    from ..options import Options
    from ..version import Job, Range, Table, Tree

__all__ = ["ByAge", "TimeWindow"]


class ByAge(Policy):
    """A policy that never merges runs of different groups, so that rows of one age stand together:
    neither a full compaction nor dead rows make it do so."""

    def _groups(self, r: Range) -> list[tuple[int, int]]:
        """First and end of the runs of each group, the newest first."""
        raise NotImplementedError

    def full_jobs(
        self,
        tree: Tree,
        options: Options,
        start: bytes | None,
        stop: bytes | None,
        files: frozenset[int] | None = None,
    ) -> list[Job]:
        jobs = []
        for index in tree.touched(start, stop):
            r = tree.ranges[index]
            for first, end in self._groups(r):
                tables = self._unsettled_of(r, first, end, start, stop)
                if any(files is None or table.file in files for table in tables):
                    reason = "compact() was called"
                    jobs.append(merge_in_place(tree, r, options, first, end, reason))
                    break
        return jobs

    def _unsettled(self, r: Range, start: bytes | None, stop: bytes | None) -> Iterable[Table]:
        for first, end in self._groups(r):
            yield from self._unsettled_of(r, first, end, start, stop)

    def _unsettled_of(
        self, r: Range, first: int, end: int, start: bytes | None, stop: bytes | None
    ) -> list[Table]:
        """Those of one group: all where it has several runs, else those with rows that can go."""
        return [
            table
            for index in range(first, end)
            for table in r.runs[index].tables
            if touches(table, start, stop)
            and (
                end - first > 1
                or table.expired
                or table.covered
                or (table.tombstones and is_alone(r, index, table))
            )
        ]

    def _reclaim(
        self, tree: Tree, r: Range, options: Options, suspects: list[tuple[int, Table]]
    ) -> Job | None:
        """The table that has most dead bytes is written anew where it stands."""
        best: tuple[int, int, Table] | None = None
        for index, table in suspects:
            dead = dead_bytes(table)
            if table.tombstones and not is_alone(r, index, table):
                # Deletes stay while something older is below them.
                dead = max(table.covered, table.bytes * table.expired // table.rows)
            is_worth_it = dead >= max(small_bytes(options), options.max_garbage * table.bytes)
            if is_worth_it and (best is None or dead > best[0]):
                best = (dead, index, table)
        if best is None:
            return None
        _, index, table = best
        job = merge_in_place(tree, r, options, index, index + 1, "much of it is dead")
        return job.replace(inputs=(table.file,))


@record(frozen=True, kw_only=True)
class TimeWindow(ByAge):
    """One run for each window of time: for time series, best with a `ttl`."""

    name: ClassVar[str] = "time-window"

    seconds: float
    """Length of a window: 0.001 to 1e9. The ttl should be some ten or thirty of them."""
    runs: int = 4
    """Runs of one size within the newest window that are merged into one: 2 to 32."""

    def _check(self, name: str, value: Any) -> None:
        if name == "seconds":
            check_float("seconds", value, 0.001, 1e9)
        else:
            check_int(name, value, 2, 32)

    def counted_runs(self, r: Range) -> int:
        """Those of the newest window: each other one waits for one merge at most."""
        end = self._groups(r)[0][1] if r.runs else 0
        return waiting_runs(r.runs[:end], self.runs)

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        """A window that is over and not one run yet, the oldest first; else the newest window's
        fullest tier."""
        best: Job | None = None
        for r in tree.ranges:
            taken = taken_files(tree, r, busy)
            if taken is None or not r.runs:
                continue
            windows = self._groups(r)
            for first, end in reversed(windows[1:]):
                if end - first > 1 and not is_taken(r.runs[first:end], taken):
                    return merge_in_place(tree, r, options, first, end, "the window is over")
            best = fullest_tier(tree, r, options, self.runs, taken, best, *windows[0])
        return best

    def _groups(self, r: Range) -> list[tuple[int, int]]:
        """The windows."""
        length = max(int(self.seconds * 1e6), 1)
        numbers: list[int] = []
        newest = 0
        for run in reversed(r.runs):
            newest = max(newest, max([table.written for table in run.tables]) // length)
            numbers.append(newest)
        numbers.reverse()
        windows: list[tuple[int, int]] = []
        for index, number in enumerate(numbers):
            if index > 0 and number == numbers[index - 1]:
                windows[-1] = (windows[-1][0], index + 1)
            else:
                windows.append((index, index + 1))
        return windows
