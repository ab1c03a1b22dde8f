"""Claim: a store has one owner; what it was made with stays with it; and whoever cannot have it is
told why.

Method: opening in every state of the path, twice in one process, from other processes (that wait
for each other through pipes), read-only beside an owner that writes, and in the child of a fork.
"""

from __future__ import annotations

import errno
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {"segment_bytes": 8192, "block_bytes": 256, "table_bytes": 8192}


def python(code: str, *args: str) -> subprocess.Popen[str]:
    """Another process that runs `code`, with pipes to it and from it."""
    return subprocess.Popen(
        [sys.executable, "-c", "import sys, os, lsmkit\n" + code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run(code: str, *args: str) -> str:
    """What another process that runs `code` to its end has printed."""
    child = python(code, *args)
    out = child.communicate(timeout=60)[0]
    assert child.returncode == 0
    return out


OWNER = """
db = lsmkit.open(sys.argv[1])
db[b"from"] = b"owner"
print("open", flush=True)
sys.stdin.readline()
db.close()
print("closed", flush=True)
"""


@pytest.fixture
def owner(store_path: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the store open until a line is written to it."""
    with python(OWNER, store_path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child
        child.kill()


# --- Paths -----------------------------------------------------------------------------------


def test_a_path_may_be_anything_that_names_a_directory(tmp_path: pathlib.Path) -> None:
    for name in (str(tmp_path / "a"), os.fsencode(tmp_path / "b"), tmp_path / "c"):
        with lsmkit.open(name) as db:
            db[b"k"] = b"v"
            assert db.path == os.fsdecode(name)
        assert os.path.isdir(name)
        with lsmkit.open(name, create_if_missing=False) as db:
            assert db[b"k"] == b"v"


def test_a_relative_path_is_that_of_the_moment(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lsmkit.open("store", **TINY) as db:
        monkeypatch.chdir("/")
        for i in range(2000):
            db[b"%d" % i] = b"v" * 20
        db.compact()
        assert db.path == "store"
    with lsmkit.open(tmp_path / "store") as db:
        assert len(db) == 2000


def test_a_path_of_any_bytes(tmp_path: pathlib.Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xc3\xa9 %s"
    with lsmkit.open(name) as db:
        db[b"k"] = b"v"
        with pytest.raises(lsmkit.LockedError) as caught:
            lsmkit.open(name)
    assert caught.value.filename == os.fsdecode(name)
    assert os.path.isdir(name)


@pytest.mark.parametrize("wrong", [3, None, 1.5, object(), ["a"]], ids=repr)
def test_other_objects_are_no_path(wrong: Any) -> None:
    with pytest.raises(TypeError):
        lsmkit.open(wrong)


@pytest.mark.parametrize("wrong", ["", b"", "a\0b"])
def test_wrong_names_are_a_value_error(wrong: str | bytes) -> None:
    with pytest.raises(ValueError, match="path is"):
        lsmkit.open(wrong)


def test_a_missing_store_that_may_not_be_made(store_path: str) -> None:
    for options in ({"create_if_missing": False}, {"read_only": True}):
        with pytest.raises(FileNotFoundError) as caught:
            lsmkit.open(store_path, **options)
        assert isinstance(caught.value, lsmkit.StoreNotFoundError)
        assert isinstance(caught.value, lsmkit.Error)
        assert caught.value.errno == errno.ENOENT
        assert caught.value.filename == store_path
        assert not os.path.exists(store_path)
    os.mkdir(store_path)
    with pytest.raises(FileNotFoundError):
        lsmkit.open(store_path, create_if_missing=False)
    assert os.listdir(store_path) == []


def test_a_store_is_not_made_without_its_parent(store_path: str) -> None:
    with pytest.raises(FileNotFoundError):
        lsmkit.open(store_path + "/deeper/still")
    assert not os.path.exists(store_path)


def test_a_store_that_must_not_be_there(store_path: str) -> None:
    lsmkit.open(store_path, error_if_exists=True).close()
    with pytest.raises(FileExistsError) as caught:
        lsmkit.open(store_path, error_if_exists=True)
    assert isinstance(caught.value, lsmkit.StoreExistsError)
    assert isinstance(caught.value, lsmkit.Error)
    assert (caught.value.errno, caught.value.filename) == (errno.EEXIST, store_path)
    lsmkit.open(store_path).close()


def test_a_file_is_no_store(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    path.write_text("something")
    for options in ({}, {"read_only": True}, {"create_if_missing": False}):
        with pytest.raises(lsmkit.StorageError) as caught:
            lsmkit.open(path, **options)
        assert caught.value.errno == errno.ENOTDIR
    assert path.read_text() == "something"


def test_a_name_that_is_too_long_is_an_error_of_the_system(tmp_path: pathlib.Path) -> None:
    with pytest.raises((lsmkit.StorageError, ValueError)):
        lsmkit.open(tmp_path / ("x" * 300))
    with pytest.raises((lsmkit.StorageError, ValueError)):
        lsmkit.open(str(tmp_path) + "/x" * 400)


def test_files_of_others_are_left(store_path: str) -> None:
    os.mkdir(store_path)
    for name in ("notes.txt", "x.sst", "log", "MANIFEST"):
        pathlib.Path(store_path, name).write_text(name)
    for _ in range(2):
        with lsmkit.open(store_path, **TINY) as db:
            db.put_many([b"%d" % i for i in range(500)], [b"v" * 50] * 500)
            db.compact()
    for name in ("notes.txt", "x.sst", "log", "MANIFEST"):
        assert pathlib.Path(store_path, name).read_text() == name


# --- Options ---------------------------------------------------------------------------------


def test_unknown_options_are_a_type_error(store_path: str) -> None:
    for options in ({"segment_size": 1}, {"memory": 3}, {"merge": None}):
        with pytest.raises(TypeError, match="has no field"):
            lsmkit.open(store_path, **options)
    with pytest.raises(TypeError):
        lsmkit.open(store_path, "r")  # type: ignore[misc]
    assert not os.path.exists(store_path)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("segment_bytes", 4095, "from 4096 to 1073741824 bytes"),
        ("block_bytes", 255, "from 256 to 1048576"),
        ("filter_bits", 65, "from 0 to 64"),
        ("cache_bytes", -1, "from 0 to"),
        ("background_threads", 0, "from 1 to 64"),
        ("sync_interval_ms", 0, "from 1 to"),
        ("level_fanout", 1, "from 2 to 100"),
        ("compression", "gzip", "'none', 'lz4', 'zstd'"),
        ("log_io", "fast", "'auto', 'mapped', 'written'"),
    ],
)
def test_options_out_of_range_name_field_and_range(
    store_path: str, field: str, value: Any, text: str
) -> None:
    with pytest.raises(ValueError, match=f"{field} must be .*{text}"):
        lsmkit.open(store_path, **{field: value})
    assert not os.path.exists(store_path)


def test_a_durability_that_does_not_exist(store_path: str) -> None:
    with pytest.raises(ValueError, match="'process', 'periodic' or 'sync'"):
        lsmkit.open(store_path, durability="always")
    with pytest.raises(TypeError):
        lsmkit.open(store_path, durability=5)  # type: ignore[arg-type]
    assert not os.path.exists(store_path)


def test_every_option_is_taken(store_path: str) -> None:
    given: dict[str, Any] = {
        "segment_bytes": 8192,
        "block_bytes": 512,
        "table_bytes": 8192,
        "blob_bytes": 64,
        "level_base_bytes": 65536,
        "level_fanout": 5,
        "filter_bits": 7,
        "compression": "zstd",
        "bottom_compression": "none",
        "compaction": lsmkit.compaction.Leveled(),
        "ttl": 86_400.0,
        "max_garbage": 0.4,
        "max_disk_bytes": 1 << 40,
        "merge_operator": lsmkit.merge.AddInt64(),
        "retain_log_bytes": 1 << 16,
        "cache_bytes": 1 << 20,
        "memory_bytes": 1 << 26,
        "log_io": "written",
        "background_threads": 3,
        "rate_limit": 1 << 30,
        "sync_interval_ms": 50,
    }
    assert set(given) == set(lsmkit.Options().to_values())
    with lsmkit.open(store_path, options=lsmkit.Options(block_bytes=1024), **given) as db:
        assert db.options.to_values() == given
        keys = [b"%05d" % (i * 7919 % 5000) for i in range(5000)]
        db.put_many(keys, keys)
        for key in keys[:1000]:
            db[key] = key
        db.compact()
        assert list(db.items()) == [(key, key) for key in sorted(keys)]
        assert db.verify()


def test_options_of_the_store_are_taken_from_it(store_path: str) -> None:
    made = {"block_bytes": 512, "compression": "zstd", "compaction": lsmkit.compaction.Leveled()}
    with lsmkit.open(store_path, cache_bytes=1 << 20, **made) as db:
        assert db.options.cache_bytes == 1 << 20
    with lsmkit.open(store_path) as db:
        for name, value in made.items():
            assert getattr(db.options, name) == value
        assert db.options.cache_bytes == lsmkit.Options().cache_bytes, "of the process"
    with lsmkit.open(store_path, read_only=True) as db:
        assert db.options.block_bytes == 512
    with lsmkit.open(store_path, options=lsmkit.Options(block_bytes=1024)) as db:
        assert (db.options.block_bytes, db.options.compression) == (1024, "zstd")
    with lsmkit.open(store_path) as db:
        assert db.options.block_bytes == 1024


def test_options_may_change_with_every_opening(store_path: str) -> None:
    model: dict[bytes, bytes] = {}
    choices: list[dict[str, Any]] = [
        {"segment_bytes": 4096, "compression": "none", "filter_bits": 0},
        {"segment_bytes": 16384, "block_bytes": 4096, "log_io": "written"},
        {"compression": "zstd", "compaction": lsmkit.compaction.Leveled()},
        {
            "segment_bytes": 8192,
            "compression": "lz4",
            "compaction": lsmkit.compaction.LazyLeveled(),
        },
        {"block_bytes": 256, "bottom_compression": "zstd", "cache_bytes": 0},
    ]
    for round_, options in enumerate(choices * 2):
        with lsmkit.open(store_path, table_bytes=8192, **options) as db:
            assert dict(db) == model
            for i in range(400):
                key = b"%d" % (i * 31 % 1000)
                db[key] = model[key] = b"%d of round %d" % (i, round_)
            if round_ % 3 == 0:
                db.compact()
            assert dict(db) == model
    with lsmkit.open(store_path) as db:
        assert db.verify()


# --- One owner -------------------------------------------------------------------------------


def test_a_second_opener_in_this_process_is_refused(store_path: str) -> None:
    before = time.time()
    with lsmkit.open(store_path) as db:
        for path in (store_path, store_path + "/", os.path.join(store_path, "..", "store")):
            with pytest.raises(lsmkit.LockedError) as caught:
                lsmkit.open(path)
            assert isinstance(caught.value, OSError)
            assert caught.value.pid == os.getpid()
            assert caught.value.since is not None
            assert before - 1 <= caught.value.since <= time.time()
        assert caught.value.filename is not None
        assert os.path.samefile(caught.value.filename, store_path)
        db[b"still"] = b"mine"
    with lsmkit.open(store_path) as db:
        assert db[b"still"] == b"mine"


def test_a_link_to_a_store_is_the_same_store(store_path: str) -> None:
    with lsmkit.open(store_path):
        os.symlink(store_path, store_path + "-link")
        with pytest.raises(lsmkit.LockedError):
            lsmkit.open(store_path + "-link")


def test_another_process_is_refused_and_told_who(
    store_path: str, owner: subprocess.Popen[str]
) -> None:
    with pytest.raises(lsmkit.LockedError) as caught:
        lsmkit.open(store_path)
    assert caught.value.pid == owner.pid
    assert caught.value.since is not None
    assert abs(caught.value.since - time.time()) < 60
    assert f"process {owner.pid}" in str(caught.value)


def test_a_refused_opener_does_not_disturb_the_owner(
    store_path: str, owner: subprocess.Popen[str]
) -> None:
    """With POSIX locks, closing any descriptor of the file gives the lock up."""
    for _ in range(3):
        with pytest.raises(lsmkit.LockedError):
            lsmkit.open(store_path, timeout=0)
    with lsmkit.open(store_path, read_only=True) as reader:
        assert reader[b"from"] == b"owner"
    attempt = "try: lsmkit.open(sys.argv[1])\nexcept lsmkit.LockedError: print('held')"
    assert run(attempt, store_path) == "held\n"


def test_the_lock_goes_with_the_process(store_path: str, owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.wait()
    with lsmkit.open(store_path) as db:
        assert db[b"from"] == b"owner"


def test_timeout_waits_for_the_owner(store_path: str, owner: subprocess.Popen[str]) -> None:
    def let_go() -> None:
        assert owner.stdin is not None
        owner.stdin.write("\n")
        owner.stdin.flush()

    began = time.monotonic()
    with pytest.raises(lsmkit.LockedError):
        lsmkit.open(store_path, timeout=0.15)
    assert time.monotonic() - began >= 0.15
    timer = threading.Timer(0.1, let_go)
    timer.start()
    with lsmkit.open(store_path, timeout=60) as db:
        assert db[b"from"] == b"owner"
    timer.join()


def test_waiting_for_the_owner_can_be_interrupted(store_path: str) -> None:
    code = """
try:
    print("waits", flush=True)
    lsmkit.open(sys.argv[1], timeout=1e9)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    with lsmkit.open(store_path):
        child = python(code, store_path)
        assert child.stdout is not None
        with child:
            assert child.stdout.readline() == "waits\n"
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "interrupted\n"


def test_options_are_those_of_whoever_owned_it_before(store_path: str) -> None:
    """An opener that waits takes what the store has when it gets it, not when it asked."""
    results: list[lsmkit.DB] = []
    first = lsmkit.open(store_path)
    waiter = threading.Thread(
        target=lambda: results.append(lsmkit.open(store_path, timeout=60, filter_bits=3))
    )
    waiter.start()
    first.close()
    waiter.join()
    [second] = results
    try:
        with pytest.raises(lsmkit.LockedError):
            lsmkit.open(store_path, block_bytes=333)
    finally:
        second.close()
    with lsmkit.open(store_path) as db:
        assert (db.options.filter_bits, db.options.block_bytes) == (3, lsmkit.Options().block_bytes)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_below_zero_is_a_value_error(store_path: str, timeout: float) -> None:
    with pytest.raises(ValueError, match=r"timeout is .*0 or more"):
        lsmkit.open(store_path, timeout=timeout)


def test_a_failed_opening_leaves_the_store_free(store_path: str) -> None:
    lsmkit.open(store_path).close()
    for options in ({"error_if_exists": True}, {"segment_bytes": 1}, {"durability": "no"}):
        with pytest.raises((FileExistsError, ValueError)):
            lsmkit.open(store_path, **options)
    lsmkit.open(store_path).close()


# --- Read-only -------------------------------------------------------------------------------


def listing(path: str) -> dict[str, tuple[int, int]]:
    found = {}
    for entry in os.scandir(path):
        info = entry.stat()
        found[entry.name] = (info.st_size, info.st_mtime_ns)
    return found


@pytest.mark.parametrize("state", ["closed", "killed"])
def test_reading_only_changes_no_file(store_path: str, state: str) -> None:
    code = """
db = lsmkit.open(sys.argv[1], segment_bytes=8192, table_bytes=8192, block_bytes=256)
for i in range(1000):
    db[b"%04d" % i] = b"value %d" % i
if sys.argv[2] == "closed": db.close()
os._exit(0)
"""
    run(code, store_path, state)
    before = listing(store_path)
    with lsmkit.open(store_path, read_only=True) as db:
        assert dict(db) == {b"%04d" % i: b"value %d" % i for i in range(1000)}
        assert db.get_many([b"0007", b"x"]) == [b"value 7", None]
        assert [len(part) for part in db.scan_columns()] == [1000]
        with db.snapshot() as snapshot:
            assert len(snapshot) == 1000
        assert db.verify().ok
        assert db.wait_idle()
        assert db.pressure == 0
        assert sum(level.rows for level in db.stats().levels) + db.stats().recovery.records >= 1000
        db.sync()
    assert listing(store_path) == before


WRITES = {
    "put": lambda db: db.put(b"k", b"v"),
    "put buffer": lambda db: db.put(bytearray(b"k"), b"v"),
    "put sync": lambda db: db.put(b"k", b"v", durability="sync"),
    "setitem": lambda db: db.__setitem__(b"k", b"v"),
    "delete": lambda db: db.delete(b"there"),
    "delitem": lambda db: db.__delitem__(b"there"),
    "put_many": lambda db: db.put_many([b"k"], [b"v"]),
    "delete_many": lambda db: db.delete_many([b"there"]),
    "batch": lambda db: write_batch(db),
    "update": lambda db: db.update({b"k": b"v"}),
    "setdefault": lambda db: db.setdefault(b"k", b"v"),
    "pop": lambda db: db.pop(b"there"),
    "popitem": lambda db: db.popitem(),
    "clear": lambda db: db.clear(),
    "flush": lambda db: db.flush(),
    "compact": lambda db: db.compact(),
    "compact range": lambda db: db.compact(b"a", b"b"),
}


def write_batch(db: lsmkit.DB) -> None:
    with db.batch() as batch:
        batch.put(b"k", b"v")


@pytest.mark.parametrize("name", WRITES)
def test_writing_to_a_read_only_store_is_an_error(store_path: str, name: str) -> None:
    with lsmkit.open(store_path) as db:
        db[b"there"] = b"1"
    with lsmkit.open(store_path, read_only=True) as db:
        with pytest.raises(lsmkit.ReadOnlyError, match="read-only"):
            WRITES[name](db)
        assert dict(db) == {b"there": b"1"}


def test_many_may_read_a_store_that_is_owned(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many([b"%d" % i for i in range(1000)], [b"v"] * 1000)
        readers = [lsmkit.open(store_path, read_only=True) for _ in range(3)]
        db[b"later"] = b"1"
        del db[b"0"]
        db.compact()
        late = lsmkit.open(store_path, read_only=True)
        db.clear()
        db.compact()
        for reader in readers:
            assert len(reader) == 1000
            assert b"later" not in reader
            assert reader[b"0"] == b"v"
            assert reader.verify()
            reader.close()
        assert len(late) == 1000
        assert late[b"later"] == b"1"
        late.close()
        assert not db


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_a_reader_beside_a_busy_owner_sees_a_moment(store_path: str, log_io: str) -> None:
    """The owner appends numbers; a reader finds an unbroken beginning of them, whatever flush and
    compaction do with the files meanwhile."""
    stop = threading.Event()
    db = lsmkit.open(store_path, log_io=log_io, **TINY)
    acknowledged = 0

    def write() -> None:
        nonlocal acknowledged
        while not stop.is_set():
            rows = range(acknowledged, acknowledged + 10)
            db.put_many([b"%08d" % i for i in rows], [b"%d" % i for i in rows])
            acknowledged += 10

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(15):
            least = acknowledged
            with lsmkit.open(store_path, read_only=True) as reader:
                most = acknowledged + 10
                keys = list(reader)
                assert least <= len(keys) <= most
                assert len(keys) % 10 == 0
                assert keys == [b"%08d" % i for i in range(len(keys))]
                assert reader.get_many(keys[::50]) == [b"%d" % i for i in range(0, len(keys), 50)]
                assert len(reader) == len(keys)
                assert reader.verify()
    finally:
        stop.set()
        writer.join()
        db.close()


def test_a_reader_beside_another_process(store_path: str, owner: subprocess.Popen[str]) -> None:
    with lsmkit.open(store_path, read_only=True) as db:
        assert dict(db) == {b"from": b"owner"}
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with lsmkit.open(store_path, read_only=True) as db:
        assert dict(db) == {b"from": b"owner"}


# --- fork ------------------------------------------------------------------------------------


def in_child(check: Any) -> int:
    """Runs `check` in a forked child, which then ends as a program does; its exit code."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            check()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


READS = {
    "get": lambda db: db.get(b"a"),
    "get tables": lambda db: db.get(b"in tables"),
    "contains": lambda db: b"a" in db,
    "len": len,
    "iter": iter,
    "scan": lambda db: db.scan(),
    "scan_columns": lambda db: db.scan_columns(),
    "get_many": lambda db: db.get_many([b"a"]),
    "snapshot": lambda db: db.snapshot(),
    "stats": lambda db: db.stats(),
    "verify": lambda db: db.verify(),
    "sync": lambda db: db.sync(),
    "wait_idle": lambda db: db.wait_idle(),
    "approximate_size": lambda db: db.approximate_size(),
}


def test_a_child_has_a_closed_store_and_the_parent_its_own(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db[b"in tables"] = b"1"
        db.flush()
        db[b"a"] = b"1"
        scan, columns, snapshot = db.scan(), db.scan_columns(), db.snapshot()
        other: list[Any] = [lambda: next(scan), lambda: next(columns), lambda: snapshot.get(b"a")]

        def check() -> None:
            calls = [lambda f=f: f(db) for f in [*READS.values(), *WRITES.values()]]
            for call in [*other, *calls]:
                with pytest.raises(lsmkit.ClosedError, match="parent process"):
                    call()
            assert db.closed
            assert "closed" in repr(db)
            with pytest.raises(lsmkit.LockedError) as caught:
                lsmkit.open(store_path)
            assert caught.value.pid == os.getppid()
            with lsmkit.open(store_path, read_only=True) as reader:
                assert reader[b"a"] == b"1"
            with lsmkit.open(store_path + "-child", **TINY) as own:
                own.put_many([b"%d" % i for i in range(1000)], [b"v" * 20] * 1000)
                own.compact()
                assert len(own) == 1000
            began = time.monotonic()
            db.close()
            db.close()
            assert time.monotonic() - began < 2, "there is no thread to wait for"
            snapshot.close()

        assert in_child(check) == 0
        assert list(scan) == [(b"a", b"1"), (b"in tables", b"1")]
        assert snapshot[b"a"] == b"1"
        db[b"b"] = b"2"
        db.compact()
        assert dict(db) == {b"a": b"1", b"b": b"2", b"in tables": b"1"}
        assert db.verify()
    with lsmkit.open(store_path) as db:
        assert len(db) == 3


def test_a_child_that_ends_normally_ends_at_once(store_path: str) -> None:
    code = """
import time
db = lsmkit.open(sys.argv[1])
db[b"a"] = b"1"
scan, snapshot = db.scan(), db.snapshot()
began = time.monotonic()
if os.fork() == 0:
    sys.exit(7)
status = os.wait()[1]
print(os.waitstatus_to_exitcode(status), time.monotonic() - began < 3, dict(db))
"""
    assert run(code, store_path) == "7 True {b'a': b'1'}\n"
    with lsmkit.open(store_path) as db:
        assert dict(db) == {b"a": b"1"}


def test_forks_of_a_busy_parent(store_path: str) -> None:
    """Children are made while threads write, flush and compact; no lock of theirs is inherited."""
    stop = threading.Event()
    with lsmkit.open(store_path, **TINY) as db:

        def write(n: int) -> None:
            i = 0
            while not stop.is_set():
                db.put(b"%d %06d" % (n, i % 3000), b"v" * 30)
                i += 1

        threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        try:

            def check() -> None:
                for call in READS.values():
                    with pytest.raises(lsmkit.ClosedError):
                        call(db)
                with pytest.raises(lsmkit.ClosedError):
                    db.put(b"k", b"v")
                with lsmkit.open(f"{store_path}-{os.getpid()}", **TINY) as own:
                    own[b"a"] = b"1"
                    own.flush()
                    assert own[b"a"] == b"1"

            for _ in range(10):
                assert in_child(check) == 0
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert db.verify()


# --- The last reference ----------------------------------------------------------------------


def test_the_last_reference_closes_the_store(store_path: str) -> None:
    db = lsmkit.open(store_path)
    db[b"a"] = b"1"
    get = db.get
    del db
    assert get(b"a") == b"1", "a bound method is a reference"
    del get
    with lsmkit.open(store_path) as again:
        assert again[b"a"] == b"1"


def test_a_store_in_a_cycle_is_closed_by_the_collector(store_path: str) -> None:
    class Holder:
        pass

    holder = Holder()
    holder.me = holder  # type: ignore[attr-defined]
    holder.db = lsmkit.open(store_path)  # type: ignore[attr-defined]
    holder.db[b"a"] = b"1"  # type: ignore[attr-defined]
    holder.scan = holder.db.scan()  # type: ignore[attr-defined]
    del holder
    gc.collect()
    with lsmkit.open(store_path) as db:
        assert db[b"a"] == b"1"


CHILDREN: dict[str, Callable[[lsmkit.DB], Any]] = {
    "scan": lambda db: db.scan(),
    "columns": lambda db: db.scan_columns(),
    "cursor": lambda db: db.cursor(),
    "snapshot": lambda db: db.snapshot(),
    "scan of a snapshot": lambda db: db.snapshot().scan(),
    "cursor of a snapshot": lambda db: db.snapshot().cursor(),
    "items": lambda db: db.items(),
    "batch": lambda db: db.batch(),
    "transaction": lambda db: db.transaction(),
}


@pytest.mark.parametrize("name", CHILDREN)
def test_what_a_store_has_given_is_a_reference(store_path: str, name: str) -> None:
    db = lsmkit.open(store_path)
    db[b"a"] = b"1"
    child = CHILDREN[name](db)
    del db
    gc.collect()
    with pytest.raises(lsmkit.LockedError):
        lsmkit.open(store_path)
    if hasattr(child, "seek"):
        assert child.seek_to_first()
        assert child.value == b"1"
    elif name == "batch":
        with child:
            child.put(b"a", b"1")
    elif name == "columns":
        assert len(next(child)) == 1
    else:
        assert next(iter(child)) in (b"a", (b"a", b"1"))
    del child
    with lsmkit.open(store_path) as again:
        assert again[b"a"] == b"1"
