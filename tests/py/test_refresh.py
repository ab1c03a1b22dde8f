"""Claim: a store that is read beside its owner moves to what the owner has committed, by `refresh`
or, with `follow=True`, before each read; scans and snapshots stay where they are; no file that a
reader uses goes before the reader does; and a dead reader keeps nothing.

Method: options so small that the owner flushes, compacts and uses log files again all the time. In
one process each step is compared with what was written. Between processes the owner acknowledges
numbers through a pipe, and is killed, closed and opened anew, while readers compare what they find.
"""

from __future__ import annotations

import glob
import inspect
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit import merge
from lsmkit.follow import Follower, Following, FollowingKeyspace

TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "block_bytes": 256,
    "table_bytes": 4096,
    "level_base_bytes": 16384,
}


def reader_of(path: str, **how: Any) -> lsmkit.DB:
    return lsmkit.open(path, read_only=True, **how)


def tables(path: str) -> set[str]:
    return {os.path.basename(name) for name in glob.glob(path + "/*.sst")}


def live(db: lsmkit.DB) -> set[str]:
    """Those of the current version."""
    return {
        f"{table[0]:06}.sst"
        for ranges in db._handle.version().values()
        for _, runs in ranges
        for run in runs
        for table in run[2]
    }


def registered(path: str) -> list[str]:
    return sorted(os.path.basename(name) for name in glob.glob(path + "/readers/*.lock"))


@pytest.fixture(params=["mapped", "written"])
def owner(request: pytest.FixtureRequest, store_path: str) -> Iterator[lsmkit.DB]:
    with lsmkit.open(store_path, log_io=request.param, **TINY) as db:
        yield db


# --- refresh -----------------------------------------------------------------------------------


def test_a_reader_stays_at_its_moment_until_it_is_refreshed(owner: lsmkit.DB) -> None:
    owner[b"a"] = b"1"
    with reader_of(owner.path) as reader:
        owner[b"a"] = b"2"
        owner[b"b"] = b"3"
        assert dict(reader) == {b"a": b"1"}
        assert reader.refresh() is True
        assert dict(reader) == {b"a": b"2", b"b": b"3"}
        assert reader.refresh() is False


@pytest.mark.parametrize("durability", ["process", "periodic", "sync"])
@pytest.mark.parametrize("log_io", ["mapped", "written"])
@pytest.mark.parametrize("segment_bytes", [4096, 1 << 17])
def test_each_write_is_found_whatever_the_owner_does(
    store_path: str, log_io: str, durability: str, segment_bytes: int, rng: random.Random
) -> None:
    """Of every kind of step a few hundred, with a refresh and a comparison behind each. Where each
    write is synced it takes a page: in large segments the log goes on there, in small ones not."""
    model: dict[bytes, bytes] = {}
    options = {**TINY, "segment_bytes": segment_bytes}
    with (
        lsmkit.open(store_path, log_io=log_io, durability=durability, **options) as owner,
        reader_of(store_path) as reader,
    ):
        for step in range(300):
            before = dict(model)
            kind = rng.randrange(8)
            keys = [b"%03d" % rng.randrange(200) for _ in range(rng.choice([1, 3, 60]))]
            if kind < 3:
                model[keys[0]] = b"%d" % step
                owner.put(keys[0], b"%d" % step)
            elif kind == 3:
                owner.delete(keys[0])
                model.pop(keys[0], None)
            elif kind < 6:
                owner.put_many(keys, [b"%d" % step * 5] * len(keys))
                model.update(dict.fromkeys(keys, b"%d" % step * 5))
            elif kind == 6:
                owner.flush()
            elif rng.random() < 0.3:
                owner.compact()
            moved = reader.refresh()
            if model != before:
                assert moved
            assert dict(reader) == model, step
            assert reader.get_many(keys) == [model.get(key) for key in keys]
            assert [reader.get(key) for key in keys] == [model.get(key) for key in keys]


