"""What a store has done and what it holds: the record that `db.stats()` gives.

    Stats
      writes                                  what the program asked for
      flushes compactions stalls recovery     what came of it in the background
      levels ranges cache memory pressure     what is there now

Counters begin at zero when the store is opened. Sizes are bytes, times nanoseconds.

Callers    db.py builds it with `Stats.from_raw` from the core's counters and `shape_of` a version.
Errors     a counter that is missing, or one that is not known here, is a KeyError: the core and
           this file must say the same.
"""

from __future__ import annotations

from ._record import Record, record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from typing_extensions import Self

    from .compaction import Policy
    from .version import Tree, Version

__all__ = [
    "Cache",
    "Compactions",
    "Flushes",
    "KeyspaceStats",
    "Level",
    "Blobs",
    "Memory",
    "Recovery",
    "Stalls",
    "Stats",
    "Writes",
    "shape_of",
]


class _Counted(Record):
    """A record that is made from a mapping with exactly its fields."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> Self:
        """Of this mapping; KeyError names an entry that is missing or unknown."""
        return cls(**cls._taken(raw))

    @classmethod
    def _taken(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        for name in cls._names:
            if name not in raw:
                raise KeyError(f"{cls.__name__} needs {name!r}")
        for name in raw:
            if name not in cls._names:
                raise KeyError(f"{cls.__name__} has no {name!r}")
        return dict(raw)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as JSON takes them."""
        return {name: _plain(value) for name, value in self._items()}


@record(frozen=True, kw_only=True)
class Writes(_Counted):
    """What came in."""

    records: int
    """Puts, deletes and operands."""
    frames: int
    """Writes that were atomic by themselves: a single put is one, and a batch is one."""
    bytes: int
    """Bytes of the log that they became: keys and values, and about 30 more for each frame."""
    syncs: int
    """Calls of fdatasync for the log; one may serve many writers."""
    segments: int
    """Log segments that were filled."""


@record(frozen=True, kw_only=True)
class Flushes(_Counted):
    """Segments that became tables; several that wait are flushed as one."""

    count: int
    records: int
    """Records of the log that were taken up; fewer rows come out where one replaced another."""
    bytes: int
    """Bytes of the tables, and of the values that stand apart from them."""
    ns: int


@record(frozen=True, kw_only=True)
class Compactions(_Counted):
    """Jobs that merged or moved tables."""

    merges: int
    moves: int
    """Jobs that only changed levels, or joined ranges."""
    bytes_in: int
    bytes_out: int
    rows: int
    """Rows that merges read."""
    rows_copied: int
    """Rows among them that were copied in whole blocks, without being decoded."""
    ns: int


@record(frozen=True, kw_only=True)
class Stalls(_Counted):
    """Time that writers spent waiting for the background."""

    slowed: int
    """Writes that were delayed to keep a rate."""
    slowed_ns: int
    stopped: int
    """Writes that had to wait for a flush or for compaction."""
    stopped_ns: int


@record(frozen=True, kw_only=True)
class Recovery(_Counted):
    """What opening the store found in the log."""

    records: int
    bytes: int
    lost_bytes: int
    """Bytes behind the last whole frame: writes that were never acknowledged as durable, cut off
    after a loss of power."""


@record(frozen=True, kw_only=True)
class Cache(_Counted):
    """The block cache. Hits are not counted: that would cost as much as the hit."""

    used_bytes: int
    capacity_bytes: int
    fixed_bytes: int
    """Indexes and filters of open tables, which count against the capacity."""
    fills: int
    """Blocks that were read into it, which is the number of misses."""
    evictions: int


@record(frozen=True, kw_only=True)
class Memory(_Counted):
    """What the store holds in memory, bytes."""

    segments: int
    """Log segments, with their indexes and orders: those that are live, that wait for their flush,
    or that wait to be used (again)."""
    pinned: int
    """Segments that were flushed and are kept for scans and cursors that began before. Of a mapped
    log only their indexes and orders."""
    cache: int
    """Decoded blocks."""
    tables: int
    """Indexes and filters of open tables."""
    background: int
    """Buffers of flush and compaction."""
    total: int
    limit: int
    """The option `memory_bytes`."""


@record(frozen=True, kw_only=True)
class Blobs(_Counted):
    """Files of values that are longer than `blob_bytes`, which stand apart from their tables."""

    files: int
    bytes: int
    live_bytes: int
    """Of the values to which tables refer, overwritten ones that are not merged away included."""


@record(frozen=True, kw_only=True)
class Level(_Counted):
    """What stands in one level, of all trees; a table in several ranges counts once."""

    level: int
    name: str
    tables: int
    bytes: int
    rows: int
    tombstones: int


