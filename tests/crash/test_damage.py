"""Claim: whatever happens to the files of a store, it gives what was written or an error, never
anything else; it does not crash or hang, and leaves alone what is not its own.

Method: a small store of several tables and a log, left by a process that was killed, is damaged in one
place: a flipped bit in every byte, truncations, zeroed pages, files that are missing, swapped,
repeated, or of another kind. Then everything is read in all ways, and verified. Readers look at every
byte; owners, who write on and compact, at a sample (LSMKIT_SOAK=1: all).
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lsmkit

SOAK = os.environ.get("LSMKIT_SOAK", "0") not in ("", "0")
OWNER_CASES = 1 << 30 if SOAK else 250
ABSENT = [b"", b"key", b"key003", b"key030", b"key0705", b"key999"]

# Tables, of which some overlap, and a log with single records and a batch.
BUILD = """
import os, sys, signal, lsmkit
db = lsmkit.open(sys.argv[1], log_io=sys.argv[2], segment_bytes=12288, block_bytes=256,
                 table_bytes=4096, background_threads=1)
rows = {}
def put(first, last, text):
    pairs = {b"key%03d" % i: b"%s %d " % (text, i) * (1 + i % 3) for i in range(first, last)}
    rows.update(pairs)
    db.put_many(list(pairs), list(pairs.values()))
put(0, 40, b"old")
db.compact()
put(40, 70, b"other")
db.flush()
put(20, 50, b"new")
db.delete(b"key003")
del rows[b"key003"]
db.flush()
for i in range(60, 75):
    db[b"key%03d" % i] = rows[b"key%03d" % i] = b"log %d" % i
db.delete(b"key030")
del rows[b"key030"]
with db.batch() as batch:
    for i in range(70, 80):
        batch.put(b"key%03d" % i, b"batch %d" % i)
        rows[b"key%03d" % i] = b"batch %d" % i
db.sync()
for i in range(78, 82):
    db[b"key%03d" % i] = rows[b"key%03d" % i] = b"behind the sync"