def test_a_batch_is_seen_whole(owner: lsmkit.DB) -> None:
    with reader_of(owner.path) as reader:
        for i in range(200):
            owner.put_many([b"%d" % n for n in range(100)], [b"%d" % i] * 100)
            reader.refresh()
            assert set(reader.values()) == {b"%d" % i}


def test_a_value_larger_than_a_segment_is_found(owner: lsmkit.DB) -> None:
    with reader_of(owner.path) as reader:
        for n in (10, 5000, 100_000, 1_000_000, 10):
            owner[b"k"] = b"x" * n
            assert reader.refresh()
            assert reader[b"k"] == b"x" * n


def test_ingested_rows_are_found_with_what_was_written_around_them(owner: lsmkit.DB) -> None:
    with reader_of(owner.path) as reader, reader_of(owner.path, follow=True) as follower:
        for i in range(10):
            owner[b"before"] = owner[b"1"] = b"%d" % i
            owner.ingest(
                [b"%d" % n for n in range(300)], [b"%d of %d" % (n, i) for n in range(300)]
            )
            owner[b"after"] = owner[b"2"] = b"%d" % i
            assert reader.refresh()
            wanted = {b"%d" % n: b"%d of %d" % (n, i) for n in range(300)}
            wanted |= {b"before": b"%d" % i, b"after": b"%d" % i, b"2": b"%d" % i}
            assert dict(reader) == wanted
            assert follower[b"1"] == b"1 of %d" % i


def test_an_ingest_alone_is_something_new(owner: lsmkit.DB) -> None:
    with reader_of(owner.path) as reader:
        owner.ingest([b"a"], [b"1"])
        assert reader.refresh() is True
        assert reader.refresh() is False
        assert dict(reader) == {b"a": b"1"}


def test_deleted_ranges_arrive_and_snapshots_do_not_lose_what_they_hide(owner: lsmkit.DB) -> None:
    keys = [b"%03d" % n for n in range(300)]
    with reader_of(owner.path) as reader:
        for i in range(12):
            owner.put_many(keys, [b"%d" % i] * 300)
            if i % 3 == 1:
                owner.flush()
            reader.refresh()
            with reader.snapshot() as snapshot:
                owner.delete_range(b"1", b"2")
                owner[b"150"] = b"later"
                if i % 3 == 2:
                    owner.compact()
                assert len(list(reader.scan())) == 300
                assert reader.refresh()
                assert len(list(snapshot.scan())) == 300
                assert snapshot[b"150"] == b"%d" % i
            assert list(reader.scan_keys(b"1", b"2")) == [b"150"]
            assert reader.get_many([b"099", b"100", b"150"]) == [b"%d" % i, None, b"later"]
            assert len(reader) == 201


def test_operands_arrive_and_are_folded_here(store_path: str) -> None:
    total = 0
    with (
        lsmkit.open(store_path, merge_operator=merge.AddInt64(), **TINY) as owner,
        reader_of(store_path) as reader,
        reader_of(store_path, follow=True) as follower,
    ):
        for i in range(200):
            owner.merge(b"n", i.to_bytes(8, "little"))
            owner.merge_many([b"%d" % (i % 7)] * 20, [b"\1" + bytes(7)] * 20)
            total += i
            if i % 50 == 20:
                owner.flush()
            if i % 50 == 40:
                owner.compact()
            assert int.from_bytes(follower[b"n"], "little") == total
            if i % 10 == 0:
                assert reader.refresh()
                assert int.from_bytes(reader[b"n"], "little") == total
                assert dict(reader) == dict(owner)


def test_an_operator_in_python_must_be_given_to_a_reader(store_path: str) -> None:
    def longer(old: bytes | None, operand: bytes) -> bytes:
        return max(old or b"", operand, key=len)

    operator = merge.Custom("longer", longer)
    with lsmkit.open(store_path, merge_operator=operator, **TINY) as owner:
        owner.merge(b"a", b"xx")
        owner.merge(b"a", b"x")
        with reader_of(store_path) as reader, pytest.raises(lsmkit.OptionsError, match="longer"):
            reader.get(b"a")
        with reader_of(store_path, merge_operator=operator) as reader:
            assert reader[b"a"] == b"xx"
            owner.merge(b"a", b"xxx")
            assert reader.refresh()
            assert reader[b"a"] == b"xxx"
        with pytest.raises(lsmkit.OptionsError):
            reader_of(store_path, merge_operator=merge.AddInt64())


