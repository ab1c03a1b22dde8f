"""Claim: closing refuses new calls, waits for those under way, keeps what was written, and never
hangs or crashes, whoever closes, when, and how the program ends.

Method: stores closed by hand, by `with`, by threads in the middle of everything, and programs that
end without closing, in every way that a program can end.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {"segment_bytes": 8192, "block_bytes": 256, "table_bytes": 8192}

CALLS: dict[str, Callable[[lsmkit.DB], Any]] = {
    "changes": lambda db: db.changes(),
    "hot_keys": lambda db: db.hot_keys(1),
    "get": lambda db: db.get(b"a"),
    "getitem": lambda db: db[b"a"],
    "contains": lambda db: b"a" in db,
    "get_many": lambda db: db.get_many([b"a"]),
    "get_many nothing": lambda db: db.get_many([]),
    "put": lambda db: db.put(b"a", b"1"),
    "put buffer": lambda db: db.put(bytearray(b"a"), b"1"),
    "put sync": lambda db: db.put(b"a", b"1", durability="sync"),
    "setitem": lambda db: db.__setitem__(b"a", b"1"),
    "delete": lambda db: db.delete(b"a"),
    "delitem": lambda db: db.__delitem__(b"a"),
    "put_many": lambda db: db.put_many([b"a"], [b"1"]),
    "put_many nothing": lambda db: db.put_many([], []),
    "delete_many": lambda db: db.delete_many([b"a"]),
    "delete_many nothing": lambda db: db.delete_many([]),
    "delete_range": lambda db: db.delete_range(b"a", b"b"),
    "delete_range nothing": lambda db: db.delete_range(b"b", b"a"),
    "merge": lambda db: db.merge(b"a", b"1"),
    "merge_many": lambda db: db.merge_many([b"a"], [b"1"]),
    "merge_many nothing": lambda db: db.merge_many([], []),
    "batch": lambda db: db.batch(),
    "write": lambda db: db.write(one_put()),
    "transaction": lambda db: db.transaction(),
    "run": lambda db: db.run(lambda t: None),
    "position": lambda db: db.position("source"),
    "write nothing": lambda db: db.write(lsmkit.WriteBatch()),
    "scan": lambda db: db.scan(),
    "scan_keys": lambda db: db.scan_keys(),
    "scan_values": lambda db: db.scan_values(),
    "scan_columns": lambda db: db.scan_columns(),
    "iter": iter,
    "reversed": reversed,
    "len": len,
    "bool": bool,
    "items": lambda db: list(db.items()),
    "keys": lambda db: list(db.keys()),
    "values": lambda db: list(db.values()),
    "equal": lambda db: db == {},
    "setdefault": lambda db: db.setdefault(b"a", b"1"),
    "pop": lambda db: db.pop(b"a", None),
    "popitem": lambda db: db.popitem(),
    "update": lambda db: db.update({b"a": b"1"}),
    "update nothing": lambda db: db.update({}),
    "clear": lambda db: db.clear(),
    "snapshot": lambda db: db.snapshot(),
    "cursor": lambda db: db.cursor(),
    "refresh": lambda db: db.refresh(),
    "sync": lambda db: db.sync(),
    "flush": lambda db: db.flush(),
    "compact": lambda db: db.compact(),
    "compact nothing": lambda db: db.compact(b"b", b"a"),
    "wait_idle": lambda db: db.wait_idle(),
    "ingest": lambda db: db.ingest([b"a"], [b"1"]),
    "ingest nothing": lambda db: db.ingest([], []),
    "checkpoint": lambda db: db.checkpoint("copy"),
    "verify": lambda db: db.verify(),
    "stats": lambda db: db.stats(),
    "approximate_size": lambda db: db.approximate_size(),
    "pressure": lambda db: db.pressure,
    "keyspace": lambda db: db.keyspace("a"),
    "keyspaces": lambda db: db.keyspaces(),
    "drop_keyspace": lambda db: db.drop_keyspace("a"),
    "enter": lambda db: db.__enter__(),
}


def one_put() -> lsmkit.WriteBatch:
    batch = lsmkit.WriteBatch()
    batch.put(b"a", b"1")
    return batch


def test_every_call_is_known_here() -> None:
    """A method that is added must be added above, or stand here."""
    harmless = {"close", "closed", "path", "options", "aio"}
    public = {name for name in dir(lsmkit.DB) if not name.startswith("_")}
    assert public - harmless <= {name.split()[0] for name in CALLS}


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> lsmkit.DB:
    db = lsmkit.open(tmp_path_factory.mktemp("closed") / "store")
    db[b"a"] = b"1"
    db.close()
    return db


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_store_refuses(closed: lsmkit.DB, name: str) -> None:
    with pytest.raises(lsmkit.ClosedError, match="the store is closed") as caught:
        CALLS[name](closed)
    assert isinstance(caught.value, ValueError)


def test_what_a_closed_store_still_says(closed: lsmkit.DB) -> None:
    assert closed.closed is True
    assert closed.path.endswith("store")
    assert closed.options == lsmkit.Options()
    closed.close()
    assert closed.closed


def test_a_wrong_argument_is_named_before_the_closing(closed: lsmkit.DB) -> None:
    with pytest.raises((TypeError, lsmkit.ClosedError)):
        closed.put("text", b"")  # type: ignore[arg-type]


def test_with_closes(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        assert db.closed is False
        db[b"a"] = b"1"
    assert db.closed
    with pytest.raises(ZeroDivisionError), lsmkit.open(store_path) as db:  # noqa: PT012
        db[b"b"] = b"2"
        1 / 0  # noqa: B018
    assert db.closed
    with lsmkit.open(store_path) as db:
        assert dict(db) == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_a_closed_store_has_all_that_was_written(store_path: str, log_io: str) -> None:
    model = {}
    for round_ in range(4):
        with lsmkit.open(store_path, log_io=log_io, **TINY) as db:
            for i in range(700):
                db[b"%d" % i] = model[b"%d" % i] = b"%d.%d" % (round_, i)
            if round_ == 1:
                db.delete(b"5")
                del model[b"5"]
        with lsmkit.open(store_path) as db:
            assert db.stats().recovery.records == 0
            assert dict(db) == model


def test_closing_by_many_threads_at_once(store_path: str) -> None:
    """Whoever returns from close() may open the store."""
    for _ in range(10):
        db = lsmkit.open(store_path, **TINY)
        db.put_many([b"%d" % i for i in range(200)], [b"v" * 20] * 200)
        errors: list[BaseException] = []
        barrier, turn = threading.Barrier(4), threading.Lock()

        def close(
            db: lsmkit.DB = db,
            barrier: threading.Barrier = barrier,
            turn: threading.Lock = turn,
            errors: list[BaseException] = errors,
        ) -> None:
            barrier.wait()
            db.close()
            try:
                with turn:
                    lsmkit.open(store_path).close()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors


WORK: dict[str, Callable[[lsmkit.DB, int], Any]] = {
    "put": lambda db, i: db.put(b"%06d" % (i % 5000), b"v" * 40),
    "put sync": lambda db, i: db.put(b"%06d" % (i % 5000), b"v", durability="sync"),
    "batch": lambda db, i: db.put_many([b"%d.%d" % (i % 500, j) for j in range(20)], [b"v"] * 20),
    "get": lambda db, i: db.get(b"%06d" % (i % 5000)),
    "get_many": lambda db, i: db.get_many([b"%06d" % (j % 5000) for j in range(i, i + 50)]),
    "scan": lambda db, i: sum(1 for _ in db.scan()),
    "scan_columns": lambda db, i: sum(len(part) for part in db.scan_columns(rows=100)),
    "snapshot": lambda db, i: db.snapshot().get(b"000001"),
    "flush": lambda db, i: db.flush(),
    "compact": lambda db, i: db.compact(),
    "wait_idle": lambda db, i: db.wait_idle(),
    "verify": lambda db, i: db.verify(),
    "stats": lambda db, i: db.stats(),
    "sync": lambda db, i: db.sync(),
}


@pytest.mark.parametrize("name", WORK)
def test_closing_while_it_works(store_path: str, name: str) -> None:
    """The call under way ends well or with ClosedError, and every later one with ClosedError."""
    for _ in range(3):
        db = lsmkit.open(store_path, **TINY)
        db.put_many([b"%06d" % i for i in range(3000)], [b"v" * 30] * 3000)
        done: list[int] = []
        ends: list[BaseException] = []

        def work(
            db: lsmkit.DB = db, done: list[int] = done, ends: list[BaseException] = ends
        ) -> None:
            try:
                i = 0
                while True:
                    WORK[name](db, i)
                    i += 1
                    done.append(i)
            except BaseException as error:
                ends.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        while len(done) < 3 and not ends:
            pass
        db.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a call hangs"
        assert [type(end) for end in ends] == [lsmkit.ClosedError] * 2, ends
    with lsmkit.open(store_path) as db:
        assert db.verify()


def test_closing_wakes_a_writer_that_waits_for_room(store_path: str) -> None:
    """Writers that are stopped, because flush is behind, are told at once."""
    db = lsmkit.open(store_path, segment_bytes=4096, background_threads=1)
    ends: list[BaseException] = []

    def write() -> None:
        try:
            while True:
                db.put_many([b"%d" % i for i in range(100)], [b"v" * 100] * 100)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    while db.stats().flushes.count < 5:
        pass
    db.close()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert [type(end) for end in ends] == [lsmkit.ClosedError] * 4, ends


# --- Programs that end -----------------------------------------------------------------------

PROGRAMS = {
    "falls off the end": "",
    "scan and snapshot alive": "scan, columns, snap = db.scan(), db.scan_columns(), db.snapshot()\n"
    "next(scan); next(columns)",
    "sys.exit": "sys.exit(0)",
    "store in a module": "import builtins; builtins.db = db; del db",
    "store in a cycle": "class C: pass\nc = C(); c.c = c; c.db = db; del db, c",
    "a daemon thread writes": """