open(sys.argv[1] + ".rows", "w").write(repr(rows))
os.kill(os.getpid(), signal.SIGKILL)
"""


class Store:
    """A store that a killed process left, and what is in it."""

    def __init__(self, path: Path, log_io: str) -> None:
        self.path = path
        source = str(Path(lsmkit.__file__).parents[1])
        subprocess.run(
            [sys.executable, "-c", BUILD, str(path), log_io],
            env={**os.environ, "PYTHONPATH": source},
            check=False,
        )
        self.rows: dict[bytes, bytes] = ast.literal_eval(Path(f"{path}.rows").read_text())
        self.files = {file.name: file.read_bytes() for file in sorted(path.iterdir())}
        self.log_io = log_io

    def restore(self) -> None:
        for file in self.path.iterdir():
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif file.is_symlink() or file.name not in self.files or not file.is_file():
                file.unlink()
        for name, content in self.files.items():
            file = self.path / name
            if not file.exists() or file.read_bytes() != content:
                file.write_bytes(content)


@pytest.fixture(scope="module", params=["mapped", "written"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    # In memory where that is to be had: thousands of syncs would be most of the time.
    shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Store(Path(folder) / "store", request.param)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    faulthandler.dump_traceback_later(250, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# --- What a store may say ------------------------------------------------------------------------


def check_error(error: lsmkit.Error) -> None:
    """An error that says what is wrong, and where."""
    assert isinstance(error, (lsmkit.CorruptionError, lsmkit.StorageError)), repr(error)
    if isinstance(error, lsmkit.CorruptionError):
        assert error.file
        assert error.offset >= 0
        assert error.found is not None
    else:
        assert error.filename
        assert error.errno


def read_all(db: lsmkit.DB, rows: dict[bytes, bytes]) -> list[lsmkit.Error]:
    """Reads in all ways; gives the errors that came, and fails for anything that is not right."""
    errors: list[lsmkit.Error] = []

    def attempt(read: Callable[[], Any], right: Any) -> None:
        try:
            found = read()
        except lsmkit.Error as error:
            check_error(error)
            errors.append(error)
        else:
            assert found == right

    pairs = sorted(rows.items())
    for key, value in pairs:
        attempt(lambda key=key: db.get(key), value)
    for key in ABSENT:
        attempt(lambda key=key: db.get(key), None)
    keys = [*rows, *ABSENT]
    attempt(lambda: db.get_many(keys), [rows.get(key) for key in keys])
    attempt(lambda: list(db.scan()), pairs)
    attempt(lambda: list(db.scan(reverse=True)), pairs[::-1])
    attempt(lambda: list(db.scan(b"key045", b"key075")), pairs_between(pairs))
    attempt(lambda: [pair for part in db.scan_columns(rows=7) for pair in pairs_of(part)], pairs)
    return errors


def pairs_between(pairs: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [pair for pair in pairs if b"key045" <= pair[0] < b"key075"]


def pairs_of(columns: Any) -> Iterator[tuple[bytes, bytes]]:
    return zip(columns.keys.to_pylist(), columns.values.to_pylist(), strict=True)


def look(path: Path, rows: dict[bytes, bytes], *, read_only: bool) -> str:
    """Opens, reads, verifies; an owner writes on, compacts, and opens again. How it went:
    "refused" (it does not open), "reported" (verify or a read tells), or "right"."""
    try:
        db = lsmkit.open(path, read_only=read_only)
    except lsmkit.Error as error:
        check_error(error)
        return "refused"
    with closing(db):
        errors = read_all(db, rows)
        report = db.verify()
        for error in report.errors:
            check_error(error)
        assert not errors or not report.ok, f"a read failed, but verify found nothing: {errors}"
        if not read_only:
            go_on(db, rows)
    if not read_only and report.ok:
        try:
            with lsmkit.open(path) as db:
                assert not read_all(db, rows)
        except lsmkit.Error as error:
            raise AssertionError("a store that was right cannot be opened again") from error
    return "right" if report.ok else "reported"


@contextlib.contextmanager
def closing(db: lsmkit.DB) -> Iterator[None]:
    """Closing flushes, and what cannot be flushed is said by an error; the store is closed then."""
    try:
        yield
    finally:
        try:
            db.close()
        except lsmkit.Error as error:
            check_error(error)
        assert db.closed


def go_on(db: lsmkit.DB, rows: dict[bytes, bytes]) -> None:
    """Writes, flushes and compacts as far as the damage lets it; what is read stays right."""
    try:
        db[b"key500"] = b"written behind the damage"
        assert db[b"key500"] == b"written behind the damage"
        db.delete(b"key500")
        db.compact()
    except lsmkit.Error:
        pass
    read_all(db, rows)


# --- Flipped bits --------------------------------------------------------------------------------


def used(store: Store, name: str) -> list[int]:
    """Offsets whose content means something: of a log, up to its last frames, and the mark."""
    content = store.files[name]
    if not name.endswith(".log"):
        return list(range(len(content)))
    end = len(content[:-4096].rstrip(b"\0"))
    return [*range(min(end + 24, len(content))), *range(len(content) - 4096, len(content) - 4080)]


def flip(file: Path, offset: int, bits: int) -> None:
    descriptor = os.open(file, os.O_RDWR)
    try:
        (byte,) = os.pread(descriptor, 1, offset)
        os.pwrite(descriptor, bytes([byte ^ bits]), offset)
    finally:
        os.close(descriptor)


def may_look_unwritten(store: Store, name: str, offset: int) -> bool:
    """In the header of the very last frame of a written log, which no mark vouches for, damage looks
    like a frame that was never completed: DURABILITY.md says so. The rows before it are all there."""
    end = len(store.files[name].rstrip(b"\0"))
    last = 24 + 8 + len(b"key081") + len(b"behind the sync")
    return store.log_io == "written" and name.endswith(".log") and end - last - 8 <= offset < end


def places(store: Store, rng: random.Random, *, everything: bool) -> list[tuple[str, int]]:
    """Every byte of every file; of those that mean nothing a sample, unless `everything`."""
    found = []
    for name, content in store.files.items():
        offsets = used(store, name)
        if everything:
            offsets = list(range(len(content)))
        else:
            offsets += rng.sample(range(len(content)), min(100, len(content)))
        found += [
            (name, offset)
            for offset in sorted(set(offsets))
            if not may_look_unwritten(store, name, offset)
        ]
    return found


def is_live(store: Store, name: str) -> bool:
    return name.endswith(".sst") or name.startswith("MANIFEST") or name == "CURRENT"


def test_a_store_without_damage_is_right(store: Store) -> None:
    for read_only in (True, False):
        store.restore()
        assert look(store.path, store.rows, read_only=read_only) == "right"
    assert len([name for name in store.files if name.endswith(".sst")]) >= 3


def test_a_reader_finds_every_flipped_bit(store: Store, rng: random.Random) -> None:
    store.restore()
    for name, offset in places(store, rng, everything=SOAK):
        bits = 1 << rng.randrange(8)
        flip(store.path / name, offset, bits)
        how = look(store.path, store.rows, read_only=True)
        flip(store.path / name, offset, bits)
        assert how != "right" or not is_live(store, name), f"{name}, byte {offset}, {bits:#x}"
    assert look(store.path, store.rows, read_only=True) == "right"


def test_an_owner_stays_right_after_any_flipped_bit(store: Store, rng: random.Random) -> None:
    cases = places(store, rng, everything=SOAK)
    for name, offset in sorted(rng.sample(cases, min(OWNER_CASES, len(cases)))):
        store.restore()
        bits = 1 << rng.randrange(8)
        flip(store.path / name, offset, bits)
        how = look(store.path, store.rows, read_only=False)
        assert how != "right" or not is_live(store, name), f"{name}, byte {offset}, {bits:#x}"


# --- Files that are shorter, longer, gone, or others -----------------------------------------------


def both_ways(store: Store, damage: Callable[[], None], earlier: list[dict[bytes, bytes]]) -> None:
    """After the damage a reader and an owner say no, or give what was written; or, where the rest
    looks like that of an earlier moment, what was there then."""
    for read_only in (True, False):
        store.restore()
        damage()
        try:
            look(store.path, store.rows, read_only=read_only)
        except AssertionError:
            store.restore()
            damage()
            with lsmkit.open(store.path, read_only=read_only) as db:
                found = dict(db.scan())
            if found not in earlier:
                raise