def test_what_has_expired_is_not_read_and_what_has_not_is(owner: lsmkit.DB) -> None:
    with reader_of(owner.path) as reader:
        owner.put(b"gone", b"1", ttl=0)
        owner.put(b"here", b"1", ttl=1000)
        assert reader.refresh()
        assert dict(reader) == {b"here": b"1"}
        owner.flush()
        assert reader.refresh() is False
        owner.put(b"here", b"2", ttl=0)
        assert reader[b"here"] == b"1"
        assert reader.refresh()
        assert dict(reader) == {}


def test_positions_of_sources_arrive_with_their_writes(owner: lsmkit.DB) -> None:
    with reader_of(owner.path, follow=True) as follower:
        for seq in range(1, 60):
            owner.put_many([b"a", b"b"], [b"%d" % seq] * 2, source="s", seq=seq)
            if seq % 20 == 0:
                owner.flush()
            assert follower.position("s") == seq
            assert follower[b"b"] == b"%d" % seq


def test_an_owner_is_never_behind(owner: lsmkit.DB) -> None:
    owner[b"a"] = b"1"
    assert owner.refresh() is False


def test_a_closed_reader_is_a_closed_error(owner: lsmkit.DB) -> None:
    reader, follower = reader_of(owner.path), reader_of(owner.path, follow=True)
    reader.close()
    follower.close()
    for call in (reader.refresh, follower.refresh, lambda: follower.get(b"a")):
        with pytest.raises(lsmkit.ClosedError):
            call()


def test_several_readers_stand_at_several_moments(owner: lsmkit.DB) -> None:
    readers = []
    for i in range(20):
        owner.put_many([b"%03d" % n for n in range(100)], [b"%d" % i] * 100)
        if i % 3 == 0:
            owner.compact()
        readers.append(reader_of(owner.path))
    for i, reader in enumerate(readers):
        assert reader.get_many([b"000", b"050", b"099"]) == [b"%d" % i] * 3
        assert set(reader.values()) == {b"%d" % i}
        assert reader.verify()
    for reader in readers:
        assert reader.refresh() is (reader is not readers[-1])
        assert set(reader.values()) == {b"19"}
        reader.close()


# --- Scans and snapshots -----------------------------------------------------------------------


def test_snapshots_and_scans_stay_at_their_moment(owner: lsmkit.DB) -> None:
    with reader_of(owner.path) as reader:
        held = []
        for i in range(30):
            owner.put_many([b"%03d" % n for n in range(100)], [b"%d" % i] * 100)
            if i % 4 == 1:
                owner.compact()
            reader.refresh()
            held.append((reader.snapshot(), reader.scan_values(), reader.scan_columns()))
        owner.clear()
        owner.compact()
        reader.refresh()
        assert len(reader) == 0
        for i, (snapshot, scan, columns) in enumerate(held):
            expected = [b"%d" % i] * 100
            assert list(snapshot.values()) == expected
            assert snapshot[b"050"] == b"%d" % i
            assert snapshot.get(b"none") is None
            assert snapshot.get_many([b"000", b"none"]) == [b"%d" % i, None]
            assert len(snapshot) == 100
            assert list(scan) == expected
            assert [row for part in columns for row in part.values.to_pylist()] == expected
            snapshot.close()


def test_tables_of_a_snapshot_go_when_it_is_closed(owner: lsmkit.DB) -> None:
    owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
    owner.compact()
    before = live(owner)
    with reader_of(owner.path) as reader:
        snapshot = reader.snapshot()
        owner.clear()
        owner.compact()
        assert before <= tables(owner.path)
        reader.refresh()
        owner[b"a"] = b"1"
        owner.flush()
        assert before <= tables(owner.path), "the snapshot still reads them"
        assert len(snapshot) == 500
        snapshot.close()
        owner[b"a"] = b"2"
        owner.flush()
        reader.refresh()
        wait_for(lambda: not before & tables(owner.path))