@record(frozen=True, kw_only=True)
class KeyspaceStats(_Counted):
    """The tables of one keyspace; what only the log holds is not counted."""

    name: str
    levels: tuple[Level, ...]
    """Newest first."""
    table_bytes: int
    rows: int
    """Versions and deletes too."""
    ranges: int
    runs_max: int

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> Self:
        given = cls._taken(raw)
        given["levels"] = tuple([Level.from_raw(each) for each in given["levels"]])
        return cls(**given)


@record(frozen=True, kw_only=True)
class Stats(_Counted):
    """Everything; see the head of this file. It prints as a table."""

    writes: Writes
    flushes: Flushes
    compactions: Compactions
    stalls: Stalls
    recovery: Recovery
    cache: Cache
    memory: Memory
    blobs: Blobs
    levels: tuple[Level, ...]
    """Newest first."""
    keyspaces: tuple[KeyspaceStats, ...]
    """Each by itself, by name; the other numbers are of the whole store."""
    table_bytes: int
    """Bytes of all tables on the disk."""
    disk_bytes: int
    """Bytes of tables and of the log that is not in tables yet, as far as it is written: what
    `max_disk_bytes` bounds. Log files are made in advance, so up to three of `segment_bytes` more
    are taken."""
    ranges: int
    """Key ranges, of all trees."""
    runs_mean: float
    """Runs that a read meets in a range, where all ranges are read alike: read amplification."""
    runs_max: int
    range_tombstones: int
    """Ranges that `delete_range` deleted and whose rows are not all off the disk: those in the log,
    and stretches of keys over tables."""
    history_bytes: int
    """Bytes of flushed log that `retain_log_bytes` keeps for `changes`."""
    pressure: float
    """How much writers are slowed, from 0, not at all, to 1, where they wait."""
    write_amplification: float
    """Bytes written to log and tables for each byte of the log; 0 before anything came."""
    space_amplification: float
    """Bytes of all tables for each byte in the deepest level, where a key stands once, values that
    stand apart included: an upper bound of what dead rows take; 1 for an empty store."""
    background_errors: int
    last_error: str
    """The text of the last of them; empty when there was none."""

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> Self:
        """Of a mapping with all fields but the amplifications and `table_bytes`, which follow from
        the others; records are mappings themselves."""
        given = dict(raw)
        given["write_amplification"] = given["space_amplification"] = given["table_bytes"] = 0
        given = cls._taken(given)
        for name, kind in _PARTS.items():
            given[name] = kind.from_raw(given[name])
        levels = given["levels"] = tuple([Level.from_raw(each) for each in given["levels"]])
        given["keyspaces"] = tuple([KeyspaceStats.from_raw(each) for each in given["keyspaces"]])
        logged = given["writes"].bytes
        tables = given["flushes"].bytes + given["compactions"].bytes_out
        blobs = given["blobs"]
        deepest = (levels[-1].bytes if levels else 0) + blobs.live_bytes
        total = given["table_bytes"] = sum([level.bytes for level in levels])
        given["write_amplification"] = (logged + tables) / logged if logged else 0.0
        given["space_amplification"] = (total + blobs.bytes) / deepest if deepest else 1.0
        return cls(**given)

    def __str__(self) -> str:
        rows = [["", "tables", "rows", "deletes", "bytes"]]
        for level in self.levels:
            counts = [_count(n) for n in (level.tables, level.rows, level.tombstones)]
            rows.append([level.name, *counts, _size(level.bytes)])
        for keyspace in self.keyspaces[:_SHOWN_KEYSPACES]:
            tables, deletes = [
                _count(sum([getattr(level, name) for level in keyspace.levels]))
                for name in ("tables", "tombstones")
            ]
            size = _size(keyspace.table_bytes)
            rows.append([f"in {keyspace.name!r}", tables, _count(keyspace.rows), deletes, size])
        lines = [*_aligned(rows), ""]
        if len(self.keyspaces) > _SHOWN_KEYSPACES:
            left = len(self.keyspaces) - _SHOWN_KEYSPACES
            lines.insert(-1, f"and {_count(left)} keyspaces more")
        lines += [f"{name:<12} {text}" for name, text in self._lines()]
        return "\n".join(lines)

    def _lines(self) -> Iterable[tuple[str, str]]:
        w, f, c, s = self.writes, self.flushes, self.compactions, self.stalls
        yield (
            "writes",
            f"{_count(w.records)} records in {_count(w.frames)} frames, {_size(w.bytes)} of log, "
            f"{_count(w.syncs)} syncs, {_count(w.segments)} segments",
        )
        yield (
            "flushes",
            f"{_count(f.count)} of {_count(f.records)} records, {_size(f.bytes)} in {_time(f.ns)}",
        )
        yield (
            "compactions",
            f"{_count(c.merges)} and {_count(c.moves)} moves, {_size(c.bytes_in)} read, "
            f"{_size(c.bytes_out)} written in {_time(c.ns)}, {_count(c.rows_copied)} of "
            f"{_count(c.rows)} rows copied in blocks",
        )
        yield (
            "amplified",
            f"writes {self.write_amplification:.2f}, space {self.space_amplification:.2f}, "
            f"runs a read {self.runs_mean:.1f} (at most {self.runs_max}) in {self.ranges} ranges",
        )
        if self.blobs.files:
            b = self.blobs
            yield (
                "values",
                f"{_size(b.bytes)} apart in {_count(b.files)} files, {_size(b.live_bytes)} of it "
                f"referred to",
            )
        yield (
            "stalls",
            f"{_count(s.slowed)} slowed for {_time(s.slowed_ns)}, {_count(s.stopped)} stopped for "
            f"{_time(s.stopped_ns)}; pressure {self.pressure:.2f}",
        )
        yield (
            "cache",
            f"{_size(self.cache.used_bytes)} of {_size(self.cache.capacity_bytes)}, "
            f"{_count(self.cache.fills)} fills, {_count(self.cache.evictions)} evictions",
        )
        parts = ", ".join([f"{name} {_size(value)}" for name, value in self.memory._items()])
        yield "memory", parts
        if self.recovery.records or self.recovery.lost_bytes:
            yield (
                "recovered",
                f"{_count(self.recovery.records)} records, {_size(self.recovery.bytes)} of log; "
                f"{_size(self.recovery.lost_bytes)} cut off",
            )
        if self.background_errors:
            yield "errors", f"{_count(self.background_errors)}, the last: {self.last_error}"


