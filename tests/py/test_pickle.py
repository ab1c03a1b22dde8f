"""Claim: a store's handle travels to other processes as its path and options, and opens read-only
where it arrives; everything else that holds memory of the core is neither pickled nor copied.

Method: handles are pickled in each protocol, and sent to workers of multiprocessing, forked and
spawned, among them those of a loader with the protocol of PyTorch's. Every kind of object that a
program can hold of a store is given to pickle and to copy; a copy of a pointer would be freed
twice, which kills the interpreter.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import lsmkit

MAKERS: dict[str, Callable[[lsmkit.DB], object]] = {
    "batch": lambda db: filled(lsmkit.WriteBatch()),
    "batch of a store": lambda db: filled(db.batch()),
    "snapshot": lambda db: db.snapshot(),
    "scan": lambda db: db.scan(),
    "scan of columns": lambda db: db.scan_columns(),
    "column": lambda db: next(db.scan_columns()).keys,
}
WAYS: dict[str, Callable[[object], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {n}": lambda x, n=n: pickle.dumps(x, n) for n in range(6)},  # type: ignore[misc]
}


def filled(batch: lsmkit.WriteBatch) -> lsmkit.WriteBatch:
    batch.put(b"key", b"value")
    return batch


# --- A handle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_handle_opens_read_only_where_it_arrives(db: lsmkit.DB, protocol: int) -> None:
    db[b"a"] = b"1"
    text = pickle.dumps(db, protocol)
    db[b"b"] = b"2"
    with pickle.loads(text) as arrived:
        assert type(arrived) is lsmkit.DB
        assert dict(arrived) == {b"a": b"1", b"b": b"2"}
        assert os.path.samefile(arrived.path, db.path)
        with pytest.raises(lsmkit.ReadOnlyError):
            arrived[b"c"] = b"3"
    db[b"c"] = b"3"
    assert len(db) == 3


def test_a_handle_takes_its_options_along(store_path: str) -> None:
    options = lsmkit.Options(cache_bytes=12345, segment_bytes=8192)
    with lsmkit.open(store_path, options=options) as db, pickle.loads(pickle.dumps(db)) as arrived:
        assert arrived.options == db.options
        assert arrived.options.cache_bytes == 12345


def test_a_path_is_that_of_the_place_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with lsmkit.open("store") as db:
        db[b"a"] = b"1"
        text = pickle.dumps(db)
    monkeypatch.chdir("/")
    with pickle.loads(text) as arrived:
        assert arrived[b"a"] == b"1"
        assert arrived.path == str(tmp_path / "store")


def test_a_reader_and_a_closed_handle_are_pickled_too(store_path: str) -> None:
    with lsmkit.open(store_path) as db:
        db[b"a"] = b"1"
    with lsmkit.open(store_path, read_only=True) as reader:
        assert len(reader) == 1
    for handle in (db, reader):
        with pickle.loads(pickle.dumps(handle)) as arrived:
            assert dict(arrived) == {b"a": b"1"}


def test_a_store_that_is_gone_is_not_found_where_it_arrives(db: lsmkit.DB, store_path: str) -> None:
    db.close()
    os.rename(store_path, store_path + "-elsewhere")
    with pytest.raises(lsmkit.StoreNotFoundError):
        pickle.loads(pickle.dumps(db))
    assert not os.path.exists(store_path)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_a_handle_is_not_copied(db: lsmkit.DB, way: Callable[[lsmkit.DB], object]) -> None:
    with pytest.raises(TypeError, match="one owner"):
        way(db)


# --- Other processes ---------------------------------------------------------------------------

PROGRAM = """
    import multiprocessing, os, pickle, sys
    import lsmkit

    def look(db):
        return os.getpid(), dict(db)

    def write(db):
        try:
            db[b"x"] = b"1"
        except lsmkit.ReadOnlyError as error:
            return error

    # What a loader takes: a length, and an item for each index.
    class Rows:
        def __init__(self, db):
            self.db = db
            self.keys = list(db)

        def __len__(self):
            return len(self.keys)

        def __getitem__(self, i):
            return self.keys[i], self.db[self.keys[i]]

    # In a forked worker the handle is the parent's, and closed; a pickled one is not.
    def reopen(rows):
        try:
            rows.db.get(b"a")
            raise AssertionError("the parent's handle is used in a child")
        except lsmkit.ClosedError:
            rows.db = pickle.loads(pickle.dumps(rows.db))

    def worker(rows, init, todo, done):
        if init is not None:
            init(rows)
        for indices in iter(todo.get, None):
            done.put([rows[i] for i in indices])

    def load(context, rows, workers, size, init):
        todo, done = context.Queue(), context.Queue()
        started = [
            context.Process(target=worker, args=(rows, init, todo, done)) for _ in range(workers)
        ]
        for process in started:
            process.start()
        batches = range(0, len(rows), size)
        for i in batches:
            todo.put(list(range(i, min(i + size, len(rows)))))
        for _ in started:
            todo.put(None)
        for _ in batches:
            yield done.get(timeout=60)
        for process in started:
            process.join()
            assert process.exitcode == 0, process.exitcode

    if __name__ == "__main__":
        method = sys.argv[2]
        context = multiprocessing.get_context(method)
        with lsmkit.open(sys.argv[1], segment_bytes=8192, block_bytes=512) as db:
            db.put_many([b"%04d" % i for i in range(1000)], [b"%d" % i for i in range(1000)])
            db.flush()
            db[b"late"] = b"in the log"
            with context.Pool(2) as pool:
                for pid, found in pool.map(look, [db] * 4):
                    assert pid != os.getpid()
                    assert found == dict(db)
                assert isinstance(pool.apply(write, (db,)), lsmkit.ReadOnlyError)
            init = reopen if method == "fork" else None
            rows = [row for batch in load(context, Rows(db), 3, 32, init) for row in batch]
            assert sorted(rows) == list(db.items())
            db[b"still"] = b"the owner"
        print("all rows")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_multiprocessing_and_of_a_loader_read(tmp_path: Path, method: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path / "store"), method],
        env={**os.environ, "PYTHONPATH": str(Path(lsmkit.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stderr, done.stdout) == ("", "all rows\n")


# --- Everything else ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", MAKERS)
def test_what_holds_memory_of_the_core_is_refused(db: lsmkit.DB, kind: str, way: str) -> None:
    db.put(b"a", b"1")
    held = MAKERS[kind](db)
    with pytest.raises(TypeError):
        WAYS[way](held)
    assert db[b"a"] == b"1"
