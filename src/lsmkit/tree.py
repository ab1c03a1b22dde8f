"""Reading and writing one tree of a store, a mapping of bytes to bytes; and reading it as it was.

The hot methods (get, put, delete, put_many, ...) are those of the extension's classes, which are
the bases here; this file adds what costs a call anyway: scans, waiting for the background, and what
`collections.abc` asks for.
"""

from __future__ import annotations

from collections.abc import ItemsView, Mapping, MutableMapping, ValuesView

from ._core import core
from .errors import ClosedError, Error, ReadOnlyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any, TypeVar

    from typing_extensions import Self

    from ._core.core import _BytesLike as Buffer
    from ._core.core import _ColumnLike as ColumnLike
    from ._core.core import _Durability
    from .aio import AsyncTree
    from .compaction.scheduler import Coordinator
    from .keyspace import Keyspaces
    from .transaction import Transaction

    _T = TypeVar("_T")

__all__ = ["Snapshot", "WritableTree"]


class _Items(ItemsView[bytes, bytes]):
    _mapping: Scanned

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        return self._mapping.scan()


class _Values(ValuesView[bytes]):
    _mapping: Scanned

    def __iter__(self) -> Iterator[bytes]:
        return self._mapping.scan_values()


class Scanned(Mapping[bytes, bytes]):
    """A mapping that can be scanned: its views go by one scan, where those of `collections.abc`
    would look up every key."""

    if TYPE_CHECKING:

        def scan(self) -> Iterator[tuple[bytes, bytes]]: ...
        def scan_keys(self, *, reverse: bool = False) -> Iterator[bytes]: ...
        def scan_values(self) -> Iterator[bytes]: ...

    def __iter__(self) -> Iterator[bytes]:
        return self.scan_keys()

    def __reversed__(self) -> Iterator[bytes]:
        return self.scan_keys(reverse=True)

    def items(self) -> ItemsView[bytes, bytes]:
        return _Items(self)

    def values(self) -> ValuesView[bytes]:
        return _Values(self)


def pairs_of(other: Any, named: dict[str, Any]) -> list[tuple[Any, Any]]:
    """What `update` is given, all of it before anything is written."""
    if named:
        raise TypeError("keys are bytes; keywords would be str")
    if isinstance(other, Mapping):
        return list(other.items())
    if hasattr(other, "keys"):
        return [(key, other[key]) for key in other.keys()]  # noqa: SIM118
    return [(key, value) for key, value in other]


