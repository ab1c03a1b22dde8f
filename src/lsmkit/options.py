"""What can be chosen about a store: `Options`.

Options of the *store* (the first twelve fields) say how its files look; they are stored with it,
and an `open` that does not name one takes it from there. Options of the *process* (the others) say
what this process gives to the store while it has it open: they are never stored, and one that is
not named has its default at each open.

Named are the fields that were given to `Options(...)` or `Options.replace`, also where they have
the default's value. `dataclasses.replace` names all of them, because it passes all of them on.
"""

from __future__ import annotations

from ._record import Record, check_choice, check_float, check_int, record
from .compaction import LazyLeveled, Policy
from .errors import OptionsError
from .merge import Operator, operator_from_text, operator_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Self

__all__ = ["TREE_FIELDS", "Options"]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

SEGMENT_MIN = 4 * KIB
SEGMENTS = 12
"""So many segments' bytes, with their indexes, a store may come to hold while it writes."""
SEGMENTS_MIN = 4
"""With so many it works: one is written, one is flushed, and each has an index."""

_INTS: dict[str, tuple[int, int, str]] = {
    "segment_bytes": (SEGMENT_MIN, GIB, "bytes"),
    "block_bytes": (256, MIB, "bytes"),
    "table_bytes": (4 * KIB, 16 * GIB, "bytes"),
    "blob_bytes": (0, GIB, "bytes"),
    "level_base_bytes": (4 * KIB, 16 * TIB, "bytes"),
    "level_fanout": (2, 100, ""),
    "filter_bits": (0, 64, "bits a key"),
    "retain_log_bytes": (0, 16 * TIB, "bytes"),
    "cache_bytes": (0, 16 * TIB, "bytes"),
    "memory_bytes": (4 * MIB, 32 * TIB, "bytes"),
    "background_threads": (1, 64, ""),
    "rate_limit": (0, TIB, "bytes a second"),
    "max_disk_bytes": (0, 1 << 60, "bytes"),
    "sync_interval_ms": (1, 3_600_000, "milliseconds"),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "compression": ("none", "lz4", "zstd"),
    "log_io": ("auto", "mapped", "written"),
}
_STORED = (
    "segment_bytes",
    "block_bytes",
    "table_bytes",
    "blob_bytes",
    "level_base_bytes",
    "level_fanout",
    "filter_bits",
    "compression",
    "bottom_compression",
    "compaction",
    "ttl",
    "merge_operator",
    "retain_log_bytes",
)
TREE_FIELDS = frozenset(_STORED) - {"segment_bytes"}
"""Those of a single tree: a keyspace may have its own. `ttl` it has alone: the store's is that of
the store's own rows."""


