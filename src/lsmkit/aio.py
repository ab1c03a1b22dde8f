"""A store for programs that run in an event loop: `db.aio` has the names of `db`, as coroutines.

    async with lsmkit.open(path).aio as db:
        await db.put(b"key", b"value")
        async for key, value in db.scan(prefix=b"k"):
            ...

What memory can answer is answered at once, without a thread: a `get` whose block is cached, a `put`
that finds room in the log. Everything that could wait (for the disk, for a flush, for many rows)
waits in one of a few threads of the store or, where it is for room, in the loop. Tasks that write
with `durability="sync"` at the same time share one fdatasync.

A call that is cancelled never leaves half of it. What was answered at once is done; of what is in a
thread a write is waited for, so that it is over when the CancelledError arrives, wholly applied or
not at all; it says not which. Reading goes on unattended, and so do `flush`, `compact`, `ingest`,
`checkpoint` and `verify`.

Any number of event loops, in any threads, may use a store at once, beside threads that use `db`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from functools import partial
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from ._core import core
from .errors import ConflictError
from .loops import Threads, threads_of
from .transaction import pause_after
from .tree import pairs_of

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from typing_extensions import Self

    from ._core.core import _BytesLike as Buffer
    from ._core.core import _ColumnLike as ColumnLike
    from ._core.core import _Durability
    from .db import DB, Path
    from .keyspace import Keyspace
    from .options import Options
    from .stats import Stats
    from .transaction import Transaction
    from .tree import Snapshot, WritableTree, _Readable
    from .verify import Verification

__all__ = [
    "AsyncBatch",
    "AsyncCursor",
    "AsyncKeyspace",
    "AsyncScan",
    "AsyncSnapshot",
    "AsyncStore",
    "AsyncTransaction",
    "AsyncTree",
]

_T = TypeVar("_T")

SHORT_BYTES = 1 << 16
"""Up to so many bytes are copied in the loop's own thread, which takes some microseconds."""
ROWS_FIRST, ROWS, ROWS_BYTES = 32, 1024, 1 << 20
"""Rows that a scan fetches at first, and then; none behind this many bytes of a batch."""
WAIT_SLICE = 0.25
"""Seconds for which a thread waits before it looks whether anybody still does."""

_LATER = object()


