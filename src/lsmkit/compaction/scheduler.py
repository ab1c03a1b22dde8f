"""The coordinator: the one Python thread of an open store, which decides what is compacted next.

It sleeps in C until a flush or a job has ended, looks at the version once, hands jobs to the
background threads until they have enough, and tells the writers how fast they may go. All reading
and writing of files is done by C threads: a Python thread waits up to 5 ms for the interpreter
beside a busy writer, so there is one and it enters once an event.

    C: flush done, job done --> wait_event --> completed --> version --> pick --> submit
                                                                     `-> pressure --> set_write_rate

Owns       the set of running jobs and what is known about failed ones.
Callers    the store starts it, `compact` and `wait_idle` ask it and wait.
Threads    everything behind the lock is shared with callers, all else belongs to the thread. It
           holds the handle, never the store: when the last reference to the store is dropped, the
           store closes the handle, `wait_event` returns False, and the thread ends.
Errors     whatever a policy or the handle raises is reported by `background_error`, counted, and
           survived. A job that fails is tried again later and later, up to a minute.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident, start_new_thread
from os import cpu_count
from time import monotonic, time

from ..version import Tree, Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    from ..options import Options
    from ..version import Job, RawTree

    class Handle(Protocol):
        """What the coordinator needs of a store's C handle. Only `wait_event` may block, and it
        lets go of the interpreter. The store may close at any time: `wake` and `background_error`
        then do nothing, the others may raise."""

        def wait_event(self, timeout: float | None) -> bool:
            """Waits until a flush or a job has ended, `wake` was called, or `timeout` seconds have
            passed. False once the store closes."""

        def wake(self) -> None:
            """Makes `wait_event` return; from any thread."""

        def version(self) -> Mapping[int, RawTree]:
            """The current version as nested tuples, see `lsmkit.version`. A tree that has not
            changed since the last call is the same object, so that it need not be looked at."""

        def free_workers(self) -> int:
            """How many more compaction jobs the pool takes now; flushes keep a thread of it."""

        def submit(self, job: Job) -> int:
            """Queues the job and gives it a number."""

        def completed(self) -> Sequence[tuple[int, bool, str]]:
            """Jobs that have ended since the last call: number, whether it went well, and if not,
            what was wrong."""

        def is_idle(self) -> bool:
            """Whether no segment waits for its flush, no job is queued or running, and `completed`
            would give nothing."""

        def rates(self) -> tuple[float, float, float]:
            """Means of the last 100 flushes or so: nanoseconds of flush for a byte that the user
            wrote, nanoseconds of merging for a byte read by merges, and bytes read by merges for a
            byte that the user wrote. 0 where nothing is known yet."""

        def set_write_rate(self, bytes_per_second: int, stop: bool) -> None:
            """How much the user may write a second, 0 for no limit; `stop` lets writers wait."""

        def background_error(self, text: str) -> None:
            """Counts an error of the background and keeps its text for statistics."""


__all__ = ["STOP_RUNS", "Coordinator", "Request", "write_rate"]

SLOW_RUNS = 2.0
FULL_RUNS = 12.0
STOP_RUNS = 18.0
"""Simulated with a writer that never rests: with no limit below two upper runs a range and one that
falls linearly to twelve, its worst second is as good as its mean, and reads meet 7.5 runs; with a
stop alone it stood still for 15 s."""

UNKNOWN_RATES = (1.0, 0.6, 3.0)
"""What `Handle.rates` gives, until it is measured."""

RETRY_FIRST = 0.25
RETRY_LAST = 15.0
"""Seconds for which nothing is begun after a failure: doubled with each in a row."""

LOOK_SECONDS = 0.25
"""So often, at most, it looks only because rows have expired meanwhile."""

PLACE_FACTOR = 4
"""So much longer is a range whose job failed left alone: if it were the first to be tried again,
the others would never have their turn."""


class Request:
    """Something that a caller waits for: a compaction of a range, or that all work is done."""

    __slots__ = ("_gate", "error", "files", "start", "stop", "tree")

    def __init__(self, tree: int | None, start: bytes | None, stop: bytes | None) -> None:
        self.tree = tree  # None: until nothing is left to do
        self.start = start
        self.stop = stop
        self.files: frozenset[int] | None = None  # None: not looked at yet
        self.error: str | None = None
        self._gate = allocate_lock()
        self._gate.acquire()

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it came to an end within `timeout` seconds; `error` then says whether in vain."""
        if not self._gate.acquire(True, _lock_seconds(timeout)):
            return False
        self._gate.release()  # for whoever waits as well, and for the next call
        return True

    def _end(self, error: str | None = None) -> None:
        self.error = error
        self._gate.release()