# --- follow ------------------------------------------------------------------------------------


def test_a_follower_reads_what_was_written_before_each_call(owner: lsmkit.DB) -> None:
    with reader_of(owner.path, follow=True) as db:
        for i in range(3000):
            key = b"%03d" % (i % 300)
            owner[key] = b"%d" % i
            assert db[key] == b"%d" % i
        reads: dict[str, Callable[[], object]] = {
            "get": lambda: db.get(b"n"),
            "getitem": lambda: db[b"n"],
            "get_many": lambda: db.get_many([b"n"])[0],
            "scan": lambda: next(db.scan(b"n"))[1],
            "scan_values": lambda: next(db.scan_values(b"n")),
            "scan_columns": lambda: next(db.scan_columns(b"n")).values[0],
            "items": lambda: dict(db.items())[b"n"],
            "values": lambda: list(db.values())[-1],
            "snapshot": lambda: db.snapshot()[b"n"],
            "dict": lambda: dict(db)[b"n"],
        }
        for i, (name, read) in enumerate(reads.items()):
            owner[b"n"] = b"%d" % i
            assert read() == b"%d" % i, name
        counts: dict[str, Callable[[], int]] = {
            "len": lambda: len(db),
            "iter": lambda: len(list(db)),
            "reversed": lambda: len(list(reversed(db))),
            "scan_keys": lambda: len(list(db.scan_keys())),
            "contains": lambda: sum(key in db for key in list(owner)),
        }
        for i, (name, count) in enumerate(counts.items()):
            owner[b"x%d" % i] = b""
            assert count() == len(owner), name
        owner.clear()
        assert not db


@pytest.mark.parametrize("follow", [False, True])
def test_a_handle_that_was_pickled_refreshes_where_it_arrives(
    owner: lsmkit.DB, follow: bool
) -> None:
    """That of an owner arrives as a plain reader; one that follows goes on doing so."""
    owner[b"a"] = b"1"
    with reader_of(owner.path, follow=True) as follower:
        arrived: lsmkit.DB = pickle.loads(pickle.dumps(follower if follow else owner))
    with arrived:
        owner[b"a"] = b"2"
        assert arrived[b"a"] == (b"2" if follow else b"1")
        assert arrived.refresh() is not follow
        assert arrived[b"a"] == b"2"
        assert len(registered(owner.path)) == 1
    assert registered(owner.path) == []


def test_a_follower_writes_nothing(owner: lsmkit.DB) -> None:
    with reader_of(owner.path, follow=True) as db:
        assert isinstance(db, lsmkit.DB)
        with pytest.raises(lsmkit.ReadOnlyError):
            db[b"a"] = b"1"


def test_following_is_for_those_who_read(store_path: str) -> None:
    with pytest.raises(lsmkit.OptionsError, match="read_only"):
        lsmkit.open(store_path, follow=True)
    assert not os.path.exists(store_path)


def test_every_method_that_reads_follows() -> None:
    """Those that do not are named here: a new one must be put on one side or the other."""
    writes = {"put", "delete", "put_many", "delete_many", "batch", "write", "setdefault", "pop"}
    writes |= {"update", "popitem", "clear", "sync", "flush", "compact", "wait_idle"}
    writes |= {"merge", "merge_many", "delete_range", "transaction", "run", "ingest", "checkpoint"}
    writes |= {"drop_keyspace"}
    through_others = {"items", "keys", "values", "refresh", "close", "verify", "catch_up"}
    for kind, following in ((lsmkit.DB, Follower), (lsmkit.Keyspace, FollowingKeyspace)):
        found = {
            name
            for name, member in inspect.getmembers(kind)
            if not name.startswith("_") and callable(member)
        }
        follows = set(vars(following)) | set(vars(Following))
        assert found - writes - through_others - follows == set()


