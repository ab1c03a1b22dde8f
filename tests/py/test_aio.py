"""Claim: `db.aio` does what `db` does, without standing in an event loop's way.

Method: each coroutine beside the method of its name; then what is particular: answers without a
thread, waiting for room, syncs that are shared, cancelling at every stage, several loops, closing.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import lsmkit
import lsmkit.testing
from lsmkit import loops, merge
from lsmkit.aio import AsyncKeyspace, AsyncStore

TINY: dict[str, Any] = {"segment_bytes": 8192, "block_bytes": 256, "table_bytes": 8192}
ROWS = [(b"%05d" % i, b"value %d" % i) for i in range(3000)]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


async def listed(rows: Any) -> list[Any]:
    return [row async for row in rows]


@pytest.fixture
def db(store_path: str) -> Iterator[lsmkit.DB]:
    with lsmkit.open(store_path, merge_operator=lsmkit.merge.Append, **TINY) as opened:
        yield opened


@pytest.fixture
def filled(db: lsmkit.DB) -> lsmkit.DB:
    db.update(ROWS)
    db.compact()
    return db


@pytest.fixture
def threadless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would go to a thread fails."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a thread was asked")

    monkeypatch.setattr(loops.Threads, "submit", refuse)


# --- The same names --------------------------------------------------------------------------


def test_every_method_of_a_store_has_its_coroutine() -> None:
    """`update` and its kin among them; there are no coroutines for operators of the language."""
    public = {name for name in dir(lsmkit.DB) if not name.startswith("_")}
    own = {"aio", "changes", "hot_keys"}
    assert public - own - set(dir(AsyncStore)) == set()
    public = {name for name in dir(lsmkit.Keyspace) if not name.startswith("_")}
    assert public - own - set(dir(AsyncKeyspace)) == set()


def test_keyspaces(db: lsmkit.DB) -> None:
    async def work() -> None:
        a = db.aio
        first = await a.keyspace("first", merge_operator=merge.Append)
        second = await a.keyspace("second")
        assert (first.name, first.closed) == ("first", False)
        assert first.options.merge_operator == merge.Append()
        assert await a.keyspaces() == ["first", "second"]
        await first.put(b"k", b"1")
        async with first.batch() as batch:
            batch.merge(b"k", b"2")
            batch.put(b"k", b"3", keyspace=second)
            batch.put(b"k", b"4", keyspace=a)
            batch.put(b"x", b"5", keyspace=db)
            batch.delete_range(b"y", b"z", keyspace=second)
            batch.delete(b"x", keyspace=a)
        assert [await each.get(b"k") for each in (first, second, a)] == [b"12", b"3", b"4"]
        assert dict(db) == {b"k": b"4"}
        async with a.transaction() as t:
            assert await t.keyspace(first).get(b"k") == b"12"
            t.keyspace(second).put(b"k", b"6")
        assert [pair async for pair in second.scan()] == [(b"k", b"6")]
        async with second.transaction() as t:
            assert await t.keyspace(first).get(b"k") == b"12"
            await first.put(b"k", b"changed")
            t.put(b"k", b"7")
            with pytest.raises(lsmkit.ConflictError):
                await t.keyspace(first).commit()
        await a.drop_keyspace("second")
        assert second.closed
        with pytest.raises(lsmkit.ClosedError):
            await second.get(b"k")
        assert await a.keyspaces() == ["first"]
        assert dict(db.keyspace("first").items()) == {b"k": b"changed"}

    run(work())


def test_writing_and_reading(db: lsmkit.DB) -> None:
    async def work() -> None:
        a = db.aio
        await a.put(b"a", b"1")
        await a.put(b"b", bytearray(b"2"), ttl=1000, durability="sync", timeout=1)
        await a.put(b"gone", b"", ttl=0)
        assert [await a.get(key) for key in (b"a", b"b", b"gone")] == [b"1", b"2", None]
        assert await a.get(b"none", 7) == 7
        assert await a.get_many([b"a", b"none"], b"") == [b"1", b""]
        await a.merge(b"a", b"1")
        await a.merge_many([b"a", b"m"], [b"2", b"3"])
        assert await a.setdefault(b"m", b"other") == b"3"
        assert await a.setdefault(b"n", b"4") == b"4"
        assert await a.pop(b"m") == b"3"
        assert await a.pop(b"m", None) is None
        with pytest.raises(KeyError):
            await a.pop(b"m")
        await a.delete(b"none")
        assert await a.put_many([b"x", b"y"], [b"1", b"2"], source="s", seq=1)
        assert not await a.put_many([b"x"], [b"9"], source="s", seq=1)
        assert await a.position("s") == 1
        await a.delete_many([b"y"])
        await a.update({b"z": b"26"})
        assert dict(db) == {b"a": b"112", b"b": b"2", b"n": b"4", b"x": b"1", b"z": b"26"}
        assert await a.popitem() == (b"a", b"112")
        await a.delete_range(b"n", b"y")
        assert dict(db) == {b"b": b"2", b"z": b"26"}
        await a.clear()
        assert not db
        with pytest.raises(KeyError):
            await a.popitem()

    run(work())


def test_housekeeping(filled: lsmkit.DB, tmp_path: Path) -> None:
    async def work() -> None:
        a = filled.aio
        await a.ingest([b"in"], [b"gested"])
        await a.sync()
        await a.flush()
        await a.compact(b"0", b"1")
        assert await a.wait_idle()
        assert await a.wait_idle(10)
        assert (await a.stats()).table_bytes > await a.approximate_size() > 0
        assert await a.verify()
        assert not await a.refresh()
        await a.checkpoint(tmp_path / "copy")
        assert (a.path, a.options, a.closed) == (filled.path, filled.options, False)
        assert 0 <= a.pressure <= 1
        assert repr(filled) in repr(a)

    run(work())
    with lsmkit.open(tmp_path / "copy") as copy:
        assert len(copy) == len(ROWS) + 1


def test_wrong_arguments_are_refused(db: lsmkit.DB) -> None:
    async def work() -> None:
        a = db.aio
        wrong: list[tuple[type[Exception], Callable[[], Any]]] = [
            (TypeError, lambda: a.get("a")),  # type: ignore[call-overload]
            (TypeError, lambda: a.put("a", b"1")),  # type: ignore[arg-type]
            (TypeError, lambda: a.put(b"a", "1")),  # type: ignore[arg-type]
            (ValueError, lambda: a.put(b"a", b"1", durability="never")),  # type: ignore[arg-type]
            (ValueError, lambda: a.put(b"a", b"1", timeout=-1)),
            (ValueError, lambda: a.put(b"a", b"1", ttl=-1)),
            (ValueError, lambda: a.put(bytes(65_536), b"1")),
            (ValueError, lambda: a.wait_idle(-1)),
            (ValueError, lambda: a.put_many([b"a"], [])),
            (TypeError, lambda: a.write(None)),  # type: ignore[arg-type]
            (ValueError, lambda: a.run(lambda t: t.commit(), retries=-1)),
        ]
        for kind, call in wrong:
            with pytest.raises(kind):
                await call()
        for kind, now in (
            (TypeError, lambda: a.scan(b"a", prefix=b"a")),
            (ValueError, lambda: a.scan_columns(rows=0)),
            (TypeError, lambda: a.batch(source="s")),
            (ValueError, lambda: a.batch(durability="never")),  # type: ignore[arg-type]
            (ValueError, lambda: a.transaction(timeout=-1)),
        ):
            with pytest.raises(kind):
                now()
        assert not db

    run(work())


def test_keyspaces_have_coroutines_too(db: lsmkit.DB) -> None:
    async def work() -> None:
        other = await db.aio.keyspace("other", ttl=1000)
        await other.put(b"a", b"1", durability="sync")
        assert await listed(other.items()) == [(b"a", b"1")]
        assert await db.aio.keyspaces() == ["other"]
        assert not db
        await db.aio.drop_keyspace("other")
        assert await db.aio.keyspaces() == []
        with pytest.raises(lsmkit.ClosedError):
            await other.get(b"a")

    run(work())


# --- Batches and transactions ----------------------------------------------------------------


def test_a_batch_is_applied_at_its_end(db: lsmkit.DB) -> None:
    async def work() -> None:
        async with db.aio.batch(source="s", seq=1) as b:
            b.put(b"a", b"1")
            await b.put(b"b", b"2", ttl=1000)
            b.merge(b"a", b"1")
            b.delete(b"b")
            b.delete_range(b"x", None)
            assert (len(b), b.nbytes > 0, b.applied) == (5, True, None)
            assert not db
        assert b.applied
        assert dict(db) == {b"a": b"11"}
        async with db.aio.batch(source="s", seq=1) as b:
            b.clear()
            b.put(b"a", b"9")
        assert b.applied is False

        async def fails() -> None:
            async with await db.aio.batch() as b:
                b.put(b"a", b"9")
                raise InterruptedError

        with pytest.raises(InterruptedError):
            await fails()
        assert dict(db) == {b"a": b"11"}
        by_hand = lsmkit.WriteBatch()
        by_hand.put(b"large", bytes(100_000))
        assert await db.aio.write(by_hand, durability="sync")
        assert len(db[b"large"]) == 100_000

    run(work())


def test_a_transaction_commits_at_its_end(filled: lsmkit.DB) -> None:
    async def work() -> None:
        a = filled.aio
        async with a.transaction(durability="sync") as t:
            assert await t.get(b"00001") == b"value 1"
            await t.put(b"00001", b"new")
            assert await t.get(b"00001") == b"new"
            t.delete(b"00002")
            t.merge(b"m", b"1")
            t.update({b"u": b"1"})
            t.delete_range(b"00003", b"00005")
            assert await t.get_many([b"00002", b"u", b"m", b"00003"]) == [None, b"1", b"1", None]
            assert [key async for key, _ in t.scan(stop=b"00006")] == [b"00000", b"00001", b"00005"]
            assert filled[b"00001"] == b"value 1"
        assert filled[b"00001"] == b"new"

        async def meets_another() -> None:
            async with a.transaction() as t:
                await t.get(b"00001")
                filled[b"00001"] = b"theirs"
                t.put(b"x", b"1")

        with pytest.raises(lsmkit.ConflictError):
            await meets_another()
        t = await a.transaction()
        t.clear()
        t.rollback()
        with pytest.raises(lsmkit.ClosedError):
            await t.get(b"00001")
        assert b"x" not in filled

    run(work())


def test_run_tries_again(db: lsmkit.DB) -> None:
    async def add(t: Any) -> int:
        old = int(await t.get(b"n", b"0"))
        await asyncio.sleep(0)
        t.put(b"n", b"%d" % (old + 1))
        return old

    async def work() -> None:
        done = await asyncio.gather(*[db.aio.run(add, retries=1000) for _ in range(20)])
        assert sorted(done) == list(range(20))
        with pytest.raises(lsmkit.ConflictError):
            await asyncio.gather(*[db.aio.run(add, retries=0) for _ in range(20)])

    run(work())
    assert int(db[b"n"]) >= 20


# --- Scans and cursors -----------------------------------------------------------------------


def test_scans_give_what_those_of_the_store_give(filled: lsmkit.DB) -> None:
    async def work() -> None:
        a = filled.aio
        assert await listed(a.scan()) == await listed(a.items()) == ROWS
        assert await listed(a) == await listed(a.keys()) == [key for key, _ in ROWS]
        assert await listed(a.values()) == [value for _, value in ROWS]
        bounds: list[dict[str, Any]] = [
            {"prefix": b"001"},
            {"start": b"00100", "stop": b"00200", "include_start": False, "include_stop": True},
            {"start": b"00100", "reverse": True},
            {"start": b"1", "stop": b"0"},
        ]
        for each in bounds:
            assert await listed(a.scan(**each)) == list(filled.scan(**each))
            assert await listed(a.scan_keys(**each)) == list(filled.scan_keys(**each))
            assert await listed(a.scan_values(**each)) == list(filled.scan_values(**each))
        parts = await listed(a.scan_columns(prefix=b"00", rows=300))
        assert [len(part) for part in parts] == [300, 300, 300, 100]
        assert [key for part in parts for key in part.keys] == [key for key, _ in ROWS[:1000]]

    run(work())


def test_a_scan_sees_the_moment_of_its_call(filled: lsmkit.DB) -> None:
    async def work() -> None:
        scan = filled.aio.scan()
        filled.clear()
        assert await listed(scan) == ROWS
        assert await listed(scan) == []

    run(work())


def test_a_scan_of_large_values_fetches_few_at_a_time(db: lsmkit.DB) -> None:
    async def work() -> None:
        for i in range(40):
            db[b"%02d" % i] = b"%d" % i * 200_000
        async with db.aio.scan() as scan:
            found = []
            async for key, _ in scan:
                found.append(key)
                assert len(scan._rows) <= 6
        assert len(found) == 40

    run(work())


def test_a_scan_that_is_left_gives_back_what_it_pins(filled: lsmkit.DB) -> None:
    async def work() -> None:
        async with filled.aio.scan() as scan:
            async for _ in scan:
                break
        assert [row async for row in scan] == []
        scan = filled.aio.scan()
        assert await scan.__anext__() == ROWS[0]
        await scan.aclose()
        assert [row async for row in scan] == []

    run(work())
    filled.compact()
    before = filled.stats().levels
    filled.clear()
    filled.compact()
    assert [level.rows for level in filled.stats().levels] != [level.rows for level in before]
    gc.collect()
    assert len([name for name in os.listdir(filled.path) if name.endswith(".sst")]) == 0


def test_two_tasks_in_one_scan_are_told(filled: lsmkit.DB) -> None:
    async def work() -> None:
        scan = filled.aio.scan()
        results = await asyncio.gather(scan.__anext__(), scan.__anext__(), return_exceptions=True)
        assert [type(each) for each in results] == [tuple, RuntimeError]

    run(work())


def test_a_cancelled_step_loses_no_row(filled: lsmkit.DB) -> None:
    async def work() -> None:
        scan = filled.aio.scan()
        found = []
        for attempt in itertools.count():
            task = asyncio.ensure_future(scan.__anext__())
            for _ in range(attempt % 3):
                await asyncio.sleep(0)
            if attempt % 2:
                task.cancel()
            try:
                found.append(await task)
            except asyncio.CancelledError:
                continue
            except StopAsyncIteration:
                break
        assert found == ROWS

    run(work())


def test_a_cursor_walks_both_ways(filled: lsmkit.DB) -> None:
    async def work() -> None:
        async with filled.aio.cursor() as cursor:
            assert not cursor.valid
            with pytest.raises(ValueError, match="no row"):
                _ = cursor.key
            filled.clear()
            assert await cursor.seek(b"00010")
            assert (cursor.key, cursor.value) == ROWS[10]
            assert await cursor.next()
            assert await cursor.prev()
            assert await cursor.prev()
            assert cursor.key == b"00009"
            assert await cursor.seek_to_last()
            assert not await cursor.next()
            assert not cursor.valid
            assert await cursor.seek_for_prev(b"00010x")
            assert await cursor.seek_to_first()
            assert cursor.key == b"00000"
        never = await filled.aio.cursor()
        await never.close()

    run(work())


def test_a_snapshot_stays_where_it_is(filled: lsmkit.DB) -> None:
    async def work() -> None:
        async with filled.aio.snapshot() as snapshot:
            filled.clear()
            assert await snapshot.get(b"00001") == b"value 1"
            assert await snapshot.get_many([b"00001", b"x"]) == [b"value 1", None]
            assert await listed(snapshot.scan()) == ROWS
            assert await listed(snapshot) == [key for key, _ in ROWS]
            async with snapshot.cursor() as cursor:
                assert await cursor.seek_to_first()
            assert await snapshot.get(b"00002") == b"value 2"
        for read in (snapshot.get(b"00001"), listed(snapshot.scan())):
            with pytest.raises(lsmkit.ClosedError):
                await read
        other = await filled.aio.snapshot()
        await other.close()

    run(work())


# --- Answered at once ------------------------------------------------------------------------


@pytest.mark.usefixtures("threadless")
def test_what_memory_can_answer_needs_no_thread(db: lsmkit.DB) -> None:
    async def work() -> None:
        a = db.aio
        await a.put(b"a", b"1")
        await a.delete(b"b")
        await a.delete_range(b"c", b"d")
        async with a.batch() as b:
            b.put(b"b", b"2")
        assert await a.get(b"a") == b"1"
        assert await a.get(b"none") is None
        async with a.snapshot() as snapshot:
            assert await snapshot.get(b"b") == b"2"
        async with a.transaction() as t:
            assert await t.get(b"a") == b"1"
            await t.commit()

    run(work())


def test_a_block_is_read_in_a_thread_and_then_needs_none(
    store_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    submit = loops.Threads.submit

    def spy(self: loops.Threads, call: Any, /, *args: Any, **named: Any) -> Any:
        asked.append(call)
        return submit(self, call, *args, **named)

    monkeypatch.setattr(loops.Threads, "submit", spy)
    with lsmkit.open(store_path, **TINY) as db:
        db.update(ROWS)
        db.compact()
    with lsmkit.open(store_path, **TINY) as db:

        async def work() -> None:
            assert [await db.aio.get(b"00500") for _ in range(3)] == [b"value 500"] * 3

        run(work())
    assert len(asked) == 1


@pytest.mark.usefixtures("threadless")
def test_a_task_that_never_waits_lets_others_run(db: lsmkit.DB) -> None:
    async def work() -> None:
        others = 0

        async def other() -> None:
            nonlocal others
            while True:
                others += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        for i in range(loops.TURN * 10):
            await db.aio.put(b"%d" % i, b"")
        task.cancel()
        assert others >= 9

    run(work())


@pytest.mark.usefixtures("threadless")
def test_a_large_value_is_copied_in_a_thread(db: lsmkit.DB) -> None:
    async def work() -> None:
        for value in (bytes(1 << 17), bytearray(1 << 17), memoryview(bytes(1 << 20)).cast("Q")):
            with pytest.raises(AssertionError, match="a thread was asked"):
                await db.aio.put(b"a", value)

    run(work())


# --- Durability ------------------------------------------------------------------------------


def test_tasks_that_sync_share_the_syncs(store_path: str) -> None:
    with lsmkit.open(store_path, durability="sync") as db:

        async def work() -> None:
            before = db.stats().writes.syncs
            await asyncio.gather(*[db.aio.put(b"%d" % i, b"") for i in range(200)])
            assert 1 <= db.stats().writes.syncs - before <= 4
            before = db.stats().writes.syncs
            await db.aio.put(b"a", b"", durability="process")
            assert db.stats().writes.syncs == before
            await db.aio.put(b"a", b"")
            await db.aio.sync()
            assert db.stats().writes.syncs >= before + 1

        run(work())
        assert len(db) == 201


def test_what_was_synced_survives_the_power() -> None:
    disk = lsmkit.testing.FaultyDisk()
    acknowledged = []

    async def work(db: lsmkit.DB) -> None:
        async def put(i: int) -> None:
            await db.aio.put(b"%03d" % i, b"v", durability="sync")
            acknowledged.append(b"%03d" % i)

        await asyncio.gather(*[put(i) for i in range(50)])

    run(work(lsmkit.open("/store", disk=disk)))
    disk.power_cut("synced")
    with lsmkit.open("/store", disk=disk) as db:
        assert list(db) == sorted(acknowledged)
        assert len(acknowledged) == 50


def test_a_failing_sync_fails_all_who_wait_for_it() -> None:
    disk = lsmkit.testing.FaultyDisk()

    async def work(db: lsmkit.DB) -> None:
        await db.aio.put(b"a", b"1", durability="sync")
        disk.fail("fdatasync")
        results = await asyncio.gather(
            *[db.aio.put(b"%d" % i, b"", durability="sync") for i in range(5)],
            return_exceptions=True,
        )
        assert [type(each) for each in results] == [lsmkit.StorageError] * 5
        with pytest.raises(lsmkit.StorageError):
            await db.aio.put(b"b", b"1")
        assert await db.aio.get(b"a") == b"1"

    with lsmkit.open("/store", disk=disk) as db:
        run(work(db))
        with pytest.raises(lsmkit.StorageError):
            db.close()


# --- Waiting for room ------------------------------------------------------------------------


@pytest.fixture
def full(store_path: str) -> Iterator[lsmkit.DB]:
    """A store in which even the smallest write would have to wait."""
    options = {"segment_bytes": 4096, "rate_limit": 1, "background_threads": 1}
    with lsmkit.open(store_path, **options) as db:
        for value in (bytes(200), b""):
            try:
                while True:  # not 0: a writer that is only slowed for the moment is refused too
                    db.put(b"k", value, timeout=0.05)
            except lsmkit.Busy:
                pass
        yield db


WAITING: dict[str, Callable[[lsmkit.DB, float | None], Awaitable[Any]]] = {
    "put": lambda db, timeout: db.aio.put(b"x", b"1", timeout=timeout),
    "large put": lambda db, timeout: db.aio.put(b"x", bytes(100_000), timeout=timeout),
    "sync put": lambda db, timeout: db.aio.put(b"x", b"1", timeout=timeout, durability="sync"),
    "put_many": lambda db, timeout: db.aio.put_many([b"x"], [b"1"], timeout=timeout),
    "setdefault": lambda db, timeout: db.aio.setdefault(b"x", b"1", timeout=timeout),
    "run": lambda db, timeout: db.aio.run(put_in, timeout=timeout),
}


async def put_in(t: Any) -> None:
    t.put(b"x", b"1")


@pytest.mark.parametrize("name", WAITING)
def test_a_write_without_room_waits_as_long_as_it_may(full: lsmkit.DB, name: str) -> None:
    frames = full.stats().writes.frames

    async def work() -> None:
        for timeout in (0, 0.03):
            calls = [WAITING[name](full, timeout) for _ in range(10)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(each) for each in results] == [lsmkit.Busy] * 10
            assert await full.aio.get(b"x") is None, "reads go on"

    run(work())
    assert full.stats().writes.frames == frames


@pytest.mark.parametrize("name", WAITING)
def test_a_write_that_is_cancelled_while_it_waits_is_out(full: lsmkit.DB, name: str) -> None:
    async def work() -> None:
        tasks = [asyncio.ensure_future(WAITING[name](full, None)) for _ in range(10)]
        done, _ = await asyncio.wait(tasks, timeout=0.05)
        assert not done
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [asyncio.CancelledError] * 10

    run(work())
    before = dict(full)
    full.close()
    with lsmkit.open(full.path) as db:
        assert dict(db) == before
        assert b"x" not in db


def test_a_write_that_waits_is_done_when_there_is_room(store_path: str) -> None:
    """More than the log holds, from many tasks: all of them get through, behind slow flushes."""
    with lsmkit.open(
        store_path, segment_bytes=4096, rate_limit=200_000, background_threads=1
    ) as db:

        async def work() -> None:
            values = [os.urandom(600) for _ in range(200)]
            await asyncio.gather(
                *[db.aio.put(b"%03d" % i, value) for i, value in enumerate(values)]
            )
            assert await listed(db.aio.values()) == values

        run(work())
        assert db.stats().writes.segments > 20


def test_a_write_that_waits_is_told_of_the_closing(full: lsmkit.DB) -> None:
    async def work() -> None:
        tasks = [asyncio.ensure_future(full.aio.put(b"x", b"1")) for _ in range(5)]
        await asyncio.wait(tasks, timeout=0.02)
        await full.aio.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in results] == [lsmkit.ClosedError] * 5

    run(work())


# --- Cancelling ------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", range(8))
def test_a_write_that_is_cancelled_is_wholly_in_or_out(db: lsmkit.DB, steps: int) -> None:
    """And nothing comes of it afterwards: what is there when the error arrives stays."""

    async def work() -> None:
        for i in range(30):
            keys = [b"%d %03d" % (i, j) for j in range(200)]
            calls: list[Awaitable[Any]] = [
                db.aio.put_many(keys, keys),
                db.aio.update(dict.fromkeys(keys, b"")),
                db.aio.put_many(keys, keys, durability="sync"),
            ]
            task = asyncio.ensure_future(calls[i % 3])  # type: ignore[arg-type]
            for each in calls:
                if each is not calls[i % 3]:
                    each.close()  # type: ignore[attr-defined]
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                assert len(list(db.scan_keys(prefix=b"%d " % i))) in (0, 200)
                frames = db.stats().writes.frames
                await asyncio.sleep(0.001)
                assert db.stats().writes.frames == frames

    run(work())


def test_a_cancelled_write_in_a_thread_is_waited_for(
    db: lsmkit.DB, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    put_many = lsmkit.DB.put_many

    def slow(*args: Any, **named: Any) -> Any:
        begun.set()
        go_on.wait(30)
        return put_many(*args, **named)

    monkeypatch.setattr(lsmkit.DB, "put_many", slow)

    async def work() -> None:
        task = asyncio.ensure_future(db.aio.put_many([b"a"], [b"1"]))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=0.02)
        assert not task.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert db[b"a"] == b"1"

    run(work())


def test_a_commit_that_is_cancelled_is_wholly_in_or_out(db: lsmkit.DB) -> None:
    async def both(i: int) -> None:
        async with db.aio.transaction() as t:
            t.put(b"a %d" % i, b"1")
            t.put(b"b %d" % i, b"1")

    async def work() -> None:
        for i in range(100):
            task = asyncio.ensure_future(both(i))
            for _ in range(i % 6):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            assert (b"a %d" % i in db) == (b"b %d" % i in db)

    run(work())


# --- Loops, threads, lifetimes ---------------------------------------------------------------


def test_several_loops_use_a_store_at_once(db: lsmkit.DB) -> None:
    errors: list[BaseException] = []

    async def work(n: int) -> None:
        keys = [b"%d %04d" % (n, i) for i in range(300)]
        await asyncio.gather(*[db.aio.put(key, key) for key in keys])
        await asyncio.gather(*[db.aio.put(key, key, durability="sync") for key in keys[:20]])
        assert await listed(db.aio.scan_keys(prefix=b"%d " % n)) == keys
        assert await asyncio.gather(*[db.aio.get(key) for key in keys]) == keys

    def loop(n: int) -> None:
        try:
            for _ in range(3):
                run(work(n))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=loop, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(db) == 1200


def test_loops_that_have_ended_are_forgotten(db: lsmkit.DB) -> None:
    for i in range(5):
        run(db.aio.put(b"%d" % i, b"", durability="sync"))
    assert len(loops.threads_of(db)._loops) == 1


def test_closing_at_the_end_of_a_block(store_path: str) -> None:
    async def work() -> None:
        async with lsmkit.open(store_path).aio as db:
            await db.put(b"a", b"1")
            scan = db.scan()
        assert db.closed
        await db.close()
        for call in (db.get(b"a"), db.put(b"a", b"1"), db.get_many([]), db.sync(), listed(scan)):
            with pytest.raises(lsmkit.ClosedError):
                await call
        with pytest.raises(lsmkit.ClosedError):
            db.snapshot()
        with pytest.raises(lsmkit.ClosedError):
            async with db:
                pass

    run(work())
    with lsmkit.open(store_path) as again:
        assert again[b"a"] == b"1"


def test_aio_keeps_the_store_open_and_lets_it_go(store_path: str) -> None:
    async def work() -> None:
        a = lsmkit.open(store_path, durability="sync").aio
        await a.put(b"a", b"1")
        assert await a.get_many([b"a"]) == [b"1"]
        with pytest.raises(lsmkit.LockedError):
            lsmkit.open(store_path)

    known = len(loops._known)
    run(work())
    gc.collect()
    assert len(loops._known) <= known
    lsmkit.open(store_path, timeout=30).close()


def test_a_store_that_follows_is_followed(store_path: str) -> None:
    async def work(owner: lsmkit.DB, reader: lsmkit.DB) -> None:
        for i in range(5):
            owner[b"a"] = b"%d" % i
            assert await reader.aio.get(b"a") == b"%d" % i
            assert await listed(reader.aio.values()) == [b"%d" % i]
            async with reader.aio.snapshot() as snapshot:
                assert await snapshot.get(b"a") == b"%d" % i
        with pytest.raises(lsmkit.ReadOnlyError):
            await reader.aio.put(b"a", b"1")

    owner = lsmkit.open(store_path)
    with owner, lsmkit.open(store_path, read_only=True, follow=True) as reader:
        run(work(owner, reader))


def test_a_child_of_a_fork_is_told(db: lsmkit.DB) -> None:
    run(db.aio.get_many([b"a"]))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for call in (db.aio.get(b"a"), db.aio.get_many([b"a"]), db.aio.put(b"a", b"1")):
                try:
                    run(call)
                except lsmkit.ClosedError:
                    continue
                break
            else:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