class _Failure:
    """A job that failed: it stays among the busy ones, and so untried, until its time."""

    __slots__ = ("count", "job", "until")

    def __init__(self, job: Job, count: int, until: float) -> None:
        self.job = job
        self.count = count
        self.until = until


class _Seen:
    """A tree as it is, and what was found out about it: with a thousand trees, of which one has
    changed, only that one is looked at again."""

    __slots__ = ("is_picked", "job", "options", "pressure", "raw", "tree")

    def __init__(self, number: int, raw: RawTree, options: Options) -> None:
        self.raw = raw
        self.tree = Tree.from_raw(number, raw)
        self.options = options
        self.pressure = options.compaction.pressure(self.tree)
        self.is_picked = False  # `job` is what the policy wants while no job runs in the tree
        self.job: Job | None = None


class Coordinator:
    """See the head of this file."""

    def __init__(
        self,
        handle: Handle,
        options: Options,
        options_of: Callable[[int], Options] | None = None,
    ) -> None:
        self._handle = handle
        # Those of a tree, with its policy; the store's where it has none of its own.
        self._options_of = options_of or (lambda tree: options)
        self._trees: dict[int, _Seen] = {}
        self.pressure = 0.0  # 0: writers are not slowed, 1: they wait; any thread may read it
        self._running: dict[int, Job] = {}
        self._failures: dict[tuple[int, bytes], _Failure] = {}
        self._failed_in_a_row = 0
        self._retry_at = 0.0
        self._seen: list[Request] = []  # those that were there before the version in hand
        # Half a core is the writer's: one that is slowed down leaves the rest of its own.
        self._workers = max(1.0, min(float(options.background_threads), (cpu_count() or 1) - 0.5))

        self._lock = allocate_lock()
        # Guarded by the lock:
        self._requests: list[Request] = []
        self._is_started = False
        self._is_closed = False
        self._ident = 0  # of the thread
        self._ended = allocate_lock()  # held while the thread runs

    # ---- for the store

    def start(self) -> None:
        """Starts the thread, if it was not; costs nothing later on."""
        if self._is_started:
            return
        with self._lock:
            if self._is_started or self._is_closed:
                return
            self._ended.acquire()
            try:
                self._ident = start_new_thread(self._run, ())
                self._is_started = True
            finally:
                if not self._is_started:  # the system has no thread left, and says so
                    self._ended.release()

    def join(self, timeout: float | None = None) -> bool:
        """After the handle was closed: whether the thread ended within `timeout` seconds.

        The garbage collector may close a store within this very thread; it is not waited for then.
        """
        if not self._is_started or get_ident() == self._ident:
            return not self._is_started
        if not self._ended.acquire(True, _lock_seconds(timeout)):
            return False
        self._ended.release()
        return True

    def compact(self, tree: int, start: bytes | None, stop: bytes | None) -> Request:
        """Asks that what tables hold now of [start, stop) is brought to the last level."""
        return self._ask(Request(tree, start, stop))

    def idle(self) -> Request:
        """Asks for the moment at which nothing is to flush and to compact."""
        return self._ask(Request(None, None, None))

    def _ask(self, request: Request) -> Request:
        with self._lock:
            if self._is_closed:
                request._end("the store is closed")
                return request
            self._requests.append(request)
        self.start()
        self._handle.wake()
        return request

    # ---- the thread

    def _run(self) -> None:
        timeout: float | None = 0.0  # a store that was opened may have work at once
        try:
            while self._handle.wait_event(timeout):
                timeout = self.step(monotonic())
        except Exception as error:
            # Without events there is nothing to decide; spinning would be worse than standing.
            self._handle.background_error(_describe(error))
        finally:
            self._close()
            self._ended.release()

    def _close(self) -> None:
        with self._lock:
            self._is_closed = True
            left, self._requests = self._requests, []
        for request in left:
            request._end("the store was closed")

    def step(self, now: float) -> float | None:
        """Everything that one event asks for; in how many seconds, at the latest, the next step is
        due (None: when something happens)."""
        due: float | None = None
        try:
            self._collect(now)
            # In this order: a request is for what was there when it came, so none may be younger
            # than the version; and what ends from here on is an event.
            self._seen = self._open_requests()
            was_idle = self._handle.is_idle()
            version = self._look()
            self._set_rate()
            is_quiet = self._fill(version, now)
            self._answer(version, was_idle and is_quiet and not self._running)
            due = _seconds_to_expiry(version)
        except Exception as error:
            text = _describe(error)
            self._handle.background_error(text)
            self._fail_requests(text)
            self._back_off(now)
        return min(filter(None, (self._next_retry(now), due)), default=None)

    def _look(self) -> Version:
        """The version; of trees that are as they were, the same objects."""
        seen = {}
        for number, raw in self._handle.version().items():
            options = self._options_of(number)
            known = self._trees.get(number)
            if known is None or known.raw is not raw or known.options is not options:
                known = _Seen(number, raw, options)
            seen[number] = known
        self._trees = seen
        return Version({number: known.tree for number, known in seen.items()})

    def _collect(self, now: float) -> None:
        """Takes in the jobs that have ended."""
        for number, is_ok, message in self._handle.completed():
            job = self._running.pop(number, None)
            if job is None:
                self._handle.background_error(f"job {number} ended, which nobody handed out")
                continue
            place = (job.tree, job.lower)
            if is_ok:
                self._failures.pop(place, None)
                self._failed_in_a_row = 0
                self._retry_at = 0.0
                continue
            before = self._failures.get(place)
            count = before.count + 1 if before else 1
            self._failures[place] = _Failure(job, count, now + PLACE_FACTOR * _delay(count))
            self._back_off(now)
            text = f"{job.kind} of tree {job.tree} from {job.lower!r} ({job.reason}): {message}"
            self._handle.background_error(text)
            self._fail_requests(text)

    def _back_off(self, now: float) -> None:
        self._failed_in_a_row += 1
        self._retry_at = now + _delay(self._failed_in_a_row)

    def _next_retry(self, now: float) -> float | None:
        times = [self._retry_at, *(failure.until for failure in self._failures.values())]
        ahead = [time - now for time in times if time > now]
        return min(ahead) if ahead else None

    def _fill(self, version: Version, now: float) -> bool:
        """Hands out jobs while there are threads for them; whether nothing more is to be done."""
        if now < self._retry_at:
            return False
        free = self._handle.free_workers()
        waiting = [failure.job for failure in self._failures.values() if failure.until > now]
        is_quiet = not waiting
        for job in self._asked_jobs(version):
            if free <= 0 or _clashes(job, (*self._running.values(), *waiting)):
                # No other work may begin in the range, or the caller's turn might never come.
                waiting.append(_whole(job, version))
                is_quiet = False
            else:
                self._submit(job)
                free -= 1
        picks: dict[int, Job | None] = {}
        stale = set(version.trees) - self._draining_trees()
        is_quiet = is_quiet and len(stale) == len(version.trees)
        while free > 0:
            busy = (*self._running.values(), *waiting)
            busy_trees = {job.tree for job in busy}
            for tree in stale:
                picks[tree] = self._pick(self._trees[tree], busy, tree in busy_trees, now)
            best = max(filter(None, picks.values()), key=_priority, default=None)
            if best is None:
                return is_quiet
            self._submit(best)
            free -= 1
            stale = {best.tree}
        return False

    def _pick(self, seen: _Seen, busy: Sequence[Job], is_busy: bool, now: float) -> Job | None:
        """What the policy wants in this tree; `is_busy`: some of `busy` are jobs in it."""
        if seen.is_picked and not is_busy:
            return seen.job
        options = seen.options
        policy = options.compaction
        job = policy.reclaim(seen.tree, options, busy)
        job = job or policy.pick(seen.tree, options, busy, now)
        job = job or policy.move_values(seen.tree, options, busy)
        if not is_busy and not policy.by_age:
            seen.is_picked, seen.job = True, job
        return job

    def _submit(self, job: Job) -> None:
        self._running[self._handle.submit(job)] = job

    def _running_trees(self) -> set[int]:
        return {job.tree for job in self._running.values()}

    def _draining_trees(self) -> set[int]:
        """Trees in which a caller's compaction begins as soon as the jobs there have ended."""
        running = self._running_trees()
        return {
            request.tree
            for request in self._seen
            if request.tree in running and request.files is None
        }

    # ---- requests

    def _asked_jobs(self, version: Version) -> list[Job]:
        """What callers of `compact` wait for."""
        jobs: list[Job] = []
        for request in self._seen:
            if request.tree is not None and request.tree in version.trees:
                tree = version.trees[request.tree]
                if request.files is None:
                    # What a job that runs now will bring out has no number yet: it would be missed.
                    if request.tree in self._running_trees():
                        continue
                    policy = self._options_of(request.tree).compaction
                    request.files = policy.unsettled(tree, request.start, request.stop)
                jobs += self._full_jobs(tree, request)
        return jobs

    def _full_jobs(self, tree: Tree, request: Request) -> list[Job]:
        options = self._options_of(tree.tree)
        return options.compaction.full_jobs(
            tree, options, request.start, request.stop, request.files
        )

    def _open_requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def _answer(self, version: Version, is_idle: bool) -> None:
        """Ends the requests that have come true in this version."""
        for request in self._seen:
            if request.tree is None:
                is_done = is_idle
            elif request.tree not in version.trees:
                is_done = True
            else:
                is_done = request.files is not None and not self._full_jobs(
                    version.trees[request.tree], request
                )
            if is_done:
                self._take_out(request)._end()

    def _fail_requests(self, text: str) -> None:
        """Whoever waits for background work hears of its failure, instead of waiting on."""
        for request in self._open_requests():
            self._take_out(request)._end(text)

    def _take_out(self, request: Request) -> Request:
        with self._lock:
            self._requests.remove(request)
        return request

    # ---- slowdown

    def _set_rate(self) -> None:
        runs = max([seen.pressure for seen in self._trees.values()], default=0.0)
        self.pressure = min(max((runs - SLOW_RUNS) / (STOP_RUNS - SLOW_RUNS), 0.0), 1.0)
        flush, merge, merged = (
            known or guess for known, guess in zip(self._handle.rates(), UNKNOWN_RATES, strict=True)
        )
        sustained = self._workers * 1e9 / (flush + merge * merged)
        self._handle.set_write_rate(write_rate(runs, sustained), runs >= STOP_RUNS)