class _Done:
    """It has happened; `await` is allowed, and returns at once."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


_DONE = _Done()


class _Given:
    """What a method gives without waiting: `await` is allowed, and gives it too."""

    def __await__(self) -> Generator[None, None, Self]:
        yield from ()
        return self


class _Closing:
    """What is closed at the end of an `async with` block."""

    if TYPE_CHECKING:

        async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _is_short(value: object) -> bool:
    try:
        return memoryview(value).nbytes <= SHORT_BYTES  # type: ignore[arg-type]
    except (TypeError, BufferError):
        return True  # and will be refused, or is a number


class AsyncScan(_Given, Generic[_T]):
    """Rows of a scan, for `async for`: fetched in a thread, one batch ahead of whoever reads.

    For one task at a time. `aclose`, or the end of an `async with` block, gives back what it pins
    before its end, and so does dropping it.
    """

    def __init__(self, threads: Threads, begin: Callable[[], Iterator[_T]], *, rows: int) -> None:
        self._threads = threads
        self._begin: Callable[[], Iterator[_T]] | None = begin
        self._source: Iterator[_T] | None = None
        self._count = min(rows, ROWS_FIRST)
        self._count_later = rows
        self._ahead: Future[list[_T]] | None = None
        self._rows: list[_T] = []
        self._at = 0
        self._error: BaseException | None = None
        self._is_ended = False  # set by the thread
        self._is_closed = False
        self._is_running = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        if self._at == len(self._rows) and not await self._fill():
            raise StopAsyncIteration
        row = self._rows[self._at]
        self._at += 1
        return row

    async def aclose(self) -> None:
        """Ends the scan and gives back what it pins."""
        self._is_closed = True
        ahead, self._ahead = self._ahead, None
        if ahead is not None and not ahead.cancel():
            await asyncio.wait([asyncio.wrap_future(ahead)])
        self._begin = self._source = None
        self._rows, self._at = [], 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _fill(self) -> bool:
        if self._is_closed:
            return False
        if self._is_running:
            raise RuntimeError("the scan is already being read by another task")
        self._is_running = True
        try:
            if self._ahead is None and not self._is_ended:
                self._ahead = self._threads.submit(self._fetch)
            if self._ahead is not None:
                # Shielded: whoever is cancelled may come back for the rows.
                rows = await asyncio.shield(asyncio.wrap_future(self._ahead))
                self._rows, self._at = rows, 0
                self._ahead = None
                if not (self._is_ended or self._is_closed):
                    self._ahead = self._threads.submit(self._fetch)
                if rows:
                    return True
        finally:
            self._is_running = False
        error, self._error = self._error, None
        if error is not None:
            raise error
        return False

    def _fetch(self) -> list[_T]:
        """The next rows; in a thread. An error comes behind the rows before it."""
        rows: list[_T] = []
        try:
            if self._begin is not None:
                self._source = self._begin()
                self._begin = None
            assert self._source is not None
            size = 0
            for row in islice(self._source, self._count):
                rows.append(row)
                size += _size_of(row)
                if size >= ROWS_BYTES:
                    break
            self._count = self._count_later
            self._is_ended = not rows
        except BaseException as error:
            self._error = error
            self._is_ended = True
        if self._is_ended:
            self._source = None
        return rows


def _size_of(row: Any) -> int:
    if type(row) is tuple:
        return len(row[0]) + len(row[1])
    return len(row)


class _Reading:
    """What a store and a snapshot can both be asked."""

    _of: _Readable
    _threads: Threads
    _follows = False

    @overload
    async def get(self, key: Buffer, default: None = None) -> bytes | None: ...
    @overload
    async def get(self, key: Buffer, default: _T) -> bytes | _T: ...
    async def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of `key`, or `default`; at once where no block has to be read."""
        if self._threads.is_turn():
            await asyncio.sleep(0)
        if not self._follows:
            value = core.get_now(self._of, key, default, _LATER)
            if value is not _LATER:
                return value
        return await self._threads.run(self._of.get, key, default)

    async def get_many(self, keys: Any, default: Any = None) -> Any:
        """The values of many keys, as of one moment, as `DB.get_many`; in a thread."""
        return await self._threads.run(self._of.get_many, keys, default)

    def scan(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> AsyncScan[tuple[bytes, bytes]]:
        """Pairs `(key, value)` for `async for`; arguments and moment as for `DB.scan`."""
        lower, upper = core.range_bytes(start, stop, prefix, include_start, include_stop)
        return self._scan(lambda of: of.scan(lower, upper, reverse=reverse))

    def scan_keys(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> AsyncScan[bytes]:
        """The keys alone; otherwise as `scan`."""
        lower, upper = core.range_bytes(start, stop, prefix, include_start, include_stop)
        return self._scan(lambda of: of.scan_keys(lower, upper, reverse=reverse))

    def scan_values(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> AsyncScan[bytes]:
        """The values alone, in the order of their keys; otherwise as `scan`."""
        lower, upper = core.range_bytes(start, stop, prefix, include_start, include_stop)
        return self._scan(lambda of: of.scan_values(lower, upper, reverse=reverse))

    def scan_columns(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        rows: int = 65536,
    ) -> AsyncScan[core.Columns]:
        """`Columns` of up to `rows` rows each, for `async for`; as `DB.scan_columns`."""
        if rows < 1:
            raise ValueError(f"rows is {rows}; it must be 1 or more")
        lower, upper = core.range_bytes(start, stop, prefix, True, False)
        return self._scan(lambda of: of.scan_columns(lower, upper, rows=rows), rows=1)

    def keys(self) -> AsyncScan[bytes]:
        """All keys in their order, for `async for`."""
        return self.scan_keys()

    def values(self) -> AsyncScan[bytes]:
        """All values in the order of their keys, for `async for`."""
        return self.scan_values()

    def items(self) -> AsyncScan[tuple[bytes, bytes]]:
        """All pairs in the order of their keys, for `async for`."""
        return self.scan()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self.scan_keys()

    def cursor(self) -> AsyncCursor:
        """A cursor over the store as it is now; its moves are made in a thread."""
        snapshot, ours = self._moment()
        return AsyncCursor(self._threads, snapshot, ours)

    async def approximate_size(
        self, start: Buffer | None = None, stop: Buffer | None = None
    ) -> int:
        """Bytes that tables hold of keys in [start, stop); as `DB.approximate_size`."""
        return await self._threads.run(self._of.approximate_size, start, stop)

    def _moment(self) -> tuple[Snapshot, bool]:
        """The moment of the call, before a thread begins; and whether it is to be closed."""
        raise NotImplementedError

    def _scan(
        self, open_scan: Callable[[Snapshot], Iterator[_T]], rows: int = ROWS
    ) -> AsyncScan[_T]:
        snapshot, ours = self._moment()

        def begin() -> Iterator[_T]:
            scan = open_scan(snapshot)
            if ours:
                snapshot.close()  # the scan pins what it reads
            return scan

        return AsyncScan(self._threads, begin, rows=rows)


class AsyncSnapshot(_Given, _Closing, _Reading):
    """One moment of a store, for `async with`: the reading half of `AsyncTree`."""

    def __init__(self, threads: Threads, snapshot: Snapshot) -> None:
        self._threads = threads
        self._of = self._snapshot = snapshot

    def _moment(self) -> tuple[Snapshot, bool]:
        return self._snapshot, False

    async def close(self) -> None:
        """Lets go of the moment; reading through it is a ClosedError from now on."""
        self._snapshot.close()


class AsyncCursor(_Given, _Closing):
    """A cursor, for `async with`; it stands on no row until it is moved. For one task at a time."""

    def __init__(self, threads: Threads, snapshot: Snapshot, ours: bool) -> None:
        self._threads = threads
        self._snapshot = snapshot
        self._ours = ours
        self._cursor: core.Cursor | None = None
        self._is_closed = False

    async def seek(self, key: Buffer) -> bool:
        """To the first key that is not below `key`; whether there is one."""
        return await self._move(lambda cursor: cursor.seek(key))

    async def seek_for_prev(self, key: Buffer) -> bool:
        """To the last key that is not above `key`; whether there is one."""
        return await self._move(lambda cursor: cursor.seek_for_prev(key))

    async def seek_to_first(self) -> bool:
        """To the first key; whether there is one."""
        return await self._move(lambda cursor: cursor.seek_to_first())

    async def seek_to_last(self) -> bool:
        """To the last key; whether there is one."""
        return await self._move(lambda cursor: cursor.seek_to_last())

    async def next(self) -> bool:
        """To the next key; whether there is one. ValueError when the cursor stands on none."""
        return await self._move(lambda cursor: cursor.next())

    async def prev(self) -> bool:
        """To the key before; whether there is one. ValueError when the cursor stands on none."""
        return await self._move(lambda cursor: cursor.prev())

    @property
    def valid(self) -> bool:
        """Whether the cursor stands on a row."""
        return self._cursor is not None and self._cursor.valid

    @property
    def key(self) -> bytes:
        """The key where the cursor stands. ValueError when it stands on none."""
        return self._row().key

    @property
    def value(self) -> bytes:
        """The value where the cursor stands. ValueError when it stands on none."""
        return self._row().value

    async def close(self) -> None:
        """Gives back what the cursor pins."""
        self._is_closed = True
        if self._cursor is not None:
            self._cursor.close()
        elif self._ours:
            self._snapshot.close()

    def _row(self) -> core.Cursor:
        if self._cursor is None:
            raise ValueError("the cursor stands on no row")
        return self._cursor

    async def _move(self, move: Callable[[core.Cursor], bool]) -> bool:
        def go() -> bool:
            if self._cursor is None:
                self._cursor = self._snapshot.cursor()
                if self._ours:
                    self._snapshot.close()
            return move(self._cursor)

        return await self._threads.run_whole(go)


@overload
def _tree_of(keyspace: AsyncTree | WritableTree) -> WritableTree: ...
@overload
def _tree_of(keyspace: AsyncTree | WritableTree | None) -> WritableTree | None: ...
def _tree_of(keyspace: AsyncTree | WritableTree | None) -> WritableTree | None:
    """What the core takes for `keyspace=`."""
    return keyspace._of if isinstance(keyspace, AsyncTree) else keyspace


class AsyncBatch(_Given):
    """Writes that are applied together at the end of an `async with` block; an exception inside
    discards them. `applied` then is True, or False where it repeats what its source has written.

    Its methods only note, and need no `await`.
    """

    def __init__(self, tree: AsyncTree, batch: core.WriteBatch, keywords: dict[str, Any]) -> None:
        self.applied: bool | None = None
        self._tree = tree
        self._batch = batch
        self._keywords = keywords

    def put(
        self,
        key: Buffer,
        value: Buffer,
        *,
        ttl: float | None = None,
        keyspace: AsyncTree | WritableTree | None = None,
    ) -> _Done:
        """Stores `value` under `key` when the batch is applied; see `WriteBatch.put`."""
        self._batch.put(key, value, ttl=ttl, keyspace=_tree_of(keyspace))
        return _DONE

    def delete(self, key: Buffer, *, keyspace: AsyncTree | WritableTree | None = None) -> _Done:
        """Removes `key` when the batch is applied."""
        self._batch.delete(key, keyspace=_tree_of(keyspace))
        return _DONE

    def merge(
        self, key: Buffer, operand: Buffer, *, keyspace: AsyncTree | WritableTree | None = None
    ) -> _Done:
        """Stores an operand for `key` when the batch is applied; see `WriteBatch.merge`."""
        self._batch.merge(key, operand, keyspace=_tree_of(keyspace))
        return _DONE

    def delete_range(
        self,
        start: Buffer | None,
        stop: Buffer | None,
        *,
        keyspace: AsyncTree | WritableTree | None = None,
    ) -> _Done:
        """Removes all keys from `start` up to `stop` when the batch is applied."""
        self._batch.delete_range(start, stop, keyspace=_tree_of(keyspace))
        return _DONE

    def clear(self) -> _Done:
        """Forgets all writes."""
        self._batch.clear()
        return _DONE

    @property
    def nbytes(self) -> int:
        """Bytes that the writes take in the log."""
        return self._batch.nbytes

    def __len__(self) -> int:
        return len(self._batch)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.applied = await self._tree.write(self._batch, **self._keywords)
        self._batch.clear()


class AsyncTransaction(_Given):
    """A transaction, for `async with`: reads are awaited, writes only noted, without `await`.

    It commits at the end of the block, as `Transaction` does. For one task at a time. Rows that a
    scan has fetched ahead count as read.
    """

    def __init__(
        self, threads: Threads, t: Transaction, durability: Any, timeout: float | None
    ) -> None:
        self._threads = threads
        self._t = t
        self._durability = durability
        self._timeout = timeout

    def keyspace(self, keyspace: AsyncTree | WritableTree) -> AsyncTransaction:
        """The same transaction in another keyspace; as `Transaction.keyspace`."""
        t = self._t.keyspace(_tree_of(keyspace))
        return type(self)(self._threads, t, self._durability, self._timeout)

    @overload
    async def get(self, key: Buffer, default: None = None) -> bytes | None: ...
    @overload
    async def get(self, key: Buffer, default: _T) -> bytes | _T: ...
    async def get(self, key: Buffer, default: Any = None) -> Any:
        """The value of `key`, or `default`; its own writes are seen."""
        t = self._t
        t._check()
        if core.get_now(t._snapshot, key, None, _LATER) is _LATER:
            return await self._threads.run_whole(partial(t.get, key, default))
        return t.get(key, default)

    async def get_many(self, keys: list[Buffer] | tuple[Buffer, ...]) -> list[bytes | None]:
        """The values of many keys, None where there is none."""
        return await self._threads.run_whole(partial(self._t.get_many, keys))

    def scan(
        self,
        start: Buffer | None = None,
        stop: Buffer | None = None,
        *,
        prefix: Buffer | None = None,
        reverse: bool = False,
        include_start: bool = True,
        include_stop: bool = False,
    ) -> AsyncScan[tuple[bytes, bytes]]:
        """Pairs in key order, its own writes among them, for `async for`; as `Transaction.scan`."""
        rows = self._t.scan(
            start,
            stop,
            prefix=prefix,
            reverse=reverse,
            include_start=include_start,
            include_stop=include_stop,
        )
        return AsyncScan(self._threads, lambda: rows, rows=ROWS)

    def put(self, key: Buffer, value: Buffer, *, ttl: float | None = None) -> _Done:
        """Stores `value` under `key` when the transaction commits, for `ttl` seconds from then."""
        self._t.put(key, value, ttl=ttl)
        return _DONE

    def update(self, other: Any = (), /, *, ttl: float | None = None) -> _Done:
        """Stores all pairs of a mapping, or of an iterable of pairs, at the commit."""
        self._t.update(other, ttl=ttl)
        return _DONE

    def delete(self, key: Buffer) -> _Done:
        """Removes `key` when the transaction commits."""
        self._t.delete(key)
        return _DONE

    def delete_range(self, start: Buffer | None, stop: Buffer | None) -> _Done:
        """Removes all keys from `start` up to `stop` when the transaction commits."""
        self._t.delete_range(start, stop)
        return _DONE

    def merge(self, key: Buffer, operand: Buffer | float) -> _Done:
        """Stores an operand for `key` when the transaction commits."""
        self._t.merge(key, operand)
        return _DONE

    def clear(self) -> _Done:
        """Removes every key when the transaction commits."""
        self._t.clear()
        return _DONE

    async def commit(self) -> None:
        """Applies the writes, all at once, and ends the transaction; as `Transaction.commit`."""
        t = self._t if self._t._root is None else self._t._root
        t._check()
        if not any(part._has_written() for part in (t, *t._parts.values())):
            t.commit()
            return

        def attempt(durability: _Durability | None, timeout: float | None) -> None:
            t._durability, t._timeout = durability, timeout
            t.commit()

        await self._threads.write(
            t._source, attempt, self._durability, self._timeout, is_short=False
        )

    def rollback(self) -> _Done:
        """Forgets the writes and ends the transaction."""
        self._t.rollback()
        return _DONE

    async def __aenter__(self) -> Self:
        self._t._check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and not self._t._ended:
                await self.commit()
        finally:
            self._t.rollback()


class AsyncTree(_Reading):
    """One tree of a store, to read and to write; the base of `AsyncStore`."""

    _of: WritableTree

    def __init__(self, of: WritableTree) -> None:
        self._of = of
        self._threads = threads_of(of)
        self._follows = getattr(of, "_follows", False)

    def _moment(self) -> tuple[Snapshot, bool]:
        return self._of.snapshot(), True

    # --- Writing.

    async def _write(
        self,
        call: Callable[..., _T],
        durability: _Durability | None,
        timeout: float | None,
        *,
        is_short: bool = False,
    ) -> _T:
        return await self._threads.write(self._of, call, durability, timeout, is_short=is_short)

    async def put(
        self,
        key: Buffer,
        value: Buffer,
        *,
        ttl: float | None = None,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> None:
        """Stores `value` under `key`; as `DB.put`, and at once where there is room."""
        call = partial(self._of.put, key, value, ttl=ttl)
        await self._write(call, durability, timeout, is_short=_is_short(value))

    async def delete(
        self,
        key: Buffer,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> None:
        """Removes `key`; as `DB.delete`, and at once where there is room."""
        await self._write(partial(self._of.delete, key), durability, timeout, is_short=True)

    async def delete_range(
        self,
        start: Buffer | None,
        stop: Buffer | None,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> None:
        """Removes all keys from `start` up to `stop`; as `DB.delete_range`."""
        call = partial(self._of.delete_range, start, stop)
        await self._write(call, durability, timeout, is_short=True)

    async def merge(
        self,
        key: Buffer,
        operand: Buffer | float,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> None:
        """Stores an operand for `key`; as `DB.merge`, and at once where there is room."""
        call = partial(self._of.merge, key, operand)
        await self._write(call, durability, timeout, is_short=_is_short(operand))

    async def setdefault(
        self,
        key: Buffer,
        default: Buffer | None = None,
        *,
        ttl: float | None = None,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """The value of `key`; where there is none, stores `default`. As `DB.setdefault`."""
        call = partial(self._of.setdefault, key, default, ttl=ttl)
        return await self._write(call, durability, timeout)

    @overload
    async def pop(
        self,
        key: Buffer,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> bytes: ...
    @overload
    async def pop(
        self,
        key: Buffer,
        *default: _T,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> bytes | _T: ...
    async def pop(
        self,
        key: Buffer,
        *default: Any,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Removes `key` and returns its value, or `default`, or raises KeyError; as `DB.pop`."""
        return await self._write(partial(self._of.pop, key, *default), durability, timeout)

    async def popitem(
        self, *, durability: _Durability | None = None, timeout: float | None = None
    ) -> tuple[bytes, bytes]:
        """Removes the pair with the smallest key and returns it; as `DB.popitem`."""
        return await self._write(self._of.popitem, durability, timeout)

    async def update(
        self,
        other: Any = (),
        /,
        *,
        ttl: float | None = None,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> None:
        """Stores all pairs of a mapping, or of an iterable of pairs, atomically; as `DB.update`."""
        pairs = pairs_of(other, {})
        await self._write(partial(self._of.update, pairs, ttl=ttl), durability, timeout)

    async def clear(
        self, *, durability: _Durability | None = None, timeout: float | None = None
    ) -> None:
        """Removes every key, atomically; as `DB.clear`."""
        await self._write(self._of.clear, durability, timeout, is_short=True)

    async def put_many(
        self,
        keys: ColumnLike,
        values: ColumnLike,
        *,
        ttl: float | None = None,
        durability: _Durability | None = None,
        timeout: float | None = None,
        source: str | None = None,
        seq: int | None = None,
    ) -> bool:
        """Stores many rows at once, atomically; as `DB.put_many`, in a thread."""
        call = partial(self._of.put_many, keys, values, ttl=ttl, source=source, seq=seq)
        return await self._write(call, durability, timeout)

    async def delete_many(
        self,
        keys: ColumnLike,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
        source: str | None = None,
        seq: int | None = None,
    ) -> bool:
        """Removes many keys at once, atomically; as `DB.delete_many`, in a thread."""
        call = partial(self._of.delete_many, keys, source=source, seq=seq)
        return await self._write(call, durability, timeout)

    async def merge_many(
        self,
        keys: ColumnLike,
        operands: ColumnLike,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
        source: str | None = None,
        seq: int | None = None,
    ) -> bool:
        """Stores many operands at once, atomically; as `DB.merge_many`, in a thread."""
        call = partial(self._of.merge_many, keys, operands, source=source, seq=seq)
        return await self._write(call, durability, timeout)

    async def write(
        self,
        batch: core.WriteBatch,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
        source: str | None = None,
        seq: int | None = None,
    ) -> bool:
        """Applies a WriteBatch, atomically; as `DB.write`, and at once where it is short."""
        call = partial(self._of.write, batch, source=source, seq=seq)
        is_short = getattr(batch, "nbytes", 0) <= SHORT_BYTES
        return await self._write(call, durability, timeout, is_short=is_short)

    def batch(
        self,
        *,
        durability: _Durability | None = None,
        timeout: float | None = None,
        source: str | None = None,
        seq: int | None = None,
    ) -> AsyncBatch:
        """Collects writes and applies them at the end of an `async with` block, atomically; an
        exception inside discards them. As `DB.batch`."""
        keywords = {"durability": durability, "timeout": timeout, "source": source, "seq": seq}
        return AsyncBatch(self, self._of.batch(**keywords), keywords)  # type: ignore[arg-type]

    async def position(self, source: str) -> int | None:
        """The greatest `seq` that was written with this `source`, or None."""
        return await self._threads.run(self._of.position, source)

    async def ingest(self, keys: ColumnLike, values: ColumnLike) -> None:
        """Stores many rows straight in tables, atomically; as `DB.ingest`."""
        await self._threads.run(self._of.ingest, keys, values)

    # --- Moments.

    def snapshot(self) -> AsyncSnapshot:
        """The store as it is now, to read from while it goes on; for `async with`."""
        return AsyncSnapshot(self._threads, self._of.snapshot())

    def transaction(
        self, *, durability: _Durability | None = None, timeout: float | None = None
    ) -> AsyncTransaction:
        """A transaction, for an `async with` block; as `DB.transaction`."""
        t = self._of.transaction(durability=durability, timeout=timeout)
        return AsyncTransaction(self._threads, t, durability, timeout)

    async def run(
        self,
        work: Callable[[AsyncTransaction], Awaitable[_T]],
        *,
        retries: int = 10,
        durability: _Durability | None = None,
        timeout: float | None = None,
    ) -> _T:
        """Awaits `work(t)` with a transaction, commits it, and returns what `work` returned; after
        a ConflictError again, up to `retries` times. As `DB.run`."""
        if retries < 0:
            raise ValueError(f"retries is {retries}; it must be 0 or more")
        for attempt in range(retries + 1):
            try:
                async with self.transaction(durability=durability, timeout=timeout) as t:
                    return await work(t)
            except ConflictError:
                if attempt == retries:
                    raise
            await asyncio.sleep(pause_after(attempt))
        raise AssertionError("the last attempt returns or raises")

    # --- The background.

    async def sync(self) -> None:
        """Returns when all that was written before the call is on the disk; as `DB.sync`."""
        await self._threads.sync()

    async def flush(self) -> None:
        """Writes what only the log holds into tables; as `DB.flush`."""
        await self._threads.run(self._of.flush)

    async def compact(self, start: Buffer | None = None, stop: Buffer | None = None) -> None:
        """Flushes and merges all of [start, stop) into the last level; as `DB.compact`."""
        await self._threads.run(self._of.compact, start, stop)

    async def wait_idle(self, timeout: float | None = None) -> bool:
        """Waits until nothing is left to flush or to compact; False after `timeout` seconds."""
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"timeout is {timeout!r}; it must be 0 or more seconds")
        end = None if timeout is None else monotonic() + timeout
        while True:
            left = WAIT_SLICE if end is None else min(WAIT_SLICE, max(end - monotonic(), 0.0))
            if await self._threads.run(self._of.wait_idle, left):
                return True
            if end is not None and monotonic() >= end:
                return False

    @property
    def pressure(self) -> float:
        """How far flush and compaction are behind the writers; as `DB.pressure`."""
        return self._of.pressure

    @property
    def path(self) -> str:
        """The directory, as it was given to `open`."""
        return self._of.path


class AsyncKeyspace(AsyncTree):
    """A keyspace as coroutines: `ks.aio`, and what `keyspace` of a store's `aio` gives."""

    _of: Keyspace

    @property
    def name(self) -> str:
        """What it is called in its store."""
        return self._of.name

    @property
    def db(self) -> AsyncStore:
        """The store that it is a part of."""
        return self._of.db.aio

    @property
    def options(self) -> Options:
        """The options in force; as `Keyspace.options`."""
        return self._of.options

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or the keyspace dropped."""
        return self._of.closed

    def __repr__(self) -> str:
        return f"<{self._of!r}.aio>"


class AsyncStore(_Closing, AsyncTree):
    """An open store as coroutines: `db.aio`. An asynchronous context manager, which closes it."""

    _of: DB

    async def keyspace(self, name: str, **options: Any) -> AsyncKeyspace:
        """The keyspace of this name, made where there is none; as `DB.keyspace`."""
        return (await self._threads.run_whole(partial(self._of.keyspace, name, **options))).aio

    async def keyspaces(self) -> list[str]:
        """The names of all keyspaces, sorted."""
        return await self._threads.run(self._of.keyspaces)

    async def drop_keyspace(self, name: str) -> None:
        """Drops a keyspace with all that is in it; as `DB.drop_keyspace`."""
        await self._threads.run_whole(partial(self._of.drop_keyspace, name))

    async def checkpoint(self, path: Path) -> None:
        """Makes a store of its own at `path`; as `DB.checkpoint`."""
        await self._threads.run(self._of.checkpoint, path)

    async def refresh(self) -> bool:
        """Moves a store that is only read to what its owner has committed; as `DB.refresh`."""
        return await self._threads.run(self._of.refresh)

    async def stats(self) -> Stats:
        """Counts, sizes and amplification; as `DB.stats`."""
        return await self._threads.run(self._of.stats)

    async def verify(self) -> Verification:
        """Proves every checksum of every file; as `DB.verify`."""
        return await self._threads.run(self._of.verify)

    @property
    def options(self) -> Options:
        """The options in force."""
        return self._of.options

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._of.closed

    async def close(self) -> None:
        """Waits for calls under way, flushes the log into tables, and gives the store up; as
        `DB.close`. A close that is cancelled goes on to its end."""
        if not self._of.closed:
            await self._threads.run(self._of.close)
        self._threads.end()

    async def __aenter__(self) -> Self:
        self._of._handle.check()
        return self

    def __repr__(self) -> str:
        return f"<{self._of!r}.aio>"