class Closing:
    """What is closed at the end of a `with` block."""

    if TYPE_CHECKING:

        def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Readable(core.Reader):
    """What a store and a snapshot of it can both be asked."""

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
        """Pairs `(key, value)` from `start` to `stop` in key order, or backwards with `reverse`.

        `start` and `stop` are the lower and the upper bound in both directions; `prefix` stands for
        both (and with one of them is a TypeError). A range that ends before it starts is empty. The
        scan sees the store as it is now, whatever is written meanwhile, and pins what it reads
        until it ends or is dropped.
        """
        return core.scan(
            self,
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
        return core.scan_keys(
            self,
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
        return core.scan_values(
            self,
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )

    def scan_columns(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        rows: int = 65536,
    ) -> core.ColumnScan:
        """`Columns` of up to `rows` rows each, in key order: whole columns copied, no object a row.

        The iterator is an Arrow stream too: `polars.DataFrame(db.scan_columns())`.
        """
        return core.scan_columns(self, start, stop, prefix=prefix, rows=rows)

    def cursor(self) -> core.Cursor:
        """A `Cursor`: seeks to a key and walks both ways from it, over the store as it is now."""
        return core.cursor(self)

    def __len__(self) -> int:
        """How many keys there are: exact, and O(n)."""
        return core.count_rows(self)

    def __bool__(self) -> bool:
        for _ in core.scan_keys(self):
            return True
        return False

    def approximate_size(self, start: Buffer | None = None, stop: Buffer | None = None) -> int:
        """Bytes that tables hold of keys in [start, stop), to the block; the log is not counted."""
        return core.approximate_size(self, start, stop)


class Snapshot(Closing, _Readable, core.SnapshotReader, Scanned):
    """One moment of a store, readable until it is closed: the reading half of `DB`.

    It keeps the versions that it sees from being folded away, not whole tables or segments, and
    costs under 2 µs. A context manager.
    """

    __hash__ = object.__hash__

    _source: WritableTree | None

    @classmethod
    def _of(cls, source: WritableTree) -> Self:
        self = cls.__new__(cls)
        self._take(source)
        self._source = source
        return self

    def keyspace(self, name: str) -> Snapshot:
        """The same moment of a keyspace, which ends with this one; KeyError when there is none of
        that name now. One that was made after the moment is empty."""
        if self._source is None:
            raise ClosedError("the snapshot is closed")
        other = type(self).__new__(type(self))
        other._share(self, self._source._keyspaces.number(name))
        other._source = self._source
        return other

    def _at(self, tree: WritableTree) -> Self:
        """The same moment of another tree of the store, as `keyspace` gives it."""
        other = type(self).__new__(type(self))
        other._share(self, tree._tree)
        other._source = tree
        return other

    @property
    def seq(self) -> int:
        """Its place in the commit order: `db.changes(since=snapshot.seq)` is what came after it."""
        return self._place()

    def close(self) -> None:
        """Lets go of the moment; reading through it is a ClosedError from now on."""
        self._release()
        self._source = None


class WritableTree(_Readable, core.Tree, Scanned, MutableMapping[bytes, bytes]):
    """The base of `DB`: one tree of an open store, to read and to write."""

    __hash__ = object.__hash__

    _handle: core.Handle
    _coordinator: Coordinator
    _keyspaces: Keyspaces
    _tree: int

    @property
    def path(self) -> str:
        """The directory, as it was given to `open`."""
        return self._handle.path

    # --- Mapping.

    def update(
        self,
        other: Any = (),
        /,
        *,
        ttl: float | None = None,
        durability: _Durability | None = None,
        timeout: float | None = None,
        **named: bytes,
    ) -> None:
        """Stores all pairs of a mapping, or of an iterable of pairs, at once and atomically.
        Keywords as for `put`."""
        pairs = pairs_of(other, named)
        keys, values = [key for key, _ in pairs], [value for _, value in pairs]
        self.put_many(keys, values, ttl=ttl, durability=durability, timeout=timeout)

    def popitem(
        self, *, durability: _Durability | None = None, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Removes the pair with the smallest key and returns it; KeyError when there is none.
        Atomic: a pair is returned once. Keywords as for `put`."""
        while True:
            for key in core.scan_keys(self):
                value = self.pop(key, None, durability=durability, timeout=timeout)
                if value is not None:
                    return key, value
                break
            else:
                raise KeyError("popitem(): the store is empty")

    def clear(self, *, durability: _Durability | None = None, timeout: float | None = None) -> None:
        """Removes every key, at once and atomically: one `delete_range`, however many there are.
        Keywords as for `put`."""
        self.delete_range(None, None, durability=durability, timeout=timeout)

    def ingest(self, keys: ColumnLike, values: ColumnLike) -> None:
        """Stores many rows straight in tables, past the log: atomically, and on the disk when it
        returns.

        `keys` and `values` are columns as for `put_many`, in any order; the last of equal keys
        stays. The rows take one place in the commit order, at the end of the call: they replace
        what was written before, and what is written afterwards, or was read by a snapshot taken
        before, is not touched. What the log holds is flushed first, and other writers wait for a
        few milliseconds at the end.

        Faster than `put_many` from some ten thousand rows on, because nothing is written twice;
        fewer rows make a small table each time, which compaction must merge. Takes 36 bytes of
        memory a row beside the columns, none where the keys ascend.
        """
        self._check_writable()
        core.ingest(self, keys, values)

    # --- Reading at one moment.

    def snapshot(self) -> Snapshot:
        """The store as it is now, to read from while it goes on; close it, or use it in `with`."""
        return Snapshot._of(self)

    # --- What was written.

    def changes(
        self,
        since: int = 0,
        *,
        keyspace: WritableTree | str | None = None,
        prefix: Buffer | None = None,
        follow: bool | float = False,
    ) -> core.Changes:
        """What was committed after the change with the sequence `since`, in commit order: an
        iterator of `Change`. 0 is the beginning of what is kept. `keyspace` names another keyspace
        of the store than this one; a KeyError when there is none of that name.

        It comes from the log, so there is as much of it as the log holds, and `retain_log_bytes`
        beside that. Who has fallen behind gets ChangesLost, and so does whoever was before an
        `ingest` into any keyspace, whose rows are in no log. Operands show as they were logged:
        `merge_many` combines those of a key before.

        Without `follow` it ends with what is there now. With `follow=True` it waits for more, until
        the store is closed: ClosedError. With a number it ends when nothing has come for so many
        seconds. Writers pay nothing for who follows, who looks for news every 5 ms. Beside its
        owner, a store that was opened with `follow=True` is moved on meanwhile; another one that is
        only read sees more after `refresh`.

        `prefix` gives those of keys that begin with it, and deleted ranges that hold such keys.
        """
        of: WritableTree = self
        if isinstance(keyspace, str):
            return core.changes(self, self._keyspaces.number(keyspace), since, prefix, follow)
        if keyspace is not None:
            of = keyspace
            if of._handle is not self._handle:
                raise ValueError(f"{of!r} is not of the store at {self.path!r}")
        return core.changes(of, of._tree, since, prefix, follow)

    def hot_keys(self, n: int = 10) -> list[tuple[bytes, float, float]]:
        """The `n` keys that were written most often lately: `(key, share, error)`, heaviest first.

        `share` is the part of all writes that the key had, too high by at most `error`. Lately is
        what the log holds and what was flushed before it, about four segments. Writers pay nothing:
        flushes count what they merge anyway, and the log is looked through at the call, which takes
        some milliseconds for each million of writes. At most 128 keys of each flush are known. A
        deleted range is a write of no key, and rows that were ingested are none.

        It adds up summaries as Space-Saving does (Metwally, Agrawal, El Abbadi 2005), each of them
        exact for its heaviest keys.
        """
        return core.hot_keys(self, n)

    # --- Transactions.

    def transaction(
        self, *, durability: _Durability | None = None, timeout: float | None = None
    ) -> Transaction:
        """A `Transaction`, for a `with` block: reads and writes that take effect together.

        It commits at the end of the block: a ConflictError says that something it has read was
        written meanwhile, and nothing was applied. `durability` and `timeout` are those of the
        commit, as for `put`.
        """
        from .transaction import Transaction

        return Transaction._begin(self, durability, timeout)

    def run(
        self,
        work: Callable[[Transaction], _T],
        *,
        retries: int = 10,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> _T:
        """Calls `work(t)` with a transaction, commits it, and returns what `work` returned.

        After a ConflictError, up to `retries` times, all of it is done again, after a short pause
        that grows up to 50 ms; the last conflict is raised. `work` should do nothing but read and
        write through `t`, as it may be called several times.
        """
        from .transaction import run

        return run(self, work, retries, durability, timeout)

    # --- In event loops.

    @property
    def aio(self) -> AsyncTree:
        """The same methods as coroutines, and scans for `async for`: see `lsmkit.aio`."""
        from .aio import AsyncTree

        return AsyncTree(self)

    # --- The background.

    def sync(self) -> None:
        """Returns when all that was written before the call is on the disk.

        A StorageError means that it may not be; the store then refuses writes until it is reopened.
        """
        self._check()
        self._handle.sync()

    def flush(self) -> None:
        """Writes what only the log holds into tables, and returns when they are on the disk."""
        self._check_writable()
        self._handle.flush()

    def compact(self, start: Buffer | None = None, stop: Buffer | None = None) -> None:
        """Flushes, then merges all that tables hold of [start, stop) into the last level: what was
        overwritten or deleted gives its space back. Rewrites the range once."""
        lower, upper = core.bound(start, "start"), core.bound(stop, "stop")
        self.flush()
        if lower is None or upper is None or lower < upper:
            self._wait(self._coordinator.compact(self._tree, lower, upper), None)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Waits until nothing is left to flush or to compact; False after `timeout` seconds."""
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout is {timeout!r}; it must be 0 or more seconds")
        self._check()
        if self._handle.read_only:
            return True
        return self._wait(self._coordinator.idle(), timeout)

    @property
    def pressure(self) -> float:
        """How much writers are slowed because flush and compaction are behind: from 0, not at all,
        to 1, where they wait. It rises before writes have to wait long, so it is what to listen to
        in order to write less in time. Costs a lock that is held for an instant."""
        self._check()
        return max(self._coordinator.pressure, self._handle.log_pressure())

    def _check_writable(self) -> None:
        self._check()
        if self._handle.read_only:
            raise ReadOnlyError(f"{self.path}: the store was opened read-only")

    def _wait(self, request: Any, timeout: float | None) -> bool:
        if not request.wait(timeout):
            return False
        if request.error is not None:
            self._handle.check()  # a store that was closed meanwhile is a ClosedError
            raise Error(f"{self.path}: background work failed: {request.error}")
        return True