def write_rate(runs: float, sustained: float) -> int:
    """Bytes a second that may be written with so many upper runs a range, where `sustained` is what
    flush and compaction can keep up with for ever; 0: no limit.

    From 1.6 times the sustained rate at two runs, because waiting for more is no use yet, down to
    0.4 times at twelve, so that compaction catches up.
    """
    if runs < SLOW_RUNS:
        return 0
    x = min((runs - SLOW_RUNS) / (FULL_RUNS - SLOW_RUNS), 1.0)
    return max(int(sustained * (1.6 - 1.2 * x)), 1)


def _seconds_to_expiry(version: Version) -> float | None:
    """When rows will have expired that may be worth a job; None for never."""
    dues = [tree.due for tree in version.trees.values() if tree.due]
    return max(min(dues) / 1e6 - time(), LOOK_SECONDS) if dues else None


def _lock_seconds(timeout: float | None) -> float:
    return -1.0 if timeout is None else max(timeout, 0.0)


def _delay(count: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return float(min(RETRY_FIRST * 2 ** min(count - 1, 20), RETRY_LAST))


def _priority(job: Job) -> float:
    return job.priority


def _clashes(job: Job, busy: Sequence[Job]) -> bool:
    """Whether a running job works on the same range, or joins another range to it."""
    for other in busy:
        if other.tree == job.tree and (
            other.lower == job.lower or (other.kind == "join" and other.lower == job.upper)
        ):
            return True
    return False


def _whole(job: Job, version: Version) -> Job:
    """The same job as if it took every table of its range."""
    tree = version.trees[job.tree]
    tables = tree.ranges[tree.index_of(job.lower)].tables()
    return job.replace(inputs=tuple([table.file for table in tables]))


def _describe(error: Exception) -> str:
    """The exception with the line that raised it, without the cost of importing `traceback`."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        where = f" ({trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{where}"
