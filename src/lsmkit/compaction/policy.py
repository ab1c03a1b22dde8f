"""What a compaction policy is: a pure function from what exists to the next job.

A policy sees a tree (`lsmkit.version`), the options and the jobs that run, and answers with a job
or None. It touches no file and keeps no state, so every decision can be tested, and simulated for
thousands of flushes, without a disk. A policy is a record: its parameters are its fields, and it
is stored with the store as text.

Threads    immutable; any.
Errors     none of its own; the coordinator reports what a faulty policy raises, and goes on.
"""

from __future__ import annotations

from .._record import Record
from ..version import LEVEL_LAST, Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, ClassVar

    from ..options import Options
    from ..version import Range, Run, Table, Tree

__all__ = [
    "Policy",
    "blocked_ranges",
    "compression_of",
    "dead_bytes",
    "is_alone",
    "parts_of",
    "settled_bytes",
    "small_bytes",
    "touches",
]

_known: dict[str, type[Policy]] = {}

PARTS_MAX = 16
"""LK_JOB_PARTS_MAX in compact.h."""

RECLAIM_PRIORITY = 3000.0
"""Of a job that reads nothing and gives space back: before all others."""

PARALLEL_TABLES = 8
"""A job that reads more tables' worth of bytes than this is divided by key: smaller ones are many,
and keep the cores busy side by side."""