_SHOWN_KEYSPACES = 20

_PARTS: dict[str, type[_Counted]] = {
    "writes": Writes,
    "flushes": Flushes,
    "compactions": Compactions,
    "stalls": Stalls,
    "recovery": Recovery,
    "cache": Cache,
    "memory": Memory,
    "blobs": Blobs,
}


def shape_of(
    version: Version, policy_of: Callable[[int], Policy], keyspaces: Mapping[int, str]
) -> dict[str, Any]:
    """The entries of `Stats.from_raw` that follow from which tables exist: `levels`, `keyspaces`,
    `ranges`, `runs_mean`, `runs_max`. `policy_of` gives the policy of a tree, `keyspaces` are the
    names of those that are one."""
    trees = list(version.trees.values())
    ranges = [r for tree in trees for r in tree.ranges]
    return {
        "levels": _levels_of(trees, policy_of),
        "keyspaces": [
            {"name": name, **_shape_of_keyspace(version.trees.get(tree), policy_of)}
            for tree, name in sorted(keyspaces.items(), key=_name)
        ],
        "ranges": len(ranges),
        "runs_mean": sum([len(r.runs) for r in ranges]) / len(ranges) if ranges else 0.0,
        "runs_max": max([len(r.runs) for r in ranges], default=0),
    }


def _name(item: tuple[int, str]) -> str:
    return item[1]


def _shape_of_keyspace(tree: Tree | None, policy_of: Callable[[int], Policy]) -> dict[str, Any]:
    ranges = tree.ranges if tree else ()
    levels = _levels_of([tree] if tree else [], policy_of)
    return {
        "levels": levels,
        "table_bytes": sum([level["bytes"] for level in levels]),
        "rows": sum([level["rows"] for level in levels]),
        "ranges": len(ranges),
        "runs_max": max([len(r.runs) for r in ranges], default=0),
    }


def _levels_of(trees: Iterable[Tree], policy_of: Callable[[int], Policy]) -> list[dict[str, Any]]:
    """What stands in each level; where policies call one differently, the last tree's name."""
    names: dict[int, str] = {}
    levels: dict[int, dict[int, Any]] = {}
    for tree in trees:
        names.update(policy_of(tree.tree).level_names(tree))
        for r in tree.ranges:
            for run in r.runs:
                tables = levels.setdefault(run.level, {})
                for table in run.tables:
                    tables[table.file] = table
    return [
        {
            "level": level,
            "name": names[level],
            "tables": len(tables),
            "bytes": sum([table.bytes for table in tables.values()]),
            "rows": sum([table.rows for table in tables.values()]),
            "tombstones": sum([table.tombstones for table in tables.values()]),
        }
        for level, tables in sorted(levels.items())
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, _Counted):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]


def _count(n: int) -> str:
    return f"{n:,}"


def _size(n: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n < 1024:
            return f"{n:.4g} {unit}"
        n /= 1024
    return f"{n:.4g} TiB"


def _time(ns: float) -> str:
    for unit in ("ns", "µs", "ms"):
        if ns < 1000:
            return f"{ns:.3g} {unit}"
        ns /= 1000
    return f"{ns:.3g} s"
