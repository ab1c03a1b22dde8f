"""For the tests of programs that use lsmkit: a disk that fails when it is told to.

    disk = lsmkit.testing.FaultyDisk()
    with lsmkit.open("/store", disk=disk) as db:
        db.put(b"k", b"v", durability="sync")
        disk.fail("fdatasync")
        db.put(b"k", b"w", durability="sync")  # StorageError
    disk.power_cut()
    db = lsmkit.open("/store", disk=disk)  # what was durable is there

It is the disk on which lsmkit's own tests cut the power at every call: files have an image in the
kernel's cache and one on the disk, a failed sync loses what it should have written and says so
once, as Linux does, and a power cut keeps of what was not synced whatever a disk may keep.
"""

from __future__ import annotations

from _weakref import ref
from errno import EIO

from ._core import core
from .errors import Error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .db import DB

__all__ = ["FaultyDisk"]


class FaultyDisk:
    """A disk in memory, given to `lsmkit.open(path, disk=disk)`; paths are those of the disk, whose
    directories are made as they are needed. It may hold several stores, and outlives them.

    `capacity` bounds what files take up, in bytes; `seed` decides what chance does. Safe to use
    from any number of threads.
    """

    def __init__(self, *, capacity: int | None = None, seed: int = 0) -> None:
        self._core = core.Disk(_count("seed", seed))
        self._seed = seed
        self._stores: list[ref[DB]] = []
        if capacity is not None:
            self._core.set_room(_count("capacity", capacity))

    @property
    def used_bytes(self) -> int:
        """What all files take up, in whole pages of 4 KiB."""
        return self._core.used_bytes()

    def fill(self, after_bytes: int = 0) -> None:
        """From now on only so many bytes more find room; what goes beyond is ENOSPC."""
        self._core.set_room(_count("after_bytes", after_bytes))

    def fail(
        self,
        call: str,
        *,
        nth: int = 1,
        errno: int = EIO,
        path: str | bytes = "",
        sticky: bool = False,
    ) -> None:
        """The `nth` such call from now on fails with `errno`, and, when `sticky`, all after it.

        `call` is the system call ("open", "read", "pwrite", "fsync", "fdatasync", "ftruncate",
        "rename", "unlink", "link", "mkdir", ...; "any" for each), `path` a part of the name of the
        files that are meant. ValueError for a call that no disk knows, or when 16 faults wait.
        """
        part = path.encode() if isinstance(path, str) else bytes(path)
        if nth < 1:
            raise ValueError(f"nth is {nth!r}; it must be 1 or more")
        self._core.fail(call, nth, errno, part, sticky)

    def heal(self) -> None:
        """No call fails any more, and there is room again."""
        self._core.clear_faults()
        self._core.set_room(None)

    def kill(self) -> None:
        """The process is gone, at once: what the kernel had is kept. Closes the stores as
        `power_cut` does."""
        self._core.kill()
        self._abandon()

    def power_cut(self, keep: str = "random", *, seed: int | None = None) -> None:
        """The power goes and comes back. What was not synced is, by `keep`, there ("all"), gone
        ("synced"), or, page by page, there, gone or torn ("random", by `seed`).

        Stores that were open are closed, as their process would be gone, and nothing that they do
        on the way reaches the disk. Planned faults are gone too.
        """
        if keep not in ("all", "synced", "random"):
            raise ValueError(f"keep is {keep!r}; it must be 'all', 'synced' or 'random'")
        self._seed += 1
        self._core.power_cut(keep, self._seed if seed is None else _count("seed", seed))
        self._abandon()

    def calls(self, call: str = "any") -> int:
        """How many such calls there were, as `fail` counts and names them."""
        return self._core.calls(call)

    def trace(self) -> str:
        """The calls that changed something since this was called last: one a line."""
        text = self._core.trace_take()
        self._core.trace(True)
        return text

    def _opened(self, db: DB) -> None:
        self._stores = [known for known in self._stores if known() is not None]
        self._stores.append(ref(db))

    def _abandon(self) -> None:
        stores, self._stores = self._stores, []
        for reference in stores:
            db = reference()
            if db is None:
                continue
            try:
                db.close()
            except Error:
                # Its disk is gone: that it could not flush is what was asked for.
                assert db.closed


def _count(name: str, value: int) -> int:
    if not 0 <= value < 1 << 63:
        raise ValueError(f"{name} is {value!r}; it must be from 0 to 2**63 - 1")
    return value
