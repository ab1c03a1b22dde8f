"""What `lsmkit.aio` has of each store: a few threads, and for each event loop who waits for what.

    calls that may wait for the disk     --> a thread of the store's pool
    writes that find no room             --> one after another through a door, trying again
    writes that shall be on the disk     --> a round, which one sync of one thread serves

Threads    a pool's calls run in its threads, everything else in that of the event loop that asks.
Always     a write that is cancelled is over when its CancelledError arrives: applied or not.
Lifetime   the pool goes with the store; nothing here keeps a store open that is not being used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from ._core import core
from .errors import Busy

if TYPE_CHECKING:
    from .compaction.scheduler import Coordinator
    from .tree import WritableTree

__all__ = ["Threads", "threads_of"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

THREADS = 8
TURN = 128
"""So many calls that are answered at once are made before other tasks have their turn."""
PAUSE_FIRST, PAUSE_LAST = 0.001, 0.01
"""Seconds between the attempts of a write that finds no room."""


class _Loop:
    """What the tasks of one event loop share of one store."""

    def __init__(self) -> None:
        self.door = asyncio.Lock()  # who finds no room waits behind who waits for it
        self.next: asyncio.Future[None] | None = None  # of those who wait for the next sync
        self.is_syncing = False


class Threads:
    """The threads of one open store, and its event loops."""

    def __init__(self, handle: core.Handle) -> None:
        self._handle = handle
        self._pool = ThreadPoolExecutor(THREADS, "lsmkit-aio")
        self._loops: dict[asyncio.AbstractEventLoop, _Loop] = {}
        self._turns = 0

    def submit(self, call: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> Future[_T]:
        self._handle.check()  # in a child the threads are not there
        return self._pool.submit(call, *args, **named)

    def end(self) -> None:
        """No call comes any more: the threads end with what they are at."""
        self._pool.shutdown(wait=False)

    async def run(self, call: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> _T:
        """The call, in a thread. One that is cancelled does not begin, or goes on unattended."""
        return await asyncio.wrap_future(self.submit(call, *args, **named))

    async def run_whole(self, call: Callable[[], _T]) -> _T:
        """The call, in a thread. One that is cancelled does not begin, or is waited for."""
        job = self.submit(call)
        waiting = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not job.cancel():
                while not waiting.done():
                    try:
                        await asyncio.wait([waiting])
                    except asyncio.CancelledError:
                        pass  # once is enough
                if not waiting.cancelled():
                    waiting.exception()  # nobody else will look at it
            raise

    def is_turn(self) -> bool:
        """Whether other tasks should run first: what is answered at once would never wait."""
        self._turns += 1
        return self._turns % TURN == 0

    async def write(
        self,
        tree: WritableTree,
        call: Callable[..., _T],
        durability: Any,
        timeout: float | None,
        *,
        is_short: bool,
    ) -> _T:
        """`call` with `durability` and `timeout`, at once where it is short and finds room."""
        syncs = core.would_sync(tree, durability, timeout)
        once = partial(call, durability="process" if syncs else durability, timeout=0)

        async def attempt() -> _T:
            return once() if is_short else await self.run_whole(once)

        if self.is_turn():
            await asyncio.sleep(0)
        try:
            result = await attempt()
        except Busy as busy:
            if timeout == 0:
                raise
            result = await self._when_there_is_room(attempt, timeout, busy)
        if syncs:
            await self.sync()
        return result

    async def _when_there_is_room(self, attempt: Any, timeout: float | None, busy: Busy) -> Any:
        end = None if timeout is None else monotonic() + timeout
        door = self._here().door
        try:
            await asyncio.wait_for(door.acquire(), timeout)
        except asyncio.TimeoutError:
            raise busy from None
        try:
            pause = PAUSE_FIRST
            while True:
                left = pause if end is None else end - monotonic()
                if left <= 0:
                    raise busy
                await asyncio.sleep(min(pause, left))
                pause = min(pause * 1.5, PAUSE_LAST)
                try:
                    return await attempt()
                except Busy as again:
                    busy = again
        finally:
            door.release()

    async def sync(self) -> None:
        """Returns when all that was written before the call is on the disk. Who comes while a sync
        is under way waits for the next one, with all others who do."""
        here = self._here()
        loop = asyncio.get_running_loop()
        if here.next is None:
            here.next = loop.create_future()
            if not here.is_syncing:
                here.is_syncing = True
                loop.call_soon(self._begin_sync, here, loop)  # after those who are about to write
        await asyncio.shield(here.next)

    def _begin_sync(self, here: _Loop, loop: asyncio.AbstractEventLoop) -> None:
        waiting, here.next = here.next, None
        assert waiting is not None

        def end(error: BaseException | None) -> None:
            if error is None:
                waiting.set_result(None)
            else:
                waiting.set_exception(error)
                waiting.exception()  # all who waited may have been cancelled
            if here.next is None:
                here.is_syncing = False
            else:
                self._begin_sync(here, loop)

        def tell(job: Future[None]) -> None:
            try:
                loop.call_soon_threadsafe(end, job.exception())
            except RuntimeError:
                pass  # the loop was closed, and nobody waits any more

        try:
            self.submit(self._handle.sync).add_done_callback(tell)
        except Exception as error:
            end(error)

    def _here(self) -> _Loop:
        loop = asyncio.get_running_loop()
        found = self._loops.get(loop)
        if found is None:
            for other in list(self._loops):
                if other.is_closed():
                    self._loops.pop(other, None)
            found = self._loops[loop] = _Loop()
        return found


_known: WeakKeyDictionary[Coordinator, Threads] = WeakKeyDictionary()


def threads_of(tree: WritableTree) -> Threads:
    """Those of the store that the tree is in."""
    found = _known.get(tree._coordinator)
    if found is None:
        found = _known.setdefault(tree._coordinator, Threads(tree._handle))
    return found