def test_a_reader_moves_on_to_keyspaces_that_come_change_and_go(owner: lsmkit.DB) -> None:
    old = owner.keyspace("old")
    old[b"k"] = b"1"
    with reader_of(owner.path) as reader, reader_of(owner.path, follow=True) as follower:
        followed = follower.keyspace("old")
        read = reader.keyspace("old")
        old[b"k"] = b"2"
        assert (read[b"k"], followed[b"k"]) == (b"1", b"2")
        owner.keyspace("old", merge_operator=merge.Append).merge(b"k", b"!")
        owner.keyspace("sums", merge_operator=merge.AddInt64).merge(b"k", 5)
        assert followed[b"k"] == b"2!"
        assert follower.keyspaces() == ["old", "sums"]
        assert reader.keyspaces() == ["old"]
        with pytest.raises(lsmkit.ReadOnlyError):
            reader.keyspace("sums")
        assert reader.refresh()
        assert read[b"k"] == b"2!"
        for each in (reader, follower):
            assert each.keyspace("sums")[b"k"] == (5).to_bytes(8, "little")
        owner.keyspace("sums").flush()
        assert follower.keyspace("sums")[b"k"] == (5).to_bytes(8, "little")
        held = iter(followed.scan())
        owner.drop_keyspace("old")
        owner.keyspace("old")[b"other"] = b"3"
        assert read[b"k"] == b"2!"
        with pytest.raises(lsmkit.ClosedError):
            followed.get(b"k")
        with pytest.raises(lsmkit.ClosedError):
            next(held)
        assert dict(follower.keyspace("old")) == {b"other": b"3"}
        assert reader.refresh()
        assert read.closed
        for key in (b"k", b"absent"):
            with pytest.raises(lsmkit.ClosedError):
                read.get(key)
        assert dict(reader.keyspace("old")) == {b"other": b"3"}


# --- What the owner keeps ----------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the background has done something; the test's timeout ends what never comes."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.01)


def test_tables_stay_as_long_as_a_reader_reads_them(owner: lsmkit.DB) -> None:
    owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
    owner.compact()
    with reader_of(owner.path) as reader:
        before = live(owner)
        owner.clear()
        owner.compact()
        assert before <= tables(owner.path)
        assert len(reader) == 500
    wait_for(lambda: not before & tables(owner.path))
    assert registered(owner.path) == []


def test_tables_go_without_a_reader(owner: lsmkit.DB) -> None:
    owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
    owner.compact()
    before = live(owner)
    owner.clear()
    owner.compact()
    wait_for(lambda: not before & tables(owner.path))


def test_versions_between_are_not_kept(owner: lsmkit.DB) -> None:
    """A reader that stands still costs the tables of its version, not of all that came since."""
    owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
    owner.compact()
    with reader_of(owner.path) as reader:
        read = live(owner)
        for i in range(20):
            owner.put_many([b"%03d" % n for n in range(500)], [b"%d" % i * 20] * 500)
            owner.compact()
        owner.wait_idle()
        wait_for(lambda: tables(owner.path) <= read | live(owner))
        assert len(reader) == 500


READER = """
    import sys, lsmkit
    db = lsmkit.open(sys.argv[1], read_only=True)
    print(len(db), flush=True)
    for line in sys.stdin:
        print(eval(line), flush=True)
"""