class Policy(Record):
    """The base of all policies. One of one's own gives itself a `name`, and must
    have been imported before a store that was made with it is opened."""

    name: ClassVar[str] = ""
    by_age: ClassVar[bool] = False
    """Whether `pick` goes by the clock: then it is asked also about trees that have not changed."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            _known[cls.name] = cls

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        """The most urgent job that can run beside those of `busy`; None when nothing is to do.

        `now` is a monotonic clock in seconds, for policies that decide by age.
        """
        raise NotImplementedError

    def counted_runs(self, r: Range) -> int:
        """The runs of a range that are more than compaction would leave in peace."""
        return r.upper_runs

    def pressure(self, tree: Tree) -> float:
        """How far compaction is behind: upper runs, the mean over the ranges.

        Writes that all go to one range would vanish in that mean, so half the runs of the worst
        range are the least it can be; when all ranges are written alike their worst has less than
        twice the mean.
        """
        counts = [self.counted_runs(r) for r in tree.ranges]
        return max(sum(counts) / len(counts), max(counts) / 2)

    def bottom(self, r: Range) -> int:
        """The level to which a full compaction brings everything in this range."""
        return LEVEL_LAST

    def unsettled(self, tree: Tree, start: bytes | None, stop: bytes | None) -> frozenset[int]:
        """The files with keys of [start, stop) that a full compaction would take up: those above
        the last level, and those in it that still hold deletes, expired or deleted rows."""
        return frozenset(
            table.file
            for index in tree.touched(start, stop)
            for table in self._unsettled(tree.ranges[index], start, stop)
        )

    def full_jobs(
        self,
        tree: Tree,
        options: Options,
        start: bytes | None,
        stop: bytes | None,
        files: frozenset[int] | None = None,
    ) -> list[Job]:
        """Jobs, one a range at most, that bring all keys of [start, stop) to the last level.

        `files` limits them to ranges where one of these is still unsettled, so that a compaction
        that was asked for comes to an end while the store is written to.
        """
        jobs = []
        for index in tree.touched(start, stop):
            r = tree.ranges[index]
            tables = list(self._unsettled(r, start, stop))
            if tables and (files is None or any(table.file in files for table in tables)):
                jobs.append(self._full_job(tree, r, options, tables))
        return jobs

    def reclaim(self, tree: Tree, options: Options, busy: Sequence[Job]) -> Job | None:
        """A job for rows that are dead although nothing newer covers them, which otherwise would
        stay until other rows come: expired ones, deletes, and what range tombstones hide.

        Tables that are dead as a whole leave without being read, those of one run together. Where
        `max_garbage` of a table is dead, and two thirds of that of all that has to be merged with
        it, it is merged. What comes out is no candidate again, before more of it has died.
        """
        blocked: set[bytes] | None = None
        for r in tree.ranges:
            suspects = [
                (index, table)
                for index, run in enumerate(r.runs)
                for table in run.tables
                if table.covered or table.expired or table.tombstones
            ]
            if not suspects:
                continue
            if blocked is None:
                blocked = blocked_ranges(tree, busy)
            if r.lower not in blocked:
                job = _drop_dead(tree, r, options, suspects) or self._reclaim(
                    tree, r, options, suspects
                )
                if job is not None:
                    return job
        return None

    def _reclaim(
        self, tree: Tree, r: Range, options: Options, suspects: list[tuple[int, Table]]
    ) -> Job | None:
        """The merge of a table, or of all that are dying together, to the last level."""
        share = options.max_garbage
        dying = [table for _, table in suspects if dead_bytes(table) >= share * table.bytes]
        dying.sort(key=lambda table: -dead_bytes(table))
        for tables in [*([table] for table in dying), *([dying] if len(dying) > 1 else [])]:
            inputs = _closed(r.runs, tables)
            dead = _dead_together(tree, inputs)
            if dead >= small_bytes(options) and 3 * dead >= 2 * share * tree.share(inputs):
                return self._full_job(tree, r, options, inputs, "much of it is dead")
        return None

    def move_values(self, tree: Tree, options: Options, busy: Sequence[Job]) -> Job | None:
        """A job that moves values out of files of which too much is dead, so that these can go: a
        table that refers to them is written anew in its place, which any merge would do as well."""
        blocked: set[bytes] | None = None
        for r in tree.ranges:
            for run in r.runs:
                wasted = [table for table in run.tables if table.wasted]
                if not wasted:
                    continue
                if blocked is None:
                    blocked = blocked_ranges(tree, busy)
                if r.lower in blocked:
                    break
                return Job(
                    tree=tree.tree,
                    lower=r.lower,
                    upper=r.upper,
                    inputs=(wasted[0].file,),
                    out_level=run.level,
                    in_place=True,
                    cut_bytes=options.table_bytes,
                    compression=compression_of(options, run.level >= self.bottom(r)),
                    reason="most of what its values stand among is dead",
                )
        return None

    def level_names(self, tree: Tree) -> dict[int, str]:
        """What the levels that hold tables are called, for people."""
        levels = sorted({run.level for r in tree.ranges for run in r.runs})
        return {level: "last" if level == LEVEL_LAST else f"level {level}" for level in levels}

    def to_text(self) -> str:
        """As it is stored: ``lazy-leveled(runs=4,ratio=0.5,tables_per_range=4)``."""
        inside = ",".join(f"{name}={value!r}" for name, value in self._items())
        return f"{self.name}({inside})"

    @staticmethod
    def from_text(text: str) -> Policy:
        """The policy of which this is the text; ValueError says what is wrong with it."""
        name, opened, rest = text.partition("(")
        kind = _known.get(name)
        if kind is None or not opened or not rest.endswith(")"):
            raise ValueError(f"no compaction policy that is known here: {text!r}")
        given: dict[str, Any] = {}
        for item in rest[:-1].split(",") if rest != ")" else ():
            field, _, value = item.partition("=")
            if field not in kind._names:
                raise ValueError(f"{name} has no {field!r}: {text!r}")
            given[field] = {"int": int, "float": float}.get(kind.__annotations__[field], str)(value)
        return kind(**given)

    def _unsettled(self, r: Range, start: bytes | None, stop: bytes | None) -> Iterable[Table]:
        bottom = self.bottom(r)
        for run in r.runs:
            for table in run.tables:
                has_dead_rows = table.tombstones or table.expired or table.covered
                is_settled = run.level == bottom and not has_dead_rows
                if not is_settled and touches(table, start, stop):
                    yield table

    def _full_job(
        self,
        tree: Tree,
        r: Range,
        options: Options,
        tables: list[Table],
        reason: str = "compact() was called",
    ) -> Job:
        inputs = _closed(r.runs, tables)
        level = self.bottom(r)
        return Job(
            tree=tree.tree,
            lower=r.lower,
            upper=r.upper,
            inputs=tuple([table.file for table in inputs]),
            out_level=level,
            split_tables=self.split_tables(),
            cut_bytes=options.table_bytes,
            compression=compression_of(options, True),
            parts=parts_of(tree.share(inputs), options),
            reason=reason,
        )

    def split_tables(self) -> int:
        """After how many tables at the last level a range is cut; 0: never."""
        return 0


def dead_bytes(table: Table) -> int:
    """Bytes of rows that merging to the last level ends, as far as the table alone tells."""
    rows = table.expired + (table.tombstones if table.is_seen else 0)
    return max(table.covered, table.bytes * min(rows, table.rows) // max(table.rows, 1))


def _dead_together(tree: Tree, tables: list[Table]) -> int:
    """Bytes that merging these tables of one range to the last level ends. A delete counts as a row
    of usual size: it is smaller, but ends another."""
    rows, _ = tree.rows(tables)
    usual = tree.share(tables) / max(rows, 1)
    dead = 0.0
    for table in tables:
        expired = table.bytes * min(table.expired, table.rows) / max(table.rows, 1)
        deletes = table.tombstones * usual if table.is_seen else 0.0
        dead += (max(table.covered, expired) + deletes) / tree.reach(table)
    return int(dead)


def is_alone(r: Range, index: int, table: Table) -> bool:
    """Whether no run behind the one at `index`, where the table stands, shares keys with it."""
    return not any(run.overlapping(table.min_key, table.max_key) for run in r.runs[index + 1 :])


def _drop_dead(
    tree: Tree, r: Range, options: Options, suspects: list[tuple[int, Table]]
) -> Job | None:
    """Those tables of the oldest run that has some of which nothing is alive. The core looks again,
    and merges what it does not agree about."""
    for at in sorted({index for index, _ in suspects}, reverse=True):
        whole = [
            table.file
            for index, table in suspects
            if index == at
            and (
                table.covered >= table.bytes
                or (table.expired + table.tombstones >= table.rows and is_alone(r, index, table))
            )
        ]
        if whole:
            return Job(
                tree=tree.tree,
                lower=r.lower,
                upper=r.upper,
                inputs=tuple(whole),
                out_level=r.runs[at].level,
                in_place=True,
                cut_bytes=options.table_bytes,
                priority=RECLAIM_PRIORITY,
                reason="all of it is dead",
            )
    return None


def blocked_ranges(tree: Tree, busy: Iterable[Job]) -> set[bytes]:
    """Lower bounds of the ranges that the running jobs of this tree work on."""
    blocked = set()
    for job in busy:
        if job.tree == tree.tree:
            blocked.add(job.lower)
            if job.kind == "join":
                blocked.add(tree.ranges[max(tree.index_of(job.lower) - 1, 0)].lower)
    return blocked


def small_bytes(options: Options) -> int:
    """Below this much input a job is hardly worth its files and its manifest line."""
    return options.table_bytes // 8


def settled_bytes(options: Options) -> int:
    """A table below this size is merged with others before it may settle in the last level. What
    one flush of a full segment writes is larger, unless its values shrink to a sixteenth."""
    return options.table_bytes // 16


def parts_of(input_bytes: int, options: Options) -> int:
    """Into how many pieces a job of so many bytes is divided."""
    if input_bytes <= PARALLEL_TABLES * options.table_bytes:
        return 1
    pieces = input_bytes // (PARALLEL_TABLES // 2 * options.table_bytes)
    return min(options.background_threads, pieces, PARTS_MAX)


def compression_of(options: Options, is_bottom: bool) -> str:
    """How a job compresses what it writes; `is_bottom`: to the deepest level of its range."""
    return (options.bottom_compression if is_bottom else None) or options.compression


def touches(table: Table, start: bytes | None, stop: bytes | None) -> bool:
    """Whether the table can hold a key of [start, stop)."""
    return (start is None or table.max_key >= start) and (stop is None or table.min_key < stop)


def _closed(runs: Sequence[Run], tables: list[Table]) -> list[Table]:
    """The tables, and all that overlap one of the keys from their least to their greatest: what can
    be merged to the last level without passing over an older table."""
    count = 0
    while len(tables) != count:
        count = len(tables)
        low = min([table.min_key for table in tables])
        high = max([table.max_key for table in tables])
        tables = [table for run in runs for table in run.overlapping(low, high)]
    return tables
