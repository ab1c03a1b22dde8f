"""`lsmkit.open_btree`: a B+tree whose pages are changed in place, beside the log-structured store.

What a store does by merging, a B-tree does by writing pages again: it reads with one search, and
pays for each write with the page that the row is in. It is here so that a program can measure which
of the two suits its own data, and use the one that does.
"""

from __future__ import annotations

from collections.abc import MutableMapping

from ._core import core
from ._record import Record, check_int, record
from .db import located
from .errors import OptionsError
from .tree import Closing, Scanned, pairs_of
from .verify import Verification

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NoReturn

    from typing_extensions import Self

    from ._core.core import _BytesLike as Buffer
    from ._core.core import _Durability
    from .db import Path
    from .testing import FaultyDisk

__all__ = ["BTree", "BTreeStats", "open_btree"]

MIB = 1 << 20
PAGE_BYTES = (4096, 8192, 16384, 32768)


def open_btree(
    path: Path,
    *,
    create_if_missing: bool = True,
    error_if_exists: bool = False,
    durability: _Durability = "process",
    cache_bytes: int = 256 * MIB,
    log_bytes: int = 64 * MIB,
    page_bytes: int | None = None,
    sync_interval_ms: int = 1000,
    timeout: float | None = None,
    disk: FaultyDisk | None = None,
) -> BTree:
    """Opens the B+tree in directory `path`, and makes it where there is none.

    Of `open` it has `create_if_missing`, `error_if_exists`, `durability`, `timeout`, `disk` and
    `":memory:"`, with the same meaning and the same errors: one process owns a tree.

    `cache_bytes` is the memory for pages, from 256 KiB: half of it may be pages that were changed
    and not written yet. `log_bytes` (64 KiB to 2 GiB) is the size of the redo log, after which a
    checkpoint writes the changed pages; a larger one means fewer writes of the same page and a
    longer recovery. `page_bytes` (4096, 8192, 16384 or 32768) is decided when the tree is made:
    4096 unless it is named; another for a tree that is there is an OptionsError.
    """
    check_int("cache_bytes", cache_bytes, 256 << 10, 16 << 40, "bytes")
    check_int("log_bytes", log_bytes, 64 << 10, 2 << 30, "bytes")
    check_int("sync_interval_ms", sync_interval_ms, 1, 3_600_000, "milliseconds")
    if page_bytes is not None and page_bytes not in PAGE_BYTES:
        raise ValueError(f"page_bytes must be 4096, 8192, 16384 or 32768, not {page_bytes!r}")
    shown, where, machine = located(path, disk, b"/tree")
    tree = BTree.__new__(BTree)
    tree._open(
        where,
        shown,
        durability=durability,
        create_if_missing=create_if_missing,
        error_if_exists=error_if_exists,
        timeout=timeout,
        cache_bytes=cache_bytes,
        log_bytes=log_bytes,
        page_bytes=page_bytes or PAGE_BYTES[0],
        sync_interval_ms=sync_interval_ms,
        disk=machine,
    )
    stored = tree._stats()["page_bytes"]
    if page_bytes is not None and stored != page_bytes:
        tree.close()
        raise OptionsError(f"{shown}: the tree has pages of {stored} bytes, not of {page_bytes}")
    return tree