@record(frozen=True, kw_only=True)
class Options(Record):
    """Options of a store, all with a default; frozen, and a dataclass to `dataclasses`.

    A field that does not exist and a value of the wrong type are a `TypeError`, one that is out of
    range a `ValueError` that names field and range.
    """

    segment_bytes: int = 64 * MIB
    """Size of a log segment, which is also the memtable and the unit of flush: 4 KiB to 1 GiB. Two
    or three of them are in memory. Larger ones mean less merging and a longer recovery."""
    block_bytes: int = 16 * KIB
    """Rows of a data block before compression, the unit of reading: 256 bytes to 1 MiB."""
    table_bytes: int = 64 * MIB
    """File size at which compaction begins a new table: 4 KiB to 16 GiB."""
    blob_bytes: int = 4 * KIB
    """Longer values are kept apart from the tables, in files to which rows refer, and are not
    written again by compaction: 0 (all values stay in the tables) to 1 GiB."""
    level_base_bytes: int = 256 * MIB
    """Size of level 1, for `compaction.Leveled`: 4 KiB to 16 TiB."""
    level_fanout: int = 10
    """How much larger each deeper level is, for `compaction.Leveled`: 2 to 100."""
    filter_bits: int = 10
    """Bits a key in each table's Bloom filter: 0 (none) to 64. With 10 about 1 % of the tables that
    do not have a key are read for it."""
    compression: str = "lz4"
    """Of values: "none", "lz4" or "zstd", which is smaller and about ten times slower to write."""
    bottom_compression: str | None = None
    """The same for the last level, where most data rests and is rewritten least; None: as
    `compression`."""
    compaction: Policy = LazyLeveled()
    """Which tables are merged, and when: a policy of `lsmkit.compaction`."""
    ttl: float | None = None
    """Seconds that a row lives which is written without a `ttl` of its own: more than 0; None for
    ever. Rows that are there keep the deadline that they were written with."""
    merge_operator: Operator | None = None
    """What `merge` makes of operands: one of `lsmkit.merge`. A store keeps its first for good: with
    another the sums that are stored would mean something else."""
    retain_log_bytes: int = 0
    """Bytes of log that are kept after their flush, for `changes`: 0 to 16 TiB. With 0 only what is
    in the log anyway can be followed. They count against `max_disk_bytes`."""
    cache_bytes: int = 256 * MIB
    """Memory for decoded blocks, indexes and filters, shared by the whole store: 0 to 16 TiB."""
    memory_bytes: int = GIB
    """All that the store may hold in memory: segments with their indexes, cache, flush, compaction,
    what scans keep: 4 MiB to 32 TiB. Where it is named, `segment_bytes`, `cache_bytes` and
    `table_bytes` that are not are made small enough for it; where it is not, it is as large as they
    need. Over it the cache gives way, and then writers wait."""
    log_io: str = "auto"
    """How the log reaches the system: "mapped" stores into a mapped file, "written" calls `pwrite`
    for each frame, "auto" maps on file systems where that is known to be safe."""
    background_threads: int = 2
    """Threads that flush and compact: 1 to 64."""
    rate_limit: int = 0
    """Bytes a second that flush and compaction write together, 0 for no limit, to 1 TiB."""
    sync_interval_ms: int = 1000
    """With `durability="periodic"`, the longest time in milliseconds for which an acknowledged
    write may be lost by a power cut: 1 to 3,600,000."""

    max_garbage: float = 0.5
    """Share of dead bytes (deletes, expired rows, deleted ranges) from which tables are rewritten
    although the policy has no need to: 0.05 to 1. Less makes for smaller files and dearer writing.
    What is dead as a whole goes at once. So it is with files of large values (`blob_bytes`), out of
    which what lives is moved."""

    max_disk_bytes: int = 0
    """Bytes of tables and log (`stats().disk_bytes`) over which writes are refused with a
    `StorageError` (ENOSPC), 0 for no bound, to 2**60. Reads and deletes go on, and writes too once
    compaction has made room; compaction itself may take more for a while."""

    if not TYPE_CHECKING:

        def __init__(self, **given):
            if isinstance(given.get("merge_operator"), type):
                given["merge_operator"] = operator_of(given["merge_operator"])
            super().__init__(**given)
            self.__dict__["_named"] = frozenset(given)

    def _check(self, name: str, value: Any) -> None:
        if name in _INTS:
            check_int(name, value, *_INTS[name])
        elif name in _CHOICES:
            check_choice(name, value, _CHOICES[name])
        elif name == "bottom_compression":
            if value is not None:
                check_choice(name, value, _CHOICES["compression"])
        elif name == "max_garbage":
            check_float(name, value, 0.05, 1)
        elif name == "ttl":
            if value is not None:
                _check_ttl(value)
        elif name == "merge_operator":
            if value is not None and not isinstance(value, Operator):
                raise TypeError(
                    f"{name} must be an operator of lsmkit.merge, not {type(value).__name__}"
                )
        elif not isinstance(value, Policy):
            raise TypeError(
                f"{name} must be a policy of lsmkit.compaction, not {type(value).__name__}"
            )

    @property
    def named(self) -> frozenset[str]:
        """The fields that were given, and are not to be taken from the store."""
        found: frozenset[str] = self.__dict__["_named"]
        return found

    def replace(self, **changes: Any) -> Self:
        """The same options with other values in some fields, which are named from then on."""
        return type(self)(**{**self._named_values(), **changes})

    def _named_values(self) -> dict[str, Any]:
        """Name and value of the fields that were given."""
        return {name: getattr(self, name) for name in self._names if name in self.named}

    def to_text(self, names: frozenset[str] = frozenset(_STORED)) -> str:
        """What is stored with a store: a line ``field=value`` for each option of the store, or for
        those of `names`."""
        lines = []
        for name in _STORED:
            if name not in names:
                continue
            value = getattr(self, name)
            if isinstance(value, Policy):
                value = value.to_text()
            elif isinstance(value, Operator):
                value = value.text
            lines.append(f"{name}={'' if value is None else value}\n")
        return "".join(lines)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """The options that `to_text` wrote; all that stand there are named. ValueError says which
        line is wrong, or written by a version of lsmkit that has more options."""
        given: dict[str, Any] = {}
        for line in text.split("\n"):
            if not line:
                continue
            name, equals, value = line.partition("=")
            if name not in _STORED or not equals or name in given:
                raise ValueError(f"not a stored option of this version: {line!r}")
            if name == "compaction":
                given[name] = Policy.from_text(value)
            elif name in _INTS:
                given[name] = int(value)
            elif name == "ttl":
                given[name] = float(value) if value else None
            elif name == "merge_operator":
                given[name] = operator_from_text(value) if value else None
            else:
                given[name] = value or None
        return cls(**given)

    def completed(self, stored: Options | str) -> Self:
        """These options where they are named, and elsewhere those of the store. OptionsError where
        the store has another merge operator: none is never another, and it never loses one."""
        if isinstance(stored, str):
            stored = Options.from_text(stored)
        theirs = {
            name: getattr(stored, name)
            for name in _STORED
            if name in stored.named and name not in self.named
        }
        kept = stored.merge_operator
        if kept is not None and self.merge_operator is None:
            theirs["merge_operator"] = kept
        elif kept is not None and self.merge_operator != kept:
            raise OptionsError(
                f"the rows are merged by {kept.text}; merge_operator is {self.merge_operator!r}"
            )
        return self.replace(**theirs) if theirs else self

    def __reduce__(self) -> tuple[Callable[..., Options], tuple[type[Options], dict[str, Any]]]:
        return _remake, (type(self), self._named_values())