class Other:
    """A program in another process that answers lines."""

    def __init__(self, text: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(text), *args],
            env={**os.environ, "PYTHONPATH": str(Path(lsmkit.__file__).parent.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self.read()

    def read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the program has ended"
        return line.strip()

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.read()

    def end(self, by: int = signal.SIGKILL) -> None:
        if self.process.poll() is None:
            self.process.send_signal(by)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()


@pytest.fixture
def others() -> Iterator[list[Other]]:
    started: list[Other] = []
    yield started
    for other in started:
        other.end()


def test_a_reader_in_another_process_is_known_and_forgotten_when_it_dies(
    owner: lsmkit.DB, others: list[Other]
) -> None:
    owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
    owner.compact()
    other = Other(READER, owner.path)
    others.append(other)
    assert other.first == "500"
    before = live(owner)
    owner.clear()
    owner.compact()
    assert before <= tables(owner.path)
    assert other.ask("sum(1 for _ in db.scan())") == "500"
    assert other.ask("db.refresh()") == "True"
    assert other.ask("len(db)") == "0"
    owner[b"a"] = b"1"
    owner.flush()
    wait_for(lambda: not before & tables(owner.path))
    assert len(registered(owner.path)) == 1
    before = live(owner)
    other.end()
    owner.clear()
    owner.compact()
    wait_for(lambda: not before & tables(owner.path))
    wait_for(lambda: registered(owner.path) == [])


def test_a_reader_survives_its_owners(store_path: str, others: list[Other]) -> None:
    with lsmkit.open(store_path, **TINY) as owner:
        owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
        owner.compact()
        reader = Other(READER, store_path)
        others.append(reader)
        before = live(owner)
        owner.clear()
        owner.compact()
    assert before <= tables(store_path), "closing keeps what is read"
    assert reader.ask("len(list(db.scan()))") == "500"
    with lsmkit.open(store_path, **TINY) as owner:
        owner[b"a"] = b"1"
        owner.compact()
        assert before <= tables(store_path), "so does opening"
        assert reader.ask("len(list(db.scan_values()))") == "500"
        assert reader.ask("(db.refresh(), dict(db))") == "(True, {b'a': b'1'})"
        wait_for(lambda: not before & tables(store_path))
    assert reader.ask("(db.refresh(), dict(db))") == "(False, {b'a': b'1'})"


def test_a_later_owner_keeps_what_a_reader_has_read_since_before(store_path: str) -> None:
    """Its table is live when the later owner opens the store, and goes by an edit of that one."""
    with lsmkit.open(store_path, **TINY) as owner:
        owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
        owner.compact()
        reader = reader_of(store_path)
        before = live(owner)
        owner[b"a"] = b"1"
    for _ in range(3):
        with lsmkit.open(store_path, **TINY) as owner:
            owner.clear()
            owner.compact()
            assert before <= tables(store_path)
    assert len(list(reader.scan_values())) == 500
    with lsmkit.open(store_path, **TINY) as owner:
        assert reader.refresh()
        assert len(reader) == 0
        wait_for(lambda: not before & tables(store_path))
        reader.close()


def test_what_was_left_for_a_dead_reader_goes_at_the_next_opening(
    store_path: str, others: list[Other]
) -> None:
    with lsmkit.open(store_path, **TINY) as owner:
        owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
        owner.compact()
        reader = Other(READER, store_path)
        others.append(reader)
        before = live(owner)
        owner.clear()
        owner.compact()
    reader.end()
    assert before <= tables(store_path)
    with lsmkit.open(store_path, **TINY) as owner:
        assert not before & tables(store_path)
        assert registered(store_path) == []
        assert len(owner) == 0


def test_a_reader_that_cannot_register_holds_its_files_open(store_path: str) -> None:
    """Where no directory can be made a file of its name stands for a place without permission."""
    with lsmkit.open(store_path, **TINY) as owner:
        owner.put_many([b"%03d" % n for n in range(500)], [b"x" * 50] * 500)
        owner.compact()
        Path(store_path, "readers").write_bytes(b"")
        with reader_of(store_path) as reader:
            before = live(owner)
            owner.clear()
            os.unlink(store_path + "/readers")
            owner.compact()
            wait_for(lambda: not before & tables(store_path))
            assert len(list(reader.scan_values())) == 500
            assert reader.refresh() is True
            assert len(reader) == 0
            owner[b"a"] = b"1"
            assert reader.refresh() is True
            assert dict(reader) == {b"a": b"1"}


def test_closing_a_reader_leaves_the_directory_as_it_was(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as owner:
        owner[b"a"] = b"1"
    before = sorted(os.listdir(store_path))
    with reader_of(store_path) as reader:
        assert reader[b"a"] == b"1"
        assert len(registered(store_path)) == 1
    assert sorted(os.listdir(store_path)) == before


def test_a_store_that_is_read_is_not_destroyed_and_not_repaired(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as owner:
        owner[b"a"] = b"1"
    with reader_of(store_path) as reader:
        for change in (lsmkit.destroy, lsmkit.repair):
            with pytest.raises(lsmkit.LockedError, match="reading") as error:
                change(store_path)
            assert error.value.pid == os.getpid()
        assert dict(reader) == {b"a": b"1"}
    assert lsmkit.repair(store_path)
    lsmkit.destroy(store_path)
    assert not os.path.exists(store_path)


def test_destroying_a_store_removes_what_dead_readers_have_left(
    store_path: str, others: list[Other]
) -> None:
    with lsmkit.open(store_path, **TINY) as owner:
        owner[b"a"] = b"1"
    reader = Other(READER, store_path)
    others.append(reader)
    reader.end()
    assert len(registered(store_path)) == 1
    lsmkit.destroy(store_path)
    assert not os.path.exists(store_path)


def test_a_reader_of_a_checkpoint_goes_from_one_to_the_next(
    owner: lsmkit.DB, tmp_path: Path
) -> None:
    place = str(tmp_path / "copy")
    owner.put_many([b"%03d" % n for n in range(500)], [b"0"] * 500)
    owner.checkpoint(place)
    with reader_of(place) as reader, reader_of(place, follow=True) as follower:
        for i in range(1, 5):
            before = tables(place)
            owner.put_many([b"%03d" % n for n in range(500)], [b"%d" % i] * 500)
            owner.compact()
            owner.checkpoint(place)
            assert before <= tables(place)
            assert set(reader.values()) == {b"%d" % (i - 1)}
            assert reader.refresh()
            assert set(reader.values()) == {b"%d" % i} == set(follower.values())
    owner[b"a"] = b"1"
    owner.checkpoint(place)
    assert tables(place) == live(owner)


# --- Failure -----------------------------------------------------------------------------------


def test_after_a_failed_refresh_the_reader_is_as_it_was(owner: lsmkit.DB) -> None:
    owner.put_many([b"%03d" % n for n in range(100)], [b"1"] * 100)
    owner.flush()
    with reader_of(owner.path) as reader:
        assert not reader.refresh()
        snapshot = reader.snapshot()
        owner.put_many([b"%03d" % n for n in range(200)], [b"2"] * 200)
        owner.flush()
        current = Path(owner.path, "CURRENT")
        text = current.read_bytes()
        current.write_bytes(b"rubbish")
        for _ in range(2):
            with pytest.raises(lsmkit.CorruptionError):
                reader.refresh()
            assert dict(reader) == {b"%03d" % n: b"1" for n in range(100)}
            assert len(snapshot) == 100
        current.write_bytes(text)
        assert reader.refresh()
        assert dict(reader) == {b"%03d" % n: b"2" for n in range(200)}


def test_a_damaged_frame_that_was_complete_is_told(store_path: str) -> None:
    with lsmkit.open(store_path, log_io="written") as owner:
        owner[b"a"] = b"1"
        with reader_of(store_path) as reader:
            (log,) = sorted(glob.glob(store_path + "/*.log"))[:1]
            at = Path(log).read_bytes().index(b"\0" * 64, 64)
            owner[b"b"] = b"a value that is longer than its header"
            with open(log, "r+b") as file:
                file.seek(Path(log).read_bytes().index(b"longer", at - 64))
                file.write(b"LONGER")
            with pytest.raises(lsmkit.CorruptionError, match="completed"):
                reader.refresh()
            assert dict(reader) == {b"a": b"1"}


# --- Threads, forks ----------------------------------------------------------------------------


def test_threads_refresh_and_read_at_once(store_path: str) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []
    with lsmkit.open(store_path, **TINY) as owner, reader_of(store_path) as reader:

        def write() -> None:
            i = 0
            while not stop.is_set():
                owner.put_many([b"%03d" % n for n in range(50)], [b"%08d" % i] * 50)
                i += 1

        def read() -> None:
            try:
                last = b""
                for _ in range(150):
                    reader.refresh()
                    with reader.snapshot() as snapshot:
                        found = set(snapshot.values())
                    assert len(found) <= 1
                    now = max(found, default=b"")
                    assert now >= last
                    last = now
                    assert min(reader.scan_values(), default=b"") >= last
            except BaseException as error:
                failures.append(error)

        writer = threading.Thread(target=write)
        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in (writer, *readers):
            thread.start()
        for thread in readers:
            thread.join()
        stop.set()
        writer.join()
    assert failures == []


def test_a_forked_child_opens_a_reader_of_its_own(owner: lsmkit.DB) -> None:
    owner[b"a"] = b"1"
    with reader_of(owner.path) as reader:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with pytest.raises(lsmkit.ClosedError):
                    reader.refresh()
                reader.close()
                with reader_of(owner.path) as own:
                    assert own[b"a"] == b"1"
                    assert len(registered(owner.path)) == 2
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert len(registered(owner.path)) == 1
        owner[b"a"] = b"2"
        assert reader.refresh()
        assert reader[b"a"] == b"2"


# --- Owner and readers in processes of their own -----------------------------------------------

OWNER = """
    import os, sys, lsmkit
    first, log_io = int(sys.argv[2]), sys.argv[3]
    db = lsmkit.open(sys.argv[1], log_io=log_io, segment_bytes=4096, block_bytes=256,
                     table_bytes=4096, level_base_bytes=16384, timeout=10)
    print("open", flush=True)
    i = first
    while True:
        rows = range(i, i + 1 + i % 7)
        db.put_many([b"%06d" % (n % 500) for n in rows], [b"%d" % n for n in rows])
        db[b"last"] = b"%d" % rows[-1]
        i = rows[-1] + 1
        os.write(1, b"%d\\n" % rows[-1])
        if i % 400 < 5:
            db.compact()
"""


def expected_of(last: int) -> dict[bytes, bytes]:
    """What the store holds when `last` is the last number written."""
    rows = {b"%06d" % (n % 500): b"%d" % n for n in range(max(0, last - 499), last + 1)}
    return {**rows, b"last": b"%d" % last}


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_a_reader_goes_with_owners_that_are_killed_and_come_again(
    store_path: str, log_io: str, others: list[Other]
) -> None:
    """What the owner has acknowledged before a refresh is there behind it, and nothing is torn: the
    last number says what all others must be, but for rows whose batch is written and `last` not."""
    lsmkit.open(store_path, log_io=log_io, **TINY).close()
    last = -1
    with reader_of(store_path) as reader, reader_of(store_path, follow=True) as follower:
        for life in range(4):
            other = Other(OWNER, store_path, str(last + 1), log_io)
            others.append(other)
            for _ in range(120):
                for _ in range(3):
                    acknowledged = int(other.read())
                assert int(follower[b"last"]) >= acknowledged
                reader.refresh()
                with reader.snapshot() as snapshot:
                    found = dict(snapshot)
                at = int(found[b"last"])
                assert at >= acknowledged
                wanted = expected_of(at)
                ahead = {key: int(value) for key, value in found.items() if int(value) > at}
                assert len(ahead) <= 7
                assert {k: v for k, v in found.items() if k not in ahead} == {
                    k: v for k, v in wanted.items() if k not in ahead
                }
                assert sorted(ahead.values()) == list(range(at + 1, at + 1 + len(ahead)))
            other.end(signal.SIGKILL if life % 2 == 0 else signal.SIGTERM)
            reader.refresh()
            last = max(int(value) for value in reader.values())
            assert int(reader[b"last"]) <= last
        assert reader.verify()
    with lsmkit.open(store_path, **TINY) as db:
        assert registered(store_path) == []
        assert max(int(value) for value in db.values()) == last