@record(frozen=True, kw_only=True)
class BTreeStats(Record):
    """What a B+tree has done since it was opened, and what it holds; sizes are bytes."""

    rows: int
    levels: int
    """Pages that a search looks into; 0 for a tree that never had a row."""
    page_bytes: int
    file_pages: int
    """Pages that the file has; those that are free are used again, and never given back."""
    free_pages: int
    cached_pages: int
    cache_pages: int
    """Pages that memory has room for."""
    dirty_pages: int
    """Pages that were changed since the last checkpoint."""
    log_used: int
    log_capacity: int
    records: int
    """Puts and deletes."""
    frames: int
    """Writes that were atomic by themselves: a single put is one, and a batch is one."""
    user_bytes: int
    """Keys and values that were written."""
    log_bytes: int
    """Bytes of the log that they became."""
    syncs: int
    """Calls of fdatasync for the log; one may serve many writers."""
    splits: int
    merges: int
    checkpoints: int
    checkpoint_ns: int
    """Time that writers waited for checkpoints."""
    page_writes: int
    """Pages that checkpoints wrote where they belong."""
    home_bytes: int
    """Bytes of these, and of the lists of free pages."""
    journal_bytes: int
    """Bytes of the same pages in the journal, where they were not new."""
    extent_bytes: int
    """Bytes of large keys and values, which are written to pages of their own at once."""
    page_reads: int
    evictions: int
    recovered_records: int
    """Records that the log had when the tree was opened."""

    @property
    def write_amplification(self) -> float:
        """Bytes written to files for each byte of keys and values; 0 before the first."""
        if self.user_bytes == 0:
            return 0.0
        written = self.log_bytes + self.home_bytes + self.journal_bytes + self.extent_bytes
        return written / self.user_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, as JSON takes them."""
        return {**dict(self._items()), "write_amplification": self.write_amplification}


class BTree(Closing, core.BTreeHandle, Scanned, MutableMapping[bytes, bytes]):
    """An open B+tree; made by `lsmkit.open_btree`. A mapping of bytes to bytes, and a context
    manager.

    Safe to use from any number of threads: writers go one after another, readers beside them. Keys
    have 0 to 65,535 bytes, values up to 1 GiB. A single write is seen whole or not at all; of a
    batch, a reader beside it may see a part. There are no snapshots: a scan sees what was written
    before it comes by. `path` is the directory, as it was given. After `close`, and in a forked
    child, everything but `close` is a ClosedError. Dropping the last reference closes the tree.
    """

    __hash__ = object.__hash__

    def scan(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs `(key, value)` from `start` to `stop` in key order, or backwards with `reverse`;
        arguments as for `DB.scan`. Up to 256 rows of one page are fetched at a time, as they are
        then."""
        return core.btree_scan(
            self,
            "pairs",
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )

    def scan_keys(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> Iterator[bytes]:
        """The keys alone; otherwise as `scan`."""
        return core.btree_scan(
            self,
            "keys",
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )

    def scan_values(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> Iterator[bytes]:
        """The values alone, in the order of their keys; otherwise as `scan`."""
        return core.btree_scan(
            self,
            "values",
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )

    def cursor(self) -> core.BTreeCursor:
        """A `BTreeCursor`: seeks to a key and walks both ways from it."""
        return core.btree_cursor(self)

    def update(self, other: Any = (), /, **named: bytes) -> None:
        """Stores all pairs of a mapping, or of an iterable of pairs, as one `put_many`."""
        pairs = pairs_of(other, named)
        self.put_many([key for key, _ in pairs], [value for _, value in pairs])

    def popitem(self) -> tuple[bytes, bytes]:
        """Removes the pair with the smallest key and returns it; KeyError when there is none."""
        for key in self.scan_keys():
            value = self.pop(key, None)
            if value is not None:
                return key, value
        raise KeyError("popitem(): the tree is empty")

    def clear(self) -> None:
        """Removes every key: one record in the log, in the tree row after row."""
        self.delete_range(None, None)

    def stats(self) -> BTreeStats:
        """Counts, sizes and write amplification; costs nothing but two locks."""
        return BTreeStats(**self._stats())

    def verify(self) -> Verification:
        """Reads every page and every large value, and proves checksums, the order of keys, and that
        each page is used once or free. Writers wait meanwhile. Does not raise for damage: the first
        fault is in the report."""
        counts, errors = self._verify()
        return Verification(
            files=1,
            blocks=counts["pages"],
            rows=counts["rows"],
            values=0,
            bytes=counts["bytes"],
            range_tombstones=0,
            errors=tuple(errors),
        )

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{self.path}: a tree has one owner, and its handle is not copied")

    def __deepcopy__(self, seen: dict[int, Any]) -> NoReturn:
        self.__copy__()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self.path}: a tree has one owner, and its handle is not pickled")

    def __enter__(self) -> Self:
        self._check()
        return self

    def __repr__(self) -> str:
        return f"<lsmkit.BTree at {self.path!r}{', closed' if self.closed else ''}>"