def fitted(options: Options, named: frozenset[str]) -> Options:
    """The options with sizes that fit into the memory, of which those in `named` are as their
    user wants them; a ValueError where they do not fit."""
    segment, cache = options.segment_bytes, options.cache_bytes
    if "memory_bytes" not in named:
        memory = max(options.memory_bytes, cache + SEGMENTS * segment)
        return options if memory == options.memory_bytes else options.replace(memory_bytes=memory)
    memory = options.memory_bytes
    if "segment_bytes" not in named:
        room = memory - cache if "cache_bytes" in named else memory
        segment = max(min(segment, memory // 16, room // SEGMENTS_MIN), SEGMENT_MIN)
    if "cache_bytes" not in named:
        cache = max(min(cache, memory // 4, memory - SEGMENTS_MIN * segment), 0)
    least = cache + SEGMENTS_MIN * segment
    if least > memory:
        raise ValueError(
            f"memory_bytes must be from {least} bytes, with segment_bytes={segment} and "
            f"cache_bytes={cache}, not {memory}"
        )
    table = options.table_bytes if "table_bytes" in named else min(options.table_bytes, memory // 8)
    sizes = {"segment_bytes": segment, "cache_bytes": cache, "table_bytes": table}
    changes = {name: size for name, size in sizes.items() if getattr(options, name) != size}
    return options.replace(**changes) if changes else options


def _check_ttl(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"ttl must be a number of seconds, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"ttl is {value!r}; it must be more than 0 seconds, or None")


def _remake(kind: type[Options], values: dict[str, Any]) -> Options:
    return kind(**values)
