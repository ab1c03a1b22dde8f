"""What exists, as the policies see it: tables, in runs, in key ranges, of each tree; and jobs.

A tree's keys are cut into *ranges*. A range holds *runs*, newest first (level ascending, then stamp
descending); the tables of a run do not overlap. One table may stand in several ranges (a flush
writes one run over all of them) and speaks, within a range, only for that range's keys:

    range ""          | range "k"               | range "t"
    [ table 9 ............................................... ]   level 0, stamp 9
                      | [ table 7 ............................ ]  level 0, stamp 7
    [ t 3 ] [ t 4 ]   | [ t 5 ]                 | [ t 6 ]         the last level

These are plain values, made afresh from what the core hands over (`Version.from_raw`) whenever
something is decided: 1000 tables cost about a millisecond. Nobody changes them.

Callers    compaction/ decides by them, stats.py counts them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ._record import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TypeAlias

    Key: TypeAlias = bytes
    # (file, bytes, rows, tombstones, min_key, max_key, seq_min, seq_max, expired, covered, is_seen,
    #  written, due, wasted)
    RawTable: TypeAlias = tuple[
        int, int, int, int, bytes, bytes, int, int, int, int, bool, int, int, int
    ]
    RawRun: TypeAlias = tuple[int, int, tuple[RawTable, ...]]  # (level, stamp, tables)
    RawRange: TypeAlias = tuple[bytes, tuple[RawRun, ...]]  # (lower, runs)
    RawTree: TypeAlias = tuple[RawRange, ...]

__all__ = ["LEVEL_LAST", "Job", "Range", "Run", "Table", "Tree", "Version"]

LEVEL_LAST = 15
"""The level of the last run of lazy leveling (LK_LEVEL_LAST in version.h)."""


class Table:
    """One SSTable: its file number, what it weighs, and which keys it can hold."""

    __slots__ = (
        "bytes",
        "covered",
        "due",
        "expired",
        "file",
        "is_seen",
        "max_key",
        "min_key",
        "rows",
        "seq_max",
        "seq_min",
        "tombstones",
        "wasted",
        "written",
    )

    file: int
    bytes: int
    rows: int
    tombstones: int
    min_key: Key
    max_key: Key
    seq_min: int
    seq_max: int
    expired: int
    """Rows whose deadline has passed since the table was made, estimated from the first and the
    last. Those of before that are still there were kept for a reason: in a tree with a merge
    operator a newer operand may have renewed a row."""
    covered: int
    """Bytes of rows that range tombstones hide from everybody, estimated from its keys: not 0 where
    there may be any, all of its bytes where every row is one."""
    is_seen: bool
    """Whether every reader sees all rows of it: no snapshot is older than one of them."""
    written: int
    """No row was written later: microseconds since 1970, 0 where nothing is known."""
    due: int
    """When more of its rows will have expired: microseconds since 1970, 0 for never."""
    wasted: int
    """Bytes of its values that stand in files of which more than `max_garbage` is dead."""

    def __init__(self, raw: RawTable) -> None:
        (
            self.file,
            self.bytes,
            self.rows,
            self.tombstones,
            self.min_key,
            self.max_key,
            self.seq_min,
            self.seq_max,
            self.expired,
            self.covered,
            self.is_seen,
            self.written,
            self.due,
            self.wasted,
        ) = raw

    def __repr__(self) -> str:
        return f"Table({self.file}, {self.bytes} bytes, {self.min_key!r} to {self.max_key!r})"


class Run:
    """Tables that do not overlap, in key order, all of one age."""

    __slots__ = ("level", "stamp", "tables")

    def __init__(self, level: int, stamp: int, tables: tuple[Table, ...]) -> None:
        self.level = level
        self.stamp = stamp
        self.tables = tables

    def overlapping(self, low: bytes, high: bytes) -> tuple[Table, ...]:
        """The tables that can hold a key from `low` to `high`, both included."""
        first = bisect_left(self.tables, low, key=_max_key)
        return self.tables[first : bisect_right(self.tables, high, lo=first, key=_min_key)]

    def __repr__(self) -> str:
        return f"Run(level {self.level}, stamp {self.stamp}, {len(self.tables)} tables)"


def _min_key(table: Table) -> bytes:
    return table.min_key


def _max_key(table: Table) -> bytes:
    return table.max_key


class Range:
    """The keys from `lower` up to `upper` (None: to the end), and the runs that hold them.

    The first `upper_runs` of the runs stand above the last level.
    """

    __slots__ = ("lower", "runs", "upper", "upper_runs")

    def __init__(self, lower: bytes, upper: bytes | None, runs: tuple[Run, ...]) -> None:
        self.lower = lower
        self.upper = upper
        self.runs = runs
        self.upper_runs = len(runs)
        while self.upper_runs > 0 and runs[self.upper_runs - 1].level >= LEVEL_LAST:
            self.upper_runs -= 1

    def holds(self, table: Table) -> bool:
        """Whether all keys of the table lie in this range."""
        return table.min_key >= self.lower and (self.upper is None or table.max_key < self.upper)

    def tables(self) -> Iterator[Table]:
        return (table for run in self.runs for table in run.tables)

    def __repr__(self) -> str:
        return f"Range({self.lower!r}, {self.upper!r}, {len(self.runs)} runs)"


class Tree:
    """The ranges of one tree, in key order; there is always one."""

    __slots__ = ("_lowers", "_reach", "due", "ranges", "tree")

    def __init__(self, tree: int, ranges: tuple[Range, ...]) -> None:
        self.tree = tree
        self.ranges = ranges
        self._lowers = [r.lower for r in ranges]
        self._reach: dict[int, int] = {}
        dues = [table.due for r in ranges for table in r.tables() if table.due]
        self.due = min(dues, default=0)  # of its tables: when to look again

    @classmethod
    def from_raw(cls, tree: int, raw: RawTree, known: dict[int, Table] | None = None) -> Tree:
        """`known` holds the tables made so far: one that stands in several ranges is made once."""
        known = {} if known is None else known
        uppers = [lower for lower, _ in raw[1:]]
        ranges = (
            Range(lower, upper, tuple([_run_from_raw(run, known) for run in runs]))
            for (lower, runs), upper in zip(raw, [*uppers, None], strict=True)
        )
        return cls(tree, tuple(ranges))

    def index_of(self, key: bytes) -> int:
        """The range that holds `key`."""
        return bisect_right(self._lowers, key) - 1

    def touched(self, start: bytes | None, stop: bytes | None) -> range:
        """Indexes of the ranges that hold keys of [start, stop); None is the beginning, the end."""
        if stop is not None and stop <= (start or b""):
            return range(0)
        first = 0 if start is None else self.index_of(start)
        end = len(self.ranges) if stop is None else bisect_left(self._lowers, stop)
        return range(first, end)

    def reach(self, table: Table) -> int:
        """Over how many ranges the table's keys reach.

        Counted by its bounds, not by where it still stands: when compaction has taken a table out
        of all ranges but one, that one holds its share and no more.
        """
        found = self._reach.get(table.file)
        if found is None:
            lowers = self._lowers
            found = bisect_right(lowers, table.max_key) - bisect_right(lowers, table.min_key) + 1
            self._reach[table.file] = found
        return found

    def share(self, tables: Iterable[Table]) -> int:
        """Bytes of the tables in one range, supposing that each is spread evenly over those that
        it reaches: the core knows no better without reading them."""
        return sum([table.bytes // self.reach(table) for table in tables])

    def rows(self, tables: Iterable[Table]) -> tuple[int, int]:
        """Rows and, among them, tombstones of the tables in one range; estimated as `share`."""
        rows = tombstones = 0
        for table in tables:
            reach = self.reach(table)
            rows += table.rows // reach
            tombstones += table.tombstones // reach
        return rows, tombstones

    def runs_mean(self) -> float:
        """Runs that a read meets, if all ranges are read alike: read amplification."""
        return sum([len(r.runs) for r in self.ranges]) / len(self.ranges)

    def runs_max(self) -> int:
        """Runs that a read meets in the worst range."""
        return max([len(r.runs) for r in self.ranges])

    def __repr__(self) -> str:
        return f"Tree({self.tree}, {len(self.ranges)} ranges)"


def _run_from_raw(raw: RawRun, known: dict[int, Table]) -> Run:
    level, stamp, raw_tables = raw
    tables = []
    for raw_table in raw_tables:
        table = known.get(raw_table[0])
        if table is None:
            table = known[raw_table[0]] = Table(raw_table)
        tables.append(table)
    return Run(level, stamp, tuple(tables))


class Version:
    """All trees of a store at one moment."""

    __slots__ = ("trees",)

    def __init__(self, trees: Mapping[int, Tree]) -> None:
        self.trees = trees

    @classmethod
    def from_raw(cls, raw: Mapping[int, RawTree]) -> Version:
        """From nested tuples, as the core gives them (see the aliases at the head of this file)."""
        known: dict[int, Table] = {}
        return cls({tree: Tree.from_raw(tree, ranges, known) for tree, ranges in raw.items()})

    def __repr__(self) -> str:
        return f"Version({list(self.trees.values())!r})"


@record(frozen=True, kw_only=True)
class Job(Record):
    """What compaction shall do to one range. The core checks it against the version when it runs,
    finds the age at which the output stands, and decides which tombstones may go."""

    tree: int
    lower: bytes
    """Lower bound of the range: its name."""
    upper: bytes | None
    """Its upper end, None for the last range of the tree."""
    inputs: tuple[int, ...] = ()
    """Files that leave the range. No table of the range that stays may both overlap one of them
    and be of an age between theirs and the output's."""
    out_level: int = LEVEL_LAST
    """Where the output stands: as the newest run of this level, or within that run, where it
    overlaps none of its tables."""
    kind: str = "merge"
    """"merge": rows are written anew. "move": the tables change their level, nothing is read.
    "join": the range, which is empty, is joined to the one on its left. "drop": the tables go with
    all that they hold; no table that stays, and is older, may overlap one."""
    in_place: bool = False
    """Of a merge: the output stands where the newest input stood, of which `out_level` is the
    level. So it keeps its place among runs that come meanwhile, also in level 0."""
    split_tables: int = 0
    """If the range holds more tables than this at `out_level` afterwards, it is cut at table
    bounds into even pieces of half as many; 0 never cuts."""
    cut_bytes: int = 0
    """Size at which an output table ends and the next begins."""
    compression: str = "none"
    """Of the output's values: "none", "lz4" or "zstd"."""
    parts: int = 1
    """Into how many pieces, by key, the work may be divided to be done in parallel."""
    priority: float = 0.0
    """Of two jobs the one with the higher priority is done first."""
    reason: str = ""
    """Why, for people who look at statistics and logs."""
