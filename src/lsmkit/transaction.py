"""Transactions: many reads and writes as one step, optimistic and serializable.

A transaction reads a snapshot and keeps its writes to itself. At commit the store looks whether
anything that it has read, keys and ranges, was written meanwhile; if not, its writes are applied as
one frame, else nothing is, and it is a ConflictError. So its effect is that of all its reads and
writes at the moment of the commit (Kung and Robinson, "On optimistic methods for concurrency
control", 1981). Nobody waits for a lock, and there are no deadlocks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import MutableMapping
from time import sleep

from ._core import core
from .errors import ClosedError, ConflictError
from .tree import Scanned, Snapshot, WritableTree, pairs_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, TypeVar, overload

    from typing_extensions import Self

    from ._core.core import _BytesLike as Buffer
    from ._core.core import _Durability

    _T = TypeVar("_T")

__all__ = ["Transaction"]

_PAUSE_MIN, _PAUSE_MAX = 0.0005, 0.05  # seconds between attempts, before chance makes them shorter


class Transaction(Scanned, MutableMapping[bytes, bytes]):
    """Reads and writes that take effect together, or not at all; made by `db.transaction()`.

    A mapping of bytes to bytes that sees its own writes over the store as it was when the
    transaction began. Nothing is visible to others before the commit, which is at the end of the
    `with` block, and is a ConflictError if what was read was written meanwhile; an exception inside
    rolls back. `db.run` does the retrying. For one thread.

    Costs a snapshot (2 µs) to begin; a read that of the snapshot and a note of the key; a write an
    entry in a dict; a commit one frame, and a look at each key and range read if anything was
    written since. Writes are in memory until then. What was never read is never a conflict, and a
    transaction that writes nothing always commits.
    """

    __hash__ = object.__hash__

    _source: WritableTree
    _snapshot: Snapshot
    _durability: _Durability | None
    _timeout: float | None
    _ended: bool
    _writes: dict[bytes, bytes | None]  # None: deleted
    _ttls: dict[bytes, float]  # of some of them, in seconds
    _operands: dict[bytes, list[bytes]]  # over those, over what was deleted, or over the store's
    _deleted: list[tuple[bytes, bytes | None]]  # ranges, which _writes and _operands stand over
    _sorted: list[bytes] | None  # the keys of _writes and _operands, as long as no key comes
    _keys: set[bytes]  # that were read
    _ranges: list[list[bytes | None]]  # [lower, upper or None] that scans have passed
    _root: Transaction | None  # of which this is the part in one keyspace; None: of none
    _parts: dict[int, Transaction]  # those parts, by the number of their trees

    def __init__(self) -> None:
        raise TypeError("Transaction is made by transaction() of a store")

    @classmethod
    def _begin(
        cls, source: WritableTree, durability: _Durability | None, timeout: float | None
    ) -> Self:
        core.check_writing(source, durability, timeout)
        self = cls.__new__(cls)
        self._source = source
        self._snapshot = source.snapshot()
        self._durability = durability
        self._timeout = timeout
        self._root = None
        self._forget()
        self._ended = False
        return self

    def _forget(self) -> None:
        self._writes = {}
        self._ttls = {}
        self._operands = {}
        self._deleted = []
        self._sorted = None
        self._keys = set()
        self._ranges = []
        self._parts = {}

    def keyspace(self, keyspace: WritableTree) -> Transaction:
        """The same transaction in another keyspace: a `Keyspace` of the store, or the `DB` for its
        default keyspace. It reads there at the same moment, and they are committed together, by
        either."""
        root = self if self._root is None else self._root
        root._check()
        if not isinstance(keyspace, WritableTree):
            raise TypeError(f"keyspace must be a Keyspace, not {type(keyspace).__name__}")
        if keyspace._handle is not root._source._handle:
            raise ValueError("keyspace is one of another store than the transaction")
        if keyspace._tree == root._source._tree:
            return root
        part = root._parts.get(keyspace._tree)
        if part is None:
            keyspace._check()
            part = root._parts[keyspace._tree] = type(root).__new__(type(root))
            part._source = keyspace
            part._snapshot = root._snapshot._at(keyspace)
            part._root = root
            part._forget()
            part._ended = False
        return part

    # --- Reading.

    if TYPE_CHECKING:

        @overload
        def get(
            self, key: Buffer, default: None = None, *, keyspace: WritableTree | None = None
        ) -> bytes | None: ...
        @overload
        def get(
            self, key: Buffer, default: _T, *, keyspace: WritableTree | None = None
        ) -> bytes | _T: ...
        def get(
            self, key: Buffer, default: object = None, *, keyspace: WritableTree | None = None
        ) -> object: ...
    else:

        def get(self, key, default=None, *, keyspace=None):
            """The value of `key`, or `default` when there is none; its own writes are seen.
            `keyspace` is where, see `keyspace()`."""
            if keyspace is not None:
                return self.keyspace(keyspace).get(key, default)
            value = self._find(core.key_bytes(key))
            return default if value is None else value

    def get_many(self, keys: list[Buffer] | tuple[Buffer, ...]) -> list[bytes | None]:
        """The values of many keys, None where there is none."""
        return [self._find(core.key_bytes(key)) for key in keys]

    def __getitem__(self, key: Buffer) -> bytes:
        value = self._find(core.key_bytes(key))
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return self._find(core.key_bytes(key)) is not None

    def scan(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
        keyspace: WritableTree | None = None,
    ) -> Iterator[tuple[bytes, bytes]]:
        """Pairs in key order, as the `scan` of a store, its own writes among them.

        It sees the writes that were made before it began. What it has passed counts as read: also
        that there was no other key, so that a key which somebody puts there is a conflict. A scan
        that is left early has read up to where it was left.
        """
        lower, upper = core.range_bytes(start, stop, prefix, include_start, include_stop)
        if keyspace is not None:
            return self.keyspace(keyspace).scan(lower, upper, reverse=reverse)
        self._check()
        own = self._own(lower, upper)
        rows: Iterator[tuple[bytes, bytes]] = self._snapshot.scan(lower, upper, reverse=reverse)
        if self._deleted:
            deleted = tuple(self._deleted)
            rows = (row for row in rows if not _is_within(row[0], deleted))
        if reverse:
            own.reverse()
            return self._scan_backwards(rows, own, lower, upper)
        return self._scan_forwards(rows, own, lower, upper)

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
        pairs = self.scan(
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )
        return (key for key, _ in pairs)

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
        pairs = self.scan(
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )
        return (value for _, value in pairs)

    def __len__(self) -> int:
        """How many keys there are: O(n), and all of them count as read."""
        return sum(1 for _ in self.scan())

    def __bool__(self) -> bool:
        for _ in self.scan():
            return True
        return False

    # --- Writing.

    def put(
        self,
        key: Buffer,
        value: Buffer,
        *,
        ttl: float | None = None,
        keyspace: WritableTree | None = None,
    ) -> None:
        """Stores `value` under `key` when the transaction commits, for `ttl` seconds from then."""
        if keyspace is not None:
            self.keyspace(keyspace).put(key, value, ttl=ttl)
            return
        checked = core.key_bytes(key)
        self._write(checked, core.value_bytes(value), ttl)

    def update(self, other: Any = (), /, *, ttl: float | None = None, **named: bytes) -> None:
        """Stores all pairs of a mapping, or of an iterable of pairs, when the transaction commits,
        for `ttl` seconds from then."""
        pairs = [
            (core.key_bytes(key), core.value_bytes(value)) for key, value in pairs_of(other, named)
        ]
        for key, value in pairs:
            self._write(key, value, ttl)

    def delete(self, key: Buffer, *, keyspace: WritableTree | None = None) -> None:
        """Removes `key` when the transaction commits; no error when it is not there."""
        if keyspace is not None:
            self.keyspace(keyspace).delete(key)
            return
        self._write(core.key_bytes(key), None)

    def delete_range(
        self,
        start: Buffer | None,
        stop: Buffer | None,
        *,
        keyspace: WritableTree | None = None,
    ) -> None:
        """Removes all keys from `start` up to `stop`, which stays, when the transaction commits:
        also those that others have put there by then. None is the beginning, the end."""
        if keyspace is not None:
            self.keyspace(keyspace).delete_range(start, stop)
            return
        lower, upper = core.range_bytes(start, stop, None, True, False)
        self._check()
        if upper is not None and upper <= lower:
            return
        within = ((lower, upper),)
        for mine in (self._writes, self._operands, self._ttls):
            for key in [key for key in mine if _is_within(key, within)]:
                mine.pop(key)
        self._sorted = None
        self._deleted.append((lower, upper))

    def merge(
        self, key: Buffer, operand: Buffer | float, *, keyspace: WritableTree | None = None
    ) -> None:
        """Stores an operand for `key` when the transaction commits; as `DB.merge`.

        It reads nothing: others may merge into the key meanwhile, unless this transaction has read
        it too.
        """
        if keyspace is not None:
            self.keyspace(keyspace).merge(key, operand)
            return
        checked = core.key_bytes(key)
        self._check()
        operand = core.operand_bytes(self._source, operand)
        self._operands.setdefault(checked, []).append(operand)
        self._sorted = None

    def clear(self) -> None:
        """Removes every key when the transaction commits."""
        self.delete_range(None, None)

    def __setitem__(self, key: Buffer, value: Buffer) -> None:
        self._write(core.key_bytes(key), core.value_bytes(value))

    def __delitem__(self, key: Buffer) -> None:
        checked = core.key_bytes(key)
        if self._find(checked) is None:
            raise KeyError(key)
        self._write(checked, None)

    # --- Its end.

    def commit(self) -> None:
        """Applies the writes, all at once, and ends the transaction.

        ConflictError: something that was read was written since the transaction began; nothing was
        applied. Busy: there was no room within `timeout`; nothing was applied, and it may be
        committed again.
        """
        if self._root is not None:
            self._root.commit()
            return
        self._check()
        parts = (self, *self._parts.values())
        if not any(part._has_written() for part in parts):
            self.rollback()
            return
        batch = core.WriteBatch()
        reads = []
        for part in parts:
            part._source._check()
            part._write_to(batch)
            ranges = tuple([(lower, upper) for lower, upper in part._ranges])
            reads.append((part._source, tuple(part._keys), ranges))
        done = core.commit(
            self._source, batch, self._snapshot, tuple(reads), self._durability, self._timeout
        )
        self.rollback()
        if not done:
            raise ConflictError("what the transaction has read was written by another meanwhile")

    def _has_written(self) -> bool:
        return bool(self._writes or self._operands or self._deleted)

    def _write_to(self, batch: core.WriteBatch) -> None:
        """What it has written here, in an order that gives what it has seen."""
        where = None if self._root is None else self._source
        for start, stop in self._deleted:
            batch.delete_range(start, stop, keyspace=where)
        for key, value in self._writes.items():
            if value is None:
                batch.delete(key, keyspace=where)
            else:
                batch.put(key, value, ttl=self._ttls.get(key), keyspace=where)
        for key, operands in self._operands.items():
            for operand in operands:
                batch.merge(key, operand, keyspace=where)

    def rollback(self) -> None:
        """Forgets the writes and ends the transaction; nothing happens if it has ended."""
        if self._root is not None:
            self._root.rollback()
            return
        for part in (*self._parts.values(), self):
            part._ended = True
            part._forget()
            part._snapshot.close()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._ended:
                self.commit()
        finally:
            self.rollback()

    def __repr__(self) -> str:
        keys = len(self._writes.keys() | self._operands.keys())
        state = "ended" if self._ended else f"{keys} keys written"
        return f"<lsmkit.Transaction on {self._source.path!r}, {state}>"

    # --- How.

    def _check(self) -> None:
        if self._ended:
            raise ClosedError("the transaction has ended")

    def _find(self, key: bytes) -> bytes | None:
        if key not in self._writes:
            self._check()
            if _is_within(key, self._deleted):
                self._source._handle.check()  # nobody else is asked
            else:
                self._keys.add(key)
        return self._value(key)

    def _value(self, key: bytes) -> bytes | None:
        """What is seen of a key; noting that it was read is the caller's."""
        if key in self._writes:
            value = self._writes[key]
        elif _is_within(key, self._deleted):
            value = None
        else:
            value = self._snapshot.get(key)
        operands = self._operands.get(key)
        if operands is None:
            return value
        return core.fold_operands(self._source, value, operands)

    def _write(self, key: bytes, value: bytes | None, ttl: float | None = None) -> None:
        self._check()
        if ttl is not None:
            core.check_ttl(ttl)
            self._ttls[key] = ttl
        elif self._ttls:
            self._ttls.pop(key, None)
        if key not in self._writes:
            self._sorted = None
        self._writes[key] = value
        if self._operands:
            self._operands.pop(key, None)

    def _own(self, lower: bytes, upper: bytes | None) -> list[tuple[bytes, bytes | None]]:
        """Its writes in a range, in key order."""
        if not (self._writes or self._operands):
            return []
        if self._sorted is None:
            self._sorted = sorted({**self._writes, **self._operands})
        keys = self._sorted
        low = bisect_left(keys, lower)
        high = len(keys) if upper is None else bisect_left(keys, upper)
        return [(key, self._value(key)) for key in keys[low:high]]

    def _scan_forwards(
        self,
        rows: Iterator[tuple[bytes, bytes]],
        own: list[tuple[bytes, bytes | None]],
        lower: bytes,
        upper: bytes | None,
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        read: list[bytes | None] = [lower, lower]
        self._ranges.append(read)
        for key, value in _overlaid(rows, own, reverse=False):
            read[1] = key + b"\0"
            yield key, value
            self._check()
        read[1] = upper

    def _scan_backwards(
        self,
        rows: Iterator[tuple[bytes, bytes]],
        own: list[tuple[bytes, bytes | None]],
        lower: bytes,
        upper: bytes | None,
    ) -> Iterator[tuple[bytes, bytes]]:
        self._check()
        read: list[bytes | None] = [lower, lower]  # nothing, until the first row
        self._ranges.append(read)
        for key, value in _overlaid(rows, own, reverse=True):
            read[0], read[1] = key, upper
            yield key, value
            self._check()
        read[0], read[1] = lower, upper


def _is_within(key: bytes, ranges: Sequence[tuple[bytes, bytes | None]]) -> bool:
    """Whether one of the ranges [start, stop) holds the key; a stop of None is the end."""
    return any(start <= key and (stop is None or key < stop) for start, stop in ranges)


def _overlaid(
    rows: Iterator[tuple[bytes, bytes]],
    own: list[tuple[bytes, bytes | None]],
    *,
    reverse: bool,
) -> Iterator[tuple[bytes, bytes]]:
    """Two sorted lists as one, where the second says what holds for keys in both."""
    if not own:
        yield from rows
        return
    at = 0
    for row in rows:
        key = row[0]
        while at < len(own) and (own[at][0] > key if reverse else own[at][0] < key):
            mine, value = own[at]
            if value is not None:
                yield mine, value
            at += 1
        if at < len(own) and own[at][0] == key:
            value = own[at][1]
            if value is not None:
                yield key, value
            at += 1
        else:
            yield row
    for mine, value in own[at:]:
        if value is not None:
            yield mine, value


def run(
    source: WritableTree,
    work: Callable[[Transaction], _T],
    retries: int,
    durability: _Durability | None,
    timeout: float | None,
) -> _T:
    """See WritableTree.run."""
    if retries < 0:
        raise ValueError(f"retries is {retries}; it must be 0 or more")
    for attempt in range(retries + 1):
        try:
            with source.transaction(durability=durability, timeout=timeout) as t:
                return work(t)
        except ConflictError:
            if attempt == retries:
                raise
        sleep(pause_after(attempt))
    raise AssertionError("the last attempt returns or raises")


def pause_after(attempt: int) -> float:
    """Seconds until the next: more each time, and by chance, so that rivals do not meet again."""
    from random import random

    longest: float = min(_PAUSE_MIN * 2**attempt, _PAUSE_MAX)
    return random() * longest
