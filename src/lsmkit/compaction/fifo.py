"""First in, first out: the oldest tables go when there is too much, whatever they hold.

For rows that are of use while they are new: logs, caches, measurements of the last hours. Nothing
is merged but tables so small that they would be many (RocksDB's FIFO compaction). Tables go from
the oldest run only, so an older row never comes back because a newer one has gone; what was a sum
of operands begins anew with those that are left. A row that goes, goes for everybody, snapshots
too, as one does whose `ttl` has come; scans and cursors that were begun go on with what they see.
"""

from __future__ import annotations

from .._record import check_int, record
from ..version import Job
from .policy import RECLAIM_PRIORITY, small_bytes
from .tiered import groups_of, is_taken, merge_in_place, taken_files
from .window import ByAge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from ..options import Options
    from ..version import Range, Table, Tree

__all__ = ["Fifo"]

SMALL_RUNS = 4
"""So many small runs that follow one another are merged into one."""

PIECES = 16
"""A merged run has no more than this part of `max_bytes`: it goes as a whole."""


@record(frozen=True, kw_only=True)
class Fifo(ByAge):
    """The oldest tables go when all tables of the tree together are larger than `max_bytes`."""

    name: ClassVar[str] = "fifo"

    max_bytes: int
    """Bytes of tables that are kept: 4096 to 2**60. What the log holds is not counted."""

    def _check(self, name: str, value: Any) -> None:
        check_int(name, value, 4096, 1 << 60)

    def counted_runs(self, r: Range) -> int:
        return 0  # there may be any number of them

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        """What is too much goes first; then small runs are merged."""
        if any(job.tree == tree.tree and job.kind == "drop" for job in busy):
            return None
        return self._drop(tree, busy) or self._merge(tree, options, busy)

    def _drop(self, tree: Tree, busy: Sequence[Job]) -> Job | None:
        """The oldest tables of the range that has the oldest of all."""
        sizes = {table.file: table.bytes for r in tree.ranges for table in r.tables()}
        over = sum(sizes.values()) - self.max_bytes
        if over <= 0:
            return None
        oldest: tuple[int, Range] | None = None
        for r in tree.ranges:
            if r.runs:
                written = min([table.written for table in r.runs[-1].tables])
                if oldest is None or written < oldest[0]:
                    oldest = (written, r)
        if oldest is None:
            return None
        r = oldest[1]
        gone = self._oldest(tree, r, over)
        taken = taken_files(tree, r, busy)
        if taken is None or not taken.isdisjoint(gone):
            return None  # it is being merged, and will be there under another name
        return Job(
            tree=tree.tree,
            lower=r.lower,
            upper=r.upper,
            inputs=tuple(gone),
            kind="drop",
            priority=RECLAIM_PRIORITY,
            reason=f"{over} bytes more than max_bytes",
        )

    def _oldest(self, tree: Tree, r: Range, over: int) -> list[int]:
        """Tables of the range, whole runs before newer ones, until `over` bytes have gone."""
        gone: list[int] = []
        for run in reversed(r.runs):
            for table in sorted(run.tables, key=_written):
                if over <= 0:
                    return gone
                gone.append(table.file)
                over -= tree.share([table])
        return gone

    def _merge(self, tree: Tree, options: Options, busy: Sequence[Job]) -> Job | None:
        most = min(max(small_bytes(options), 1) * SMALL_RUNS, self.max_bytes // PIECES)
        for r in tree.ranges:
            taken = taken_files(tree, r, busy)
            if taken is None:
                continue
            for first, end in groups_of(tree, r, options, SMALL_RUNS):
                if end - first < SMALL_RUNS:
                    continue
                # The oldest of them, as far as they go together.
                begin = end
                size = 0
                while begin > first:
                    more = tree.share(r.runs[begin - 1].tables)
                    if size + more > most:
                        break
                    size += more
                    begin -= 1
                if end - begin >= SMALL_RUNS and not is_taken(r.runs[begin:end], taken):
                    return merge_in_place(tree, r, options, begin, end, "they are small")
        return None

    def _groups(self, r: Range) -> list[tuple[int, int]]:
        return [(index, index + 1) for index in range(len(r.runs))]


def _written(table: Table) -> int:
    return table.written
