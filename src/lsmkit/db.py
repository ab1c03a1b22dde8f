"""`lsmkit.open`, and the store that it gives: what concerns all of it. Reading and writing its
trees is in tree.py.
"""

from __future__ import annotations

import atexit
import os
from _weakref import ref

from ._core import core
from .compaction.scheduler import Coordinator
from .errors import CorruptionError, Error, OptionsError, StoreNotFoundError
from .housekeeping import directory_of
from .keyspace import Keyspace, Keyspaces, meanings
from .options import Options, fitted
from .stats import Stats, shape_of
from .tree import Closing, WritableTree
from .verify import Verification
from .version import Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeAlias, TypeVar

    from typing_extensions import Self

    from .aio import AsyncStore
    from .testing import FaultyDisk

    _T = TypeVar("_T")
    Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]

__all__ = ["DB", "open"]

_open_stores: dict[int, ref[DB]] = {}


def open(
    path: Path,
    *,
    create_if_missing: bool = True,
    error_if_exists: bool = False,
    read_only: bool = False,
    follow: bool = False,
    durability: str = "process",
    options: Options | None = None,
    timeout: float | None = None,
    disk: FaultyDisk | None = None,
    **overrides: Any,
) -> DB:
    """Opens the store in directory `path`, and makes it where there is none.

    `":memory:"` makes a new store in this process's memory, which is gone once it is closed. `disk`
    is a `lsmkit.testing.FaultyDisk`, on which the store then is.

    One process owns a store: while it is open, another opener, in this process too, gets a
    `LockedError` with `.pid` and `.since`; `timeout` waits so many seconds for it first. With
    `read_only=True` the store is read beside its owner, if there is one, as it was when it was
    opened; `refresh` moves it on, and `follow=True` does so before each read.

    `durability` is what a write survives once its call has returned, unless the call says
    otherwise: "process" (the process being killed, at any point; no system call), "periodic" (power
    loss, but for the last `sync_interval_ms`), "sync" (power loss; writers that wait share one
    fdatasync).

    `options` are `Options`, and keywords override its fields: an unknown one is a TypeError, a
    value out of range a ValueError. Those that describe the files are stored, and taken from the
    store where they are not named.

    A store that is not there and may not be made is a FileNotFoundError, one that must not be there
    a FileExistsError; both are `lsmkit.Error` too. Damage is a `CorruptionError` that names file
    and offset. Costs a read of the manifest and of what the log still holds (a clean store: under
    3 ms).
    """
    chosen = (options or Options()).replace(**overrides)
    if follow and not read_only:
        raise OptionsError("follow=True is for a store that is opened with read_only=True")
    shown, where, machine = located(path, disk)
    while True:
        properties = _settled(lambda: core.stored_properties(where, machine))
        stored = properties.get("options")
        keyspaces = meanings(properties)
        completed = chosen if stored is None else chosen.completed(stored)
        sized = fitted(completed, chosen.named)

        def attempt(options: Options = sized, keyspaces: list[Any] = keyspaces) -> core.Handle:
            return core.Handle.open(
                where,
                shown,
                options=options,
                keyspaces=keyspaces,
                durability=durability,
                create_if_missing=create_if_missing,
                error_if_exists=error_if_exists,
                read_only=read_only,
                timeout=timeout,
                disk=machine,
            )

        handle = _settled(attempt) if read_only else attempt()
        # Until the store is owned, another process may make it, or store other options with it.
        now = handle.property("options")
        if now is None or now == stored or chosen.completed(now) == completed:
            kind = _follower() if follow else DB
            place = None if machine else os.fsdecode(where)
            db = kind._opened(handle, sized, completed.to_text(), keyspaces, place)
            if disk is not None:
                disk._opened(db)
            return db
        handle.close()


def located(
    path: Path, disk: FaultyDisk | None, in_memory: bytes = b"/store"
) -> tuple[str, bytes, core.Disk | None]:
    """What a caller names: as it is shown, its directory, and the machine on which that is; None is
    the real one. ":memory:" is `in_memory` of a machine of its own, unless one is given."""
    shown = os.fsdecode(path)
    if not shown or "\0" in shown:
        raise ValueError(f"path is {shown!r}; it must be the name of a directory")
    machine = None if disk is None else disk._core
    if shown == ":memory:":
        return shown, in_memory, machine or core.Disk()
    if machine is None:
        return shown, os.fsencode(os.path.abspath(shown)), None
    where = os.fsencode(os.path.join("/", shown))
    machine.make_directories(where)
    return shown, where, machine


