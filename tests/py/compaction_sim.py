"""A store without files, for the tests of compaction policies.

It holds the rows of one tree in memory, takes flushes, and carries out the jobs of a policy by the
rules of the core, refusing what the core would refuse: an input that is not there, a row that would
pass over an older or newer one, runs that would overlap, a join over a table that reaches across.
Keys are ints of four bytes; a value is the sequence of the write, negative for a delete.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable
from itertools import pairwise

from lsmkit.compaction import Policy
from lsmkit.options import Options
from lsmkit.version import LEVEL_LAST, Job, Range, Tree

ROW_BYTES = 100


def key_bytes(key: int) -> bytes:
    return key.to_bytes(4, "big")


class SimTable:
    def __init__(self, file: int, rows: dict[int, int], written: int) -> None:
        self.file = file
        self.written = written
        self.rows = rows
        self.keys = sorted(rows)
        deletes = sum(1 for value in rows.values() if value < 0)
        first, last = key_bytes(self.keys[0]), key_bytes(self.keys[-1])
        seqs = [abs(value) for value in rows.values()]
        self.raw = (
            file,
            ROW_BYTES * len(rows),
            len(rows),
            deletes,
            first,
            last,
            min(seqs),
            max(seqs),
            0,
            0,
            True,
            written,
            0,
            0,
        )

    def part(self, low: int, high: int) -> dict[int, int]:
        """The rows with low <= key < high."""
        if low <= self.keys[0] and self.keys[-1] < high:
            return self.rows
        first, end = bisect_left(self.keys, low), bisect_left(self.keys, high)
        return {key: self.rows[key] for key in self.keys[first:end]}


Runs = dict[tuple[int, int], list[SimTable]]  # (level, -stamp): in order of age


class SimStore:
    def __init__(self, policy: Policy, options: Options) -> None:
        self.policy = policy
        self.options = options
        self.ranges: list[tuple[int, Runs]] = [(0, {})]
        self.files = 0
        self.clock = 0  # microseconds
        self.model: dict[int, int] = {}
        self.writes = 0
        self.merged_rows = 0  # rows that merges read
        self.written_rows = 0  # rows that merges wrote
        self.jobs: list[Job] = []
        self.largest_job = 0
        self.peak_rows = 0

    # ---- what happens to it

    def flush(self, rows: dict[int, int], writes: int = 0) -> None:
        """One segment whose writes (more than rows, where keys were written twice) left these
        rows."""
        self.writes += writes or len(rows)
        self.model.update(rows)
        table = self.new_table(rows)
        self.add(table, 0, table.file)
        self.peak_rows = max(self.peak_rows, self.row_count())

    def new_table(self, rows: dict[int, int], written: int | None = None) -> SimTable:
        self.files += 1
        return SimTable(self.files, rows, self.clock if written is None else written)

    def pick(self, busy: Iterable[Job] = ()) -> Job | None:
        return self.policy.pick(self.tree(), self.options, tuple(busy), 0.0)

    def settle(self, limit: int = 1000) -> int:
        """Carries out jobs until the policy wants none; the number of them."""
        for done in range(limit):
            job = self.pick()
            if job is None:
                return done
            self.apply(job)
        raise AssertionError(f"still busy after {limit} jobs: {job}")

    def apply(self, job: Job) -> None:
        self.jobs.append(job)
        index = [self.lower(i) for i in range(len(self.ranges))].index(job.lower)
        assert self.upper(index) == job.upper, "the range has another end"
        if job.kind == "join":
            self.join(index)
            return
        runs = self.ranges[index][1]
        inputs = {
            table.file: (order, table)
            for order, run in runs.items()
            for table in run
            if table.file in job.inputs
        }
        assert len(inputs) == len(job.inputs) > 0, "an input is not in the range"
        assert all(order[0] <= LEVEL_LAST for order in runs)
        if job.kind == "drop":
            self.drop(runs, inputs)
            return
        out = self.place(runs, job, inputs)
        for order in list(runs):
            runs[order] = [table for table in runs[order] if table.file not in inputs]
            if not runs[order]:
                del runs[order]
        if job.kind == "move":
            for _, table in inputs.values():
                assert self.places(table) == 0, "a table that also stands elsewhere was moved"
                self.add(table, *out)
        else:
            self.merge(index, job, [inputs[file] for file in job.inputs], out)
        self.peak_rows = max(self.peak_rows, self.row_count())
        if job.split_tables:
            self.split(index, job.out_level, job.split_tables)

    def place(
        self, runs: Runs, job: Job, inputs: dict[int, tuple[tuple[int, int], SimTable]]
    ) -> tuple[int, int]:
        """Level and stamp of the outputs: the newest run of the level, which they join where they
        overlap nothing that stays in it; or that of the newest input."""
        if job.in_place:
            order = min(order for order, _ in inputs.values())
            assert order[0] == job.out_level, "the place is of another level"
            self.check_ages(runs, inputs, order)
            return order[0], -order[1]
        assert job.out_level > 0, "a flush that runs meanwhile would be thought older"
        self.check_ages(runs, inputs, (job.out_level, -self.files - 1))
        low = min(table.keys[0] for _, table in inputs.values())
        high = max(table.keys[-1] for _, table in inputs.values())
        for order in sorted(runs):
            staying = [table for table in runs[order] if table.file not in inputs]
            if order[0] == job.out_level and staying:
                if all(table.keys[-1] < low or high < table.keys[0] for table in staying):
                    return job.out_level, -order[1]
                break
        self.files += 1
        return job.out_level, self.files

    def merge(
        self,
        index: int,
        job: Job,
        inputs: list[tuple[tuple[int, int], SimTable]],
        place: tuple[int, int],
    ) -> None:
        low, high = self.bounds(index)
        merged: dict[int, int] = {}
        read = 0
        for _, table in sorted(inputs, key=lambda item: item[0], reverse=True):
            part = table.part(low, high)
            read += len(part)
            merged.update(part)
        self.merged_rows += read
        self.largest_job = max(self.largest_job, read)
        out = (place[0], -place[1])
        older = [
            table for order, run in self.ranges[index][1].items() if order > out for table in run
        ]
        written = max(table.written for _, table in inputs)
        keys = [
            key
            for key in sorted(merged)
            if merged[key] > 0 or any(table.keys[0] <= key <= table.keys[-1] for table in older)
        ]
        self.written_rows += len(keys)
        # Before the inputs go, both stand on the disk.
        self.peak_rows = max(self.peak_rows, self.row_count() + read + len(keys))
        cut = max(job.cut_bytes // ROW_BYTES, 1)
        for first in range(0, len(keys), cut):
            rows = {key: merged[key] for key in keys[first : first + cut]}
            table = self.new_table(rows, written)
            self.add(table, *place)

    def drop(self, runs: Runs, inputs: dict[int, tuple[tuple[int, int], SimTable]]) -> None:
        for order, table in inputs.values():
            for other_order, run in runs.items():
                for other in run:
                    is_older = other.file not in inputs and other_order > order
                    meets = other.keys[0] <= table.keys[-1] and table.keys[0] <= other.keys[-1]
                    assert not (is_older and meets), "an older row would come back"
        for order in list(runs):
            runs[order] = [table for table in runs[order] if table.file not in inputs]
            if not runs[order]:
                del runs[order]

    def add(self, table: SimTable, level: int, stamp: int) -> None:
        for index in range(len(self.ranges)):
            low, high = self.bounds(index)
            if table.keys[0] < high and table.keys[-1] >= low:
                runs = self.ranges[index][1]
                run = [*runs.get((level, -stamp), []), table]
                run.sort(key=lambda t: t.keys[0])
                for left, right in pairwise(run):
                    assert left.keys[-1] < right.keys[0], "tables of a run overlap"
                runs[(level, -stamp)] = run

    def check_ages(
        self,
        runs: Runs,
        inputs: dict[int, tuple[tuple[int, int], SimTable]],
        out: tuple[int, int],
    ) -> None:
        """No table that stays may be passed by an input whose keys it overlaps."""
        staying = [(order, t) for order, run in runs.items() for t in run if t.file not in inputs]
        for order, table in inputs.values():
            for other_order, other in staying:
                if other.keys[0] <= table.keys[-1] and table.keys[0] <= other.keys[-1]:
                    was, becomes = other_order > order, other_order > out
                    assert was == becomes, "an age is passed over"
                    assert other_order != out, "the output overlaps the run that it joins"

    def split(self, index: int, level: int, most: int) -> None:
        low, runs = self.ranges[index]
        tables = [t for order in sorted(runs) if order[0] == level for t in runs[order]]
        tables.sort(key=lambda t: t.keys[0])
        if len(tables) <= most:
            return
        pieces = -(-len(tables) // ((most + 1) // 2))
        starts = [tables[len(tables) * piece // pieces].keys[0] for piece in range(1, pieces)]
        high = self.bounds(index)[1]
        cut: list[tuple[int, Runs]] = []
        for begin, end in zip([low, *starts], [*starts, high], strict=True):
            part: Runs = {}
            for order, run in runs.items():
                inside = [t for t in run if t.keys[0] < end and t.keys[-1] >= begin]
                if inside:
                    part[order] = inside
            cut.append((begin, part))
        self.ranges[index : index + 1] = cut

    def join(self, index: int) -> None:
        assert index > 0, "the first range has no left neighbour"
        low, runs = self.ranges[index]
        left = self.ranges[index - 1][1]
        assert not runs, "the range is not empty"
        assert all(t.keys[-1] < low for run in left.values() for t in run), "a table reaches over"
        del self.ranges[index]

    # ---- what can be seen of it

    def bounds(self, index: int) -> tuple[int, int]:
        high = self.ranges[index + 1][0] if index + 1 < len(self.ranges) else 1 << 32
        return self.ranges[index][0], high

    def lower(self, index: int) -> bytes:
        return key_bytes(self.ranges[index][0]) if index > 0 else b""

    def upper(self, index: int) -> bytes | None:
        return key_bytes(self.bounds(index)[1]) if index + 1 < len(self.ranges) else None

    def places(self, table: SimTable) -> int:
        return sum(table in run for _, runs in self.ranges for run in runs.values())

    def tables(self) -> dict[int, SimTable]:
        return {t.file: t for _, runs in self.ranges for run in runs.values() for t in run}

    def row_count(self) -> int:
        return sum(len(table.rows) for table in self.tables().values())

    def live_count(self) -> int:
        return sum(1 for value in self.model.values() if value > 0)

    def tree(self) -> Tree:
        return Tree.from_raw(
            0,
            tuple(
                (
                    self.lower(index),
                    tuple(
                        (order[0], -order[1], tuple(t.raw for t in runs[order]))
                        for order in sorted(runs)
                    ),
                )
                for index, (_, runs) in enumerate(self.ranges)
            ),
        )

    def get(self, key: int) -> int:
        """As a reader finds it: not above 0 when it is not there."""
        index = max(i for i, (low, _) in enumerate(self.ranges) if low <= key)
        runs = self.ranges[index][1]
        for order in sorted(runs):
            for table in runs[order]:
                if key in table.rows:
                    return table.rows[key]
        return 0

    def check(self, rng: random.Random, samples: int = 300) -> None:
        """Reads some keys, and compares them with what was written."""
        keys = sorted(self.model)
        for key in rng.sample(keys, min(samples, len(keys))):
            assert max(self.get(key), 0) == max(self.model[key], 0)

    @property
    def amplification(self) -> float:
        """Rows that merges read, for each row written: the unit of the published figures."""
        return self.merged_rows / self.writes


def upper_runs(r: Range) -> int:
    return sum(1 for run in r.runs if run.level < LEVEL_LAST)


class Uniform:
    """Overwrites of `live` flushes' worth of keys, all alike likely, `flush_rows` a flush."""

    def __init__(self, flush_rows: int, live: int, seed: int) -> None:
        self.rng = random.Random(seed)
        self.flush_rows = flush_rows
        self.keys = flush_rows * live
        self.clock = 0

    def next(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        for _ in range(self.flush_rows):
            self.clock += 1
            rows[self.rng.randrange(self.keys)] = self.clock
        return rows


class Queue:
    """Appends at the tail, deletes at the head; `length` rows are alive at most."""

    def __init__(self, flush_rows: int, length: int) -> None:
        self.flush_rows = flush_rows
        self.length = length
        self.head = self.tail = self.clock = 0

    def next(self) -> dict[int, int]:
        rows: dict[int, int] = {}
        while len(rows) < self.flush_rows:
            self.clock += 1
            rows[self.tail] = self.clock
            self.tail += 1
            if self.tail - self.head > self.length:
                self.clock += 1
                rows[self.head] = -self.clock
                self.head += 1
        return rows
