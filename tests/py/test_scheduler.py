"""Claim: the coordinator keeps the pool full, never hands out two jobs for one place, slows writers
by the published function, survives whatever a policy or the handle raises without spinning, answers
those who wait, and ends with its store without holding it.

Method: a handle that only notes what it is told, stepped by hand with a made-up clock; and the real
thread over a handle that runs jobs in a thread of its own.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lsmkit._record import record
from lsmkit.compaction import LazyLeveled, Leveled, Policy
from lsmkit.compaction.scheduler import Coordinator, write_rate
from lsmkit.options import Options
from lsmkit.version import Job, Tree

OPTIONS = Options(table_bytes=40_000)


def table(file: int, low: bytes, high: bytes, dead: int = 0) -> tuple[Any, ...]:
    return (file, 40_000, 400, dead, low, high, file, file, 0, 0, True, 0, 0, 0)


def full_range(low: bytes, first: int, runs: int = 4) -> tuple[bytes, tuple[Any, ...]]:
    """A range with so many flushed runs above a last run: a merge is due from four on."""
    flushed = tuple(
        (0, n, (table(n, low + b"1", low + b"2"),)) for n in range(first + runs, first, -1)
    )
    return low, (*flushed, (15, 1, (table(first, low + b"0", low + b"3"),)))


def ranges(count: int, runs: int = 4) -> tuple[Any, ...]:
    lowers = [b"", *(b"%d" % n for n in range(1, count))]
    return tuple(full_range(low, 100 * n, runs) for n, low in enumerate(lowers))


class FakeHandle:
    """Notes what it is told; has as many workers as it is given, and jobs end when told to."""

    def __init__(self, trees: dict[int, Any], workers: int = 2) -> None:
        self.trees = trees
        self.workers = workers
        self.submitted: list[Job] = []
        self.ended: list[tuple[int, bool, str]] = []
        self.running: set[int] = set()
        self.errors: list[str] = []
        self.rate: tuple[int, bool] | None = None
        self.measured = (0.0, 0.0, 0.0)
        self.idle = True
        self.woken = 0

    def wait_event(self, timeout: float | None) -> bool:
        raise AssertionError("stepped by hand")

    def wake(self) -> None:
        self.woken += 1

    def version(self) -> dict[int, Any]:
        return self.trees

    def free_workers(self) -> int:
        return self.workers - len(self.running)

    def submit(self, job: Job) -> int:
        self.submitted.append(job)
        self.running.add(len(self.submitted))
        return len(self.submitted)

    def completed(self) -> Sequence[tuple[int, bool, str]]:
        ended, self.ended = self.ended, []
        return ended

    def is_idle(self) -> bool:
        return self.idle and not self.running and not self.ended

    def rates(self) -> tuple[float, float, float]:
        return self.measured

    def set_write_rate(self, bytes_per_second: int, stop: bool) -> None:
        self.rate = (bytes_per_second, stop)

    def background_error(self, text: str) -> None:
        self.errors.append(text)

    def end(self, number: int, is_ok: bool = True, message: str = "") -> None:
        self.running.remove(number)
        self.ended.append((number, is_ok, message))


class Stepped(Coordinator):
    """Never starts its thread."""

    def start(self) -> None:
        pass


@record(frozen=True, kw_only=True)
class Faulty(Policy):
    """Raises what it is asked to, and else answers as LazyLeveled."""

    name = "faulty-for-tests"

    where: str = "pick"

    def pick(self, tree: Tree, options: Options, busy: Sequence[Job], now: float) -> Job | None:
        if self.where == "pick" and now < 100:
            raise ZeroDivisionError("no reason")
        return LazyLeveled().pick(tree, options, busy, now)

    def pressure(self, tree: Tree) -> float:
        if self.where == "pressure":
            raise LookupError("no pressure")
        return LazyLeveled().pressure(tree)


# ---- handing out


def test_the_pool_is_filled_with_jobs_of_different_ranges() -> None:
    handle = FakeHandle({0: ranges(5)}, workers=3)
    coordinator = Stepped(handle, OPTIONS)
    assert coordinator.step(0.0) is None
    assert len({job.lower for job in handle.submitted}) == 3
    coordinator.step(0.0)
    assert len(handle.submitted) == 3
    handle.end(2)
    coordinator.step(0.0)
    assert len(handle.submitted) == 4
    running = [job.lower for n, job in enumerate(handle.submitted, 1) if n in handle.running]
    assert len(set(running)) == 3


def test_nothing_due_means_nothing_handed_out() -> None:
    handle = FakeHandle({0: ranges(3, runs=3), 1: ()}, workers=3)
    handle.trees = {0: ranges(3, runs=3)}
    Stepped(handle, OPTIONS).step(0.0)
    assert handle.submitted == []
    assert handle.errors == []


def test_the_most_urgent_job_of_all_trees_is_first() -> None:
    handle = FakeHandle(
        {0: ranges(1, runs=4), 3: ranges(2, runs=6), 5: ranges(1, runs=5)}, workers=3
    )
    Stepped(handle, OPTIONS).step(0.0)
    assert [job.tree for job in handle.submitted] == [3, 3, 5]


def test_a_full_pool_is_given_nothing() -> None:
    handle = FakeHandle({0: ranges(3)}, workers=0)
    Stepped(handle, OPTIONS).step(0.0)
    assert handle.submitted == []


# ---- failures


def test_a_failed_job_is_reported_and_tried_again_later_and_later() -> None:
    handle = FakeHandle({0: ranges(1)}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    now = 0.0
    pauses = []
    coordinator.step(now)
    for number in range(1, 12):
        handle.end(number, is_ok=False, message="disk full")
        began = now
        while len(handle.submitted) == number:
            pause = coordinator.step(now)
            assert pause is None or 0.2 < pause <= 60, "it would spin"
            now += pause or 0.0
        pauses.append(now - began)
    assert pauses[:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == 60.0
    assert len(handle.errors) == 11
    assert "disk full" in handle.errors[0]
    assert "merge of tree 0" in handle.errors[0]


def test_a_success_ends_the_pauses() -> None:
    handle = FakeHandle({0: ranges(1)}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    coordinator.step(0.0)
    handle.end(1, is_ok=False)
    coordinator.step(0.0)
    coordinator.step(1.0)
    handle.end(2)
    coordinator.step(1.0)
    handle.end(3, is_ok=False)
    assert coordinator.step(1.0) == 0.25


def test_one_bad_place_does_not_hold_up_the_others() -> None:
    handle = FakeHandle({0: ranges(2)}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    now = 0.0
    bad = 0
    for _ in range(400):
        coordinator.step(now)
        for number in list(handle.running):
            is_bad = handle.submitted[number - 1].lower == b""
            bad += is_bad
            handle.end(number, not is_bad, "bad block")
        now += 0.1
    good = sum(1 for job in handle.submitted if job.lower == b"1")
    assert good > 300
    assert 3 <= bad <= 10


def test_after_a_failure_nothing_begins_for_a_while() -> None:
    handle = FakeHandle({0: ranges(3)}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    coordinator.step(0.0)
    handle.end(1, is_ok=False, message="disk full")
    assert coordinator.step(0.0) == 0.25
    coordinator.step(0.2)
    assert len(handle.submitted) == 1
    coordinator.step(0.25)
    assert len(handle.submitted) == 2


def test_an_unknown_job_is_reported_and_does_no_harm() -> None:
    handle = FakeHandle({0: ranges(1)}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    handle.ended.append((77, True, ""))
    coordinator.step(0.0)
    assert "77" in handle.errors[0]
    assert len(handle.submitted) == 1


@pytest.mark.parametrize("where", ["pick", "pressure"])
def test_a_faulty_policy_is_reported_and_asked_again_later(where: str) -> None:
    handle = FakeHandle({0: ranges(1)})
    coordinator = Stepped(handle, OPTIONS.replace(compaction=Faulty(where=where)))
    pause = coordinator.step(0.0)
    assert pause == 0.25
    assert len(handle.errors) == 1
    error = "ZeroDivisionError: no reason" if where == "pick" else "LookupError: no pressure"
    assert error in handle.errors[0]
    assert "test_scheduler.py, line" in handle.errors[0]
    assert handle.submitted == []
    coordinator.step(200.0)
    assert len(handle.submitted) == (1 if where == "pick" else 0)


@pytest.mark.parametrize(
    "call", ["version", "completed", "free_workers", "submit", "rates", "set_write_rate"]
)
def test_a_handle_that_raises_is_survived(call: str) -> None:
    handle = FakeHandle({0: ranges(1)})

    def fail(*args: object) -> None:
        raise OSError(28, "no space")

    setattr(handle, call, fail)
    coordinator = Stepped(handle, OPTIONS)
    assert coordinator.step(0.0) == 0.25
    assert "no space" in handle.errors[0]
    delattr(handle, call)
    coordinator.step(1.0)
    assert len(handle.submitted) == 1


# ---- slowdown


def test_the_rate_is_the_published_function() -> None:
    assert write_rate(0, 1e6) == write_rate(1.99, 1e6) == 0
    assert write_rate(2, 1e6) == 1_600_000
    assert write_rate(7, 1e6) == 1_000_000
    assert write_rate(12, 1e6) == write_rate(17.9, 1e6) == 400_000
    assert write_rate(5, 0.1) == 1, "0 would mean no limit"


def test_few_runs_do_not_slow_writers() -> None:
    handle = FakeHandle({0: ranges(4, runs=1)})
    coordinator = Stepped(handle, OPTIONS)
    coordinator.step(0.0)
    assert handle.rate == (0, False)
    assert coordinator.pressure == 0.0


def test_the_rate_follows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lsmkit.compaction.scheduler.cpu_count", lambda: 2)
    handle = FakeHandle({0: ranges(4, runs=7)}, workers=0)
    coordinator = Stepped(handle, OPTIONS)
    handle.measured = (1.0, 0.5, 4.0)
    coordinator.step(0.0)
    assert handle.rate == (500_000_000, False)
    handle.measured = (2.0, 1.0, 4.0)
    coordinator.step(0.0)
    assert handle.rate == (250_000_000, False)
    handle.measured = (0.0, 0.0, 0.0)
    coordinator.step(0.0)
    assert handle.rate is not None
    assert handle.rate[0] > 0
    monkeypatch.setattr("lsmkit.compaction.scheduler.cpu_count", lambda: 8)
    handle.measured = (1.0, 0.5, 4.0)
    Stepped(handle, OPTIONS).step(0.0)
    assert handle.rate == (666_666_666, False)


def test_writers_stop_at_eighteen_runs_and_go_on_below() -> None:
    handle = FakeHandle({0: ranges(2, runs=18), 1: ranges(1, runs=0)}, workers=0)
    coordinator = Stepped(handle, OPTIONS)
    coordinator.step(0.0)
    assert handle.rate is not None
    assert handle.rate[1] is True
    assert coordinator.pressure == 1.0
    handle.trees = {0: ranges(2, runs=17)}
    coordinator.step(0.0)
    assert handle.rate[1] is False
    assert 0.9 < coordinator.pressure < 1.0


def test_an_empty_store_is_not_slowed() -> None:
    handle = FakeHandle({})
    assert Stepped(handle, OPTIONS).step(0.0) is None
    assert handle.rate == (0, False)


# ---- requests


def test_a_compaction_that_was_asked_for_comes_first_and_is_answered() -> None:
    handle = FakeHandle({0: (*ranges(1, runs=9), full_range(b"m", 500, runs=1))}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    request = coordinator.compact(0, b"m", None)
    assert handle.woken == 1
    coordinator.step(0.0)
    assert (handle.submitted[0].lower, handle.submitted[0].reason) == (b"m", "compact() was called")
    assert not request.wait(0)
    handle.trees = {0: (*ranges(1, runs=9), full_range(b"m", 502, runs=0))}
    handle.end(1)
    coordinator.step(0.0)
    assert request.wait(0)
    assert request.error is None
    assert request.wait(0), "it can be asked again"


def test_what_was_asked_for_gets_its_turn_beside_other_work() -> None:
    """Leveled keeps its one range busy: without a reservation the caller would wait for ever."""
    runs = tuple((0, n, (table(n, b"a", b"z"),)) for n in range(9, 5, -1))
    one = (1, 1, tuple(table(20 + n, b"%d" % n, b"%d~" % n) for n in range(8)))
    handle = FakeHandle({0: ((b"", (*runs, one)),)}, workers=2)
    coordinator = Stepped(handle, OPTIONS.replace(compaction=Leveled(), level_base_bytes=40_000))
    coordinator.step(0.0)
    assert len(handle.submitted) == 2
    coordinator.compact(0, None, None)
    handle.end(1)
    coordinator.step(0.0)
    assert len(handle.submitted) == 2, "other work began in the range"
    handle.end(2)
    coordinator.step(0.0)
    assert handle.submitted[2].reason == "compact() was called"


def test_what_a_running_job_brings_out_belongs_to_what_was_asked_for() -> None:
    """Its output has no number yet when the caller asks; it must not be left where it comes out."""
    handle = FakeHandle({0: ranges(1)}, workers=2)
    coordinator = Stepped(handle, OPTIONS)
    coordinator.step(0.0)
    assert len(handle.submitted) == 1
    request = coordinator.compact(0, None, None)
    coordinator.step(0.0)
    assert len(handle.submitted) == 1
    tier, last = (1, 50, (table(50, b"1", b"2", 3),)), (15, 1, (table(1, b"0", b"3"),))
    handle.trees = {0: ((b"", (tier, last)),)}
    handle.end(1)
    coordinator.step(0.0)
    assert not request.wait(0)
    assert set(handle.submitted[1].inputs) == {50, 1}
    handle.trees = {0: ((b"", ((15, 1, (table(60, b"0", b"3"),)),)),)}
    handle.end(2)
    coordinator.step(0.0)
    assert request.wait(0)


def test_a_compaction_of_nothing_is_answered_at_once() -> None:
    handle = FakeHandle({0: ranges(1, runs=0)})
    coordinator = Stepped(handle, OPTIONS)
    requests = [coordinator.compact(0, None, None), coordinator.compact(9, None, None)]
    coordinator.step(0.0)
    assert all(request.wait(0) for request in requests)
    assert handle.submitted == []


def test_a_failure_is_told_to_those_who_wait() -> None:
    handle = FakeHandle({0: ranges(1)})
    coordinator = Stepped(handle, OPTIONS)
    asked, idle = coordinator.compact(0, None, None), coordinator.idle()
    coordinator.step(0.0)
    handle.end(1, is_ok=False, message="disk full")
    coordinator.step(0.0)
    for request in (asked, idle):
        assert request.wait(0)
        assert "disk full" in str(request.error)


def test_idle_is_when_nothing_is_due_runs_waits_or_has_failed() -> None:
    handle = FakeHandle({0: ranges(1)}, workers=1)
    coordinator = Stepped(handle, OPTIONS)
    request = coordinator.idle()
    coordinator.step(0.0)
    assert not request.wait(0), "a job runs"
    handle.trees = {0: ranges(1, runs=1)}
    handle.end(1)
    handle.idle = False
    coordinator.step(0.0)
    assert not request.wait(0), "a flush is due"
    handle.idle = True
    coordinator.step(0.0)
    assert request.wait(0)
    handle.trees = {0: ranges(1)}
    coordinator.step(0.0)
    handle.end(2, is_ok=False)
    coordinator.step(0.0)
    late = coordinator.idle()
    coordinator.step(0.5)
    assert not late.wait(0), "a job waits for its second try"


def test_idle_is_not_told_from_a_version_before_the_last_flush() -> None:
    """The flush ends between the look at the version and the answer."""
    handle = FakeHandle({0: ranges(1, runs=3)}, workers=1)
    handle.idle = False

    def version() -> dict[int, Any]:
        before, handle.trees, handle.idle = handle.trees, {0: ranges(1, runs=4)}, True
        return before

    handle.version = version
    coordinator = Stepped(handle, OPTIONS)
    request = coordinator.idle()
    coordinator.step(0.0)
    assert not request.wait(0)
    coordinator.step(0.0)
    assert len(handle.submitted) == 1
    assert not request.wait(0)


# ---- the thread


class LiveHandle(FakeHandle):
    """Runs each job in a thread, for an instant; `merge` says what the trees are afterwards."""

    def __init__(self, trees: dict[int, Any], merge: Callable[[Job], dict[int, Any]]) -> None:
        super().__init__(trees)
        self.merge = merge
        self.changed = threading.Condition()
        self.events = 0
        self.is_open = True
        self.waits = 0

    def wait_event(self, timeout: float | None) -> bool:
        with self.changed:
            self.waits += 1
            self.changed.wait_for(lambda: self.events or not self.is_open, timeout)
            self.events = 0
            return self.is_open

    def wake(self) -> None:
        with self.changed:
            self.events += 1
            self.changed.notify_all()

    def submit(self, job: Job) -> int:
        number = super().submit(job)
        threading.Thread(target=self.work, args=(number, job)).start()
        return number

    def work(self, number: int, job: Job) -> None:
        time.sleep(0.001)
        self.trees = self.merge(job)
        self.end(number)
        self.wake()

    def close(self) -> None:
        with self.changed:
            self.is_open = False
            self.changed.notify_all()


def test_the_thread_works_until_the_store_is_closed() -> None:
    handle = LiveHandle({0: ranges(1)}, lambda job: {0: ranges(1, runs=0)})
    coordinator = Coordinator(handle, OPTIONS)
    coordinator.start()
    coordinator.start()
    assert coordinator.idle().wait(10)
    assert len(handle.submitted) == 1
    waits = handle.waits
    time.sleep(0.05)
    assert handle.waits == waits, "it turns without an event"
    handle.close()
    assert coordinator.join(10)
    late = coordinator.compact(0, None, None)
    assert late.wait(0)
    assert late.error == "the store is closed"


def test_who_waits_when_the_store_closes_is_told() -> None:
    handle = LiveHandle({0: ranges(1)}, lambda job: {0: ranges(1)})
    handle.idle = False
    coordinator = Coordinator(handle, OPTIONS)
    request = coordinator.idle()
    assert not request.wait(0.02)
    handle.close()
    assert request.wait(10)
    assert request.error == "the store was closed"
    assert coordinator.join(10)


def test_a_handle_that_cannot_wait_ends_the_thread_with_a_report() -> None:
    handle = FakeHandle({})
    coordinator = Coordinator(handle, OPTIONS)
    coordinator.start()
    assert coordinator.join(10)
    assert "stepped by hand" in handle.errors[0]


def test_a_coordinator_that_never_started_need_not_be_waited_for() -> None:
    assert Coordinator(FakeHandle({}), OPTIONS).join(0)


def test_the_thread_does_not_keep_the_store_alive() -> None:
    class Store:
        def __init__(self, handle: LiveHandle) -> None:
            self.coordinator = Coordinator(handle, OPTIONS)
            self.handle = handle

        def __del__(self) -> None:
            self.handle.close()

    handle = LiveHandle({}, lambda job: {})
    store = Store(handle)
    store.coordinator.start()
    coordinator = store.coordinator
    seen = weakref.ref(store)
    del store
    gc.collect()
    assert seen() is None
    assert coordinator.join(10)