import threading
begun = threading.Event()
def write():
    i = 0
    while not db.closed:
        try: db.put(b"x%d" % (i % 1000), b"v" * 50); i += 1
        except lsmkit.ClosedError: pass
        if i == 2000: begun.set()
threading.Thread(target=write, daemon=True).start()
begun.wait()""",
    "daemon threads read": """
import threading
begun = threading.Barrier(5)
def read():
    first = True
    while not db.closed:
        try: db.get_many([b"a", b"b"]); list(db.scan()); db.stats()
        except lsmkit.ClosedError: pass
        if first: begun.wait(); first = False
for _ in range(4): threading.Thread(target=read, daemon=True).start()
begun.wait()""",
    "a daemon thread flushes and compacts": """
import threading
begun = threading.Event()
def work():
    while not db.closed:
        try: db.put_many([b"x%d" % i for i in range(500)], [b"v"] * 500); db.flush(); db.compact()
        except lsmkit.ClosedError: pass
        begun.set()
threading.Thread(target=work, daemon=True).start()
begun.wait()""",
    "a thread that ends later": """
import threading
main = threading.main_thread()
def work():
    main.join()
    for i in range(100): db.put(b"late%d" % i, b"v")
threading.Thread(target=work).start()""",
    "atexit": "import atexit; atexit.register(lambda: db.put(b'late', b'v'))",
    "an exception": "sys.excepthook = lambda *a: None\nraise SystemExit(0)",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_ends_without_closing(store_path: str, name: str) -> None:
    program = (
        "import sys, lsmkit\n"
        "db = lsmkit.open(sys.argv[1], segment_bytes=8192, table_bytes=8192)\n"
        "db.put_many([b'a', b'b'], [b'1', b'2'])\n" + PROGRAMS[name]
    )
    child = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, store_path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (child.returncode, child.stderr) == (0, "")
    with lsmkit.open(store_path) as db:
        assert db.stats().recovery.records == 0, "it was closed in order"
        assert (db[b"a"], db[b"b"]) == (b"1", b"2")
        if "late" in PROGRAMS[name]:
            assert any(db.scan_keys(prefix=b"late"))
        assert db.verify()