def _follower() -> type[DB]:
    from .follow import Follower

    return Follower


def _arrive(place: str, options: Options, follow: bool) -> DB:
    """What a pickled store becomes where it arrives."""
    return open(place, read_only=True, follow=follow, options=options)


def _settled(look: Callable[[], _T]) -> _T:
    """What `look` finds in files that their owner may be changing: they come and go between two
    looks, so it looks again as long as it fails in another way each time. Damage says the same
    thing twice."""
    before = ""
    for _ in range(100):
        try:
            return look()
        except (CorruptionError, StoreNotFoundError) as error:
            if str(error) == before:
                raise
            before = str(error)
    return look()


_is_registered = False


def _close_when_the_interpreter_exits(db: DB) -> None:
    global _is_registered
    if not _is_registered:
        atexit.register(_close_all)
        _is_registered = True
    _open_stores[id(db)] = ref(db)


def _close_all() -> None:
    """At the interpreter's end: every store, also after one that cannot be closed."""
    failure: Error | None = None
    for reference in list(_open_stores.values()):
        db = reference()
        try:
            if db is not None:
                db.close()
        except Error as error:
            failure = failure or error
    if failure is not None:
        raise failure


class DB(Closing, WritableTree):
    """An open store; made by `lsmkit.open`. A mapping of bytes to bytes, and a context manager.

    Safe to use from any number of threads. Keys have 0 to 65,535 bytes, values up to 1 GiB;
    anything with the buffer protocol is taken, a `str` is a TypeError. After `close`, and in a
    forked child, everything but `close` is a ClosedError. Dropping the last reference closes the
    store.

    It pickles as its absolute path and its options, also when it is closed, and opens read-only
    where it arrives: as the store is at that time; one that follows its owner goes on doing so. It
    is not copied.
    """

    _tree = 0
    _keyspace_kind = Keyspace
    _follows = False
    _options: Options
    _place: str | None

    @classmethod
    def _opened(
        cls,
        handle: core.Handle,
        options: Options,
        stored: str,
        keyspaces: list[Any],
        place: str | None,
    ) -> Self:
        self = cls.__new__(cls)
        self._attach(handle, 0)
        self._handle = handle
        self._options = options
        self._place = place
        self._keyspaces = Keyspaces(handle, options, keyspaces)
        self._coordinator = Coordinator(handle, options, self._keyspaces.options_of)
        if not handle.read_only:
            if handle.property("options") != stored:
                handle.set_property("options", stored)
            self._coordinator.start()
        _close_when_the_interpreter_exits(self)
        return self

    # --- Keyspaces.

    def keyspace(self, name: str, **options: Any) -> Keyspace:
        """The keyspace of this name, a store inside the store; made where there is none.

        `name` is a str of 1 to 255 bytes in UTF-8. `options` are those fields of `Options` that
        concern tables: `compaction`, `compression`, `bottom_compression`, `block_bytes`,
        `filter_bits`, `table_bytes`, `level_base_bytes`, `level_fanout`; and `ttl` and
        `merge_operator`. What is named is stored; what was never named is as in the store, but for
        the last two, which are then none. Options of the store are an OptionsError, and so is
        another merge operator than the one that is stored.

        The same object is given as long as it is in use. In a store that was opened read-only, one
        that is not there is a ReadOnlyError. Making one costs one durable edit of the manifest.
        """
        return self._keyspaces.open(self, name, options)

    def keyspaces(self) -> list[str]:
        """The names of all keyspaces, sorted; the store's own rows are in none of them."""
        return self._keyspaces.names()

    def drop_keyspace(self, name: str) -> None:
        """Drops a keyspace with all that is in it, durably; KeyError when there is none.

        Its tables are deleted as soon as no scan holds them, what the log holds of it is never
        written to a table. Its handle raises ClosedError from now on. A new keyspace of the same
        name is empty.
        """
        self._keyspaces.drop(name)

    # --- Reports.

    def checkpoint(self, path: Path) -> None:
        """Makes a store of its own at `path`, with everything acknowledged before the call.

        Tables are hard-linked (copied where the file system cannot), so it takes little time and
        space however large the store is; what the log holds is flushed first. It is on the disk
        when this returns, and a crash leaves at `path` what was there, or all of it. Writers and
        readers go on meanwhile.

        `path` is new, an empty directory, or an older checkpoint of this store: then only what is
        new is added, and whoever opens it finds the old state or the new one. Anything else there
        is a StoreExistsError, a checkpoint that is open a LockedError, and nothing is changed. A
        checkpoint that was opened to be written is a store of its own from then on. A handle that
        was opened read-only is a ReadOnlyError: it cannot flush the log.
        """
        core.checkpoint(self._handle, directory_of(path))

    def stats(self) -> Stats:
        """Counts, sizes and amplification; costs a walk over the tables' names, no disk."""
        return Stats.from_raw(
            _stats_of(core.raw_stats(self._handle), self._keyspaces, self.pressure)
        )

    def verify(self) -> Verification:
        """Reads every byte of every live file and proves every checksum, the order of keys and the
        filters. Does not raise for damage: it is in the report."""
        counts, errors = core.verify_store(self._handle)
        return Verification(**counts, errors=tuple(errors))

    @property
    def options(self) -> Options:
        """The options in force."""
        return self._options

    @property
    def aio(self) -> AsyncStore:
        """The same methods as coroutines, and scans for `async for`: see `lsmkit.aio`."""
        from .aio import AsyncStore

        return AsyncStore(self)

    # --- In other processes.

    def refresh(self) -> bool:
        """Moves a store that was opened with `read_only=True` to what its owner has committed by
        now; whether that is more than before.

        Scans, cursors and snapshots stay where they are. An owner sees all that there is: False. On
        an error the store is as it was. Costs a look at memory, under 1 µs, when there is nothing
        new (two short reads where the log may not be mapped); else what is new in the log is read,
        and what edits of the manifest tell of.
        """
        return self._handle.refresh()

    def __reduce__(self) -> tuple[Callable[..., DB], tuple[str, Options, bool]]:
        if self._place is None:
            raise TypeError(f"{self.path}: a store in memory cannot be opened elsewhere")
        return _arrive, (self._place, self._options, self._follows)

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{self.path}: a store has one owner, and its handle is not copied")

    def __deepcopy__(self, seen: dict[int, Any]) -> NoReturn:
        self.__copy__()

    # --- Closing.

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or this is a child of the process that opened the store."""
        return self._handle.closed

    def close(self) -> None:
        """Waits for calls under way, flushes the log into tables, and gives the store up.

        May be called again. Scans and snapshots that are still held raise ClosedError from then on.
        An error (a full disk) leaves the log as it is: the next `open` reads it back.
        """
        _open_stores.pop(id(self), None)
        try:
            self._handle.close()
        finally:
            if not self._handle.forked:  # in a child the thread is not there
                self._coordinator.join(5.0)

    def __enter__(self) -> Self:
        self._handle.check()
        return self

    def __del__(self) -> None:
        if hasattr(self, "_coordinator"):
            self.close()

    def __repr__(self) -> str:
        return f"<lsmkit.DB at {self.path!r}{', closed' if self.closed else ''}>"


def _stats_of(raw: dict[str, Any], keyspaces: Keyspaces, pressure: float) -> dict[str, Any]:
    """The core's counters under the names of `Stats`."""
    c, cache = raw["counters"], raw["cache"]
    version = Version.from_raw(raw["version"])
    return {
        "writes": {
            "records": c["records"],
            "frames": c["frames"],
            "bytes": c["bytes"],
            "syncs": c["syncs"],
            "segments": c["rotations"],
        },
        "flushes": {
            "count": c["flushes"],
            "records": c["flush_records"],
            "bytes": c["flush_bytes"],
            "ns": c["flush_ns"],
        },
        "compactions": {
            "merges": c["compactions"],
            "moves": c["moves"],
            "bytes_in": c["compact_in"],
            "bytes_out": c["compact_out"],
            "rows": c["compact_rows"],
            "rows_copied": c["rows_copied"],
            "ns": c["compact_ns"],
        },
        "stalls": {
            "slowed": c["slowdowns"],
            "slowed_ns": c["slowdown_ns"],
            "stopped": c["stalls"],
            "stopped_ns": c["stall_ns"],
        },
        "recovery": {
            "records": c["recovered_records"],
            "bytes": c["recovered_bytes"],
            "lost_bytes": c["lost_bytes"],
        },
        "cache": cache,
        "memory": raw["memory"],
        "blobs": raw["blobs"],
        **shape_of(
            version, lambda tree: keyspaces.options_of(tree).compaction, keyspaces.numbers()
        ),
        "disk_bytes": raw["disk_bytes"],
        "range_tombstones": raw["range_tombstones"],
        "history_bytes": raw["history_bytes"],
        "pressure": pressure,
        "background_errors": raw["background_errors"],
        "last_error": raw["background_error"] or "",
    }
