"""Claim: whatever happens to the files of a store, it gives what was written or an error, never
anything else; it does not crash or hang, and leaves alone what is not its own.

Method: a small store of several tables and a log, left by a process that was killed, is damaged in
one place: a flipped bit in a byte, truncations, zeroed pages, files that are missing, swapped,
repeated, or of another kind. Then everything is read in all ways, and verified: by a reader, and by
an owner, who writes on and compacts. Flipped are bytes sampled by the seed; LSMKIT_SOAK=1: all.
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import lsmkit

SOAK = os.environ.get("LSMKIT_SOAK", "0") not in ("", "0")
pytestmark = pytest.mark.timeout(3600 if SOAK else 300)
READER_CASES = 1 << 30 if SOAK else 3000
OWNER_CASES = 1 << 30 if SOAK else 500
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
earlier = [dict(rows)]
for i in range(60, 75):
    db[b"key%03d" % i] = rows[b"key%03d" % i] = b"log %d" % i
db.delete(b"key030")
del rows[b"key030"]
with db.batch() as batch:
    for i in range(70, 80):
        batch.put(b"key%03d" % i, b"batch %d" % i)
        rows[b"key%03d" % i] = b"batch %d" % i
db.sync()
earlier.append(dict(rows))
for i in range(78, 82):
    db[b"key%03d" % i] = rows[b"key%03d" % i] = b"behind the sync"
for name, what in ("rows", rows), ("earlier", earlier):
    with open(sys.argv[1] + "." + name, "w") as file:
        file.write(repr(what))
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
        (manifest,) = [text for name, text in self.files.items() if name.startswith("MANIFEST")]
        retired = max(map(int, re.findall(rb'"log_retired":(\d+)', manifest)))
        # Logs whose records are in tables: an owner removes them, or uses them again.
        self.retired = {f"{number:06}.log" for number in range(retired + 1)}
        # What the tables hold, and that with what the log had when it was synced.
        self.earlier: list[dict[bytes, bytes]] = ast.literal_eval(
            Path(f"{path}.earlier").read_text()
        )

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
    faulthandler.dump_traceback_later(3600 if SOAK else 250, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


# --- What a store may say ------------------------------------------------------------------------


def check_error(error: lsmkit.Error) -> None:
    """An error that says what is wrong, and where."""
    if isinstance(error, lsmkit.CorruptionError):
        assert error.file
        assert error.offset >= 0
        assert error.found is not None
    else:
        # Without CURRENT there is no store, as far as a reader can see.
        assert isinstance(error, (lsmkit.StorageError, lsmkit.errors.StoreNotFoundError))
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
        attempt(partial(db.get, key), value)
    absent = [key for key in ABSENT if key not in rows]
    for key in absent:
        attempt(partial(db.get, key), None)
    keys = [*rows, *absent]
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
        for reported in report.errors:
            check_error(reported)
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


def used(store: Store, name: str) -> Sequence[int]:
    """Offsets whose content means something: of a log, up to its last frames, and the mark."""
    content = store.files[name]
    if not name.endswith(".log"):
        return range(len(content))
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
    """In the header of the very last frame of a written log, which no mark vouches for, damage
    looks like a frame that was never completed, and the rows before it are given."""
    end = len(store.files[name].rstrip(b"\0"))
    last = 24 + 8 + len(b"key081") + len(b"behind the sync")
    return store.log_io == "written" and name.endswith(".log") and end - last - 8 <= offset < end


def places(store: Store, rng: random.Random, cases: int) -> list[tuple[str, int]]:
    """Bytes of all files, in their order: those that mean something, and a sample of the others."""
    found = []
    for name, content in store.files.items():
        offsets = range(len(content)) if SOAK else used(store, name)
        if name.endswith(".log"):
            offsets = [*offsets, *rng.sample(range(len(content)), 100)]
        elif store.log_io == "written" and not SOAK:
            offsets = rng.sample(offsets, min(100, len(offsets)))  # they are as in a mapped store
        found += [
            (name, offset) for offset in set(offsets) if not may_look_unwritten(store, name, offset)
        ]
    found.sort()
    return sorted(rng.sample(found, min(cases, len(found))))


def is_live(store: Store, name: str) -> bool:
    return name.endswith(".sst") or name.startswith("MANIFEST") or name == "CURRENT"


def test_a_store_without_damage_is_right(store: Store) -> None:
    for read_only in (True, False):
        store.restore()
        assert look(store.path, store.rows, read_only=read_only) == "right"
    assert len([name for name in store.files if name.endswith(".sst")]) >= 3


def test_a_reader_finds_every_flipped_bit(store: Store, rng: random.Random) -> None:
    store.restore()
    for name, offset in places(store, rng, READER_CASES):
        bits = 1 << rng.randrange(8)
        flip(store.path / name, offset, bits)
        how = look(store.path, store.rows, read_only=True)
        flip(store.path / name, offset, bits)
        assert how != "right" or not is_live(store, name), f"{name}, byte {offset}, {bits:#x}"
    assert look(store.path, store.rows, read_only=True) == "right"


def test_an_owner_stays_right_after_any_flipped_bit(store: Store, rng: random.Random) -> None:
    for name, offset in places(store, rng, OWNER_CASES):
        store.restore()
        bits = 1 << rng.randrange(8)
        flip(store.path / name, offset, bits)
        how = look(store.path, store.rows, read_only=False)
        assert how != "right" or not is_live(store, name), f"{name}, byte {offset}, {bits:#x}"


# --- Files that are shorter, longer, gone, or others ---------------------------------------------


def both(store: Store, damage: Callable[[], object], what: str, *, log_lost: bool = False) -> None:
    """After the damage a reader and an owner refuse, or give what was written. With `log_lost` the
    log looks like one that was never begun, or not continued: then what was there before it."""
    for read_only in (True, False):
        for rows in (store.rows, *(store.earlier if log_lost else ())):
            store.restore()
            damage()
            try:
                how = look(store.path, rows, read_only=read_only)
            except AssertionError as error:
                wrong = error
            else:
                break
        else:
            raise AssertionError(f"{what}, read_only={read_only}") from wrong
        if how == "refused":
            left = {file.name for file in store.path.iterdir()}
            gone = names_after(store, damage) - left - store.retired
            assert not gone, f"{what}: refused, but files are gone"


def names_after(store: Store, damage: Callable[[], object]) -> set[str]:
    store.restore()
    damage()
    return {file.name for file in store.path.iterdir()}


def test_files_that_end_early(store: Store, rng: random.Random) -> None:
    for name, content in store.files.items():
        lengths: Sequence[int] = range(len(content))
        if not SOAK:
            lengths = sorted({0, len(content) - 1, *rng.sample(lengths, min(40, len(content)))})
        for length in lengths:
            both(
                store,
                partial(os.truncate, store.path / name, length),
                f"{name} of {length} bytes",
                log_lost=name.endswith(".log") and length == 0,
            )


@pytest.mark.parametrize("size", [512, 4096])
def test_zeroed_pages(store: Store, size: int) -> None:
    def zero(name: str, start: int) -> None:
        content = store.files[name]
        stop = min(start + size, len(content))
        (store.path / name).write_bytes(content[:start] + bytes(stop - start) + content[stop:])

    for name, content in store.files.items():
        for start in range(0, len(content), size):
            # A log without its head was never begun; what a written log lost behind a sync looks
            # like what was never written, because no mark vouches for it.
            may = name.endswith(".log") and (start == 0 or store.log_io == "written")
            both(
                store,
                partial(zero, name, start),
                f"{name}, {size} zeros at {start}",
                log_lost=may,
            )


@pytest.mark.parametrize("tail", [b"\0" * 100, b"junk" * 25, None], ids=["zeros", "junk", "itself"])
def test_files_that_go_on(store: Store, tail: bytes | None) -> None:
    for name, content in store.files.items():
        longer = content + (content if tail is None else tail)
        both(store, partial((store.path / name).write_bytes, longer), f"long {name}")


def test_missing_files(store: Store) -> None:
    for name in store.files:
        both(store, (store.path / name).unlink, f"no {name}", log_lost=name.endswith(".log"))


def test_swapped_and_repeated_files(store: Store) -> None:
    names = list(store.files)
    for one in names:
        for other in names:

            def repeat(one: str = one, other: str = other) -> None:
                (store.path / one).write_bytes(store.files[other])

            def swap(one: str = one, other: str = other) -> None:
                (store.path / one).write_bytes(store.files[other])
                (store.path / other).write_bytes(store.files[one])

            # A blank log, prepared for later, is a log that was never begun.
            blank = one.endswith(".log") and not store.files[other][:64].strip(b"\0")
            if one != other:
                both(store, repeat, f"{one} is {other}", log_lost=blank)
            if one < other:
                both(store, swap, f"{one} and {other} swapped", log_lost=blank)


def test_a_file_under_another_number(store: Store) -> None:
    for name in store.files:
        if name.endswith((".sst", ".log")):
            for number in ("000001", "000900"):
                other = store.path / (number + name[-4:])
                both(
                    store,
                    partial(other.write_bytes, store.files[name]),
                    f"{name} once more as {other.name}",
                )
                both(
                    store,
                    partial((store.path / name).rename, other),
                    f"{name} renamed to {other.name}",
                    log_lost=name.endswith(".log"),
                )


# --- What is no regular file, and what is not ours -----------------------------------------------


def make_directory(file: Path) -> None:
    file.mkdir()
    (file / "inside").write_bytes(b"something")


OTHER_KINDS: dict[str, Callable[[Path], object]] = {
    "directory": make_directory,
    "fifo": os.mkfifo,
    "dangling link": lambda file: file.symlink_to("nowhere"),
    "link to itself": lambda file: file.symlink_to(file.name),
    "link to a device": lambda file: file.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_things_in_the_place_of_a_file(store: Store, kind: str) -> None:
    for name in store.files:

        def put(name: str = name) -> None:
            (store.path / name).unlink()
            OTHER_KINDS[kind](store.path / name)

        both(store, put, f"a {kind} in the place of {name}")


def test_a_link_in_the_place_of_a_file_is_not_followed(store: Store) -> None:
    for name in store.files:
        moved = Path(f"{store.path}.moved")

        def link(name: str = name, moved: Path = moved) -> None:
            moved.write_bytes(store.files[name])
            (store.path / name).unlink()
            (store.path / name).symlink_to(moved)

        both(store, link, f"{name} is a link")
        assert moved.read_bytes() == store.files[name]


FOREIGN = [
    "notes.txt",
    "CURRENT.bak",
    "MANIFEST",
    "MANIFEST-1",
    "1.sst",
    "0000001.sst",
    "000001.sst.bak",
    "1.log",
    "00000001.log",
    "000001.LOG",
    "x000001.log",
    "18446744073709551616.sst",
    "99999999999999999999999999.log",
    ".hidden",
    "na\u00efve",
    "log",
]


def test_foreign_files_are_left_alone(store: Store) -> None:
    def add() -> None:
        for name in FOREIGN:
            (store.path / name).write_bytes(name.encode())
        (store.path / "folder.sst").mkdir()

    store.restore()
    add()
    assert look(store.path, store.rows, read_only=True) == "right"
    assert look(store.path, store.rows, read_only=False) == "right"
    for name in FOREIGN:
        assert (store.path / name).read_bytes() == name.encode()
    assert (store.path / "folder.sst").is_dir()
