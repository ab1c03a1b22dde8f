"""Claim: a checkpoint is a store of its own with everything acknowledged before the call, made of
links, and brought up to date in the same way; what is no checkpoint of the store is refused.

Method: tiny stores under flush and compaction, their checkpoints opened and compared with a dict.
What a loss of power leaves is shown on a simulated disk, in C.
"""

from __future__ import annotations

import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "block_bytes": 256,
    "table_bytes": 4096,
    "cache_bytes": 0,
}


def contents(path: str | Path, **options: Any) -> dict[bytes, bytes]:
    with lsmkit.open(path, create_if_missing=False, **options) as db:
        report = db.verify()
        assert report.ok, report.errors
        return dict(db.scan())


def files(path: str | Path, ending: str) -> set[str]:
    return {name for name in os.listdir(path) if name.endswith(ending)}


def test_checkpoint_has_all_that_was_acknowledged_and_goes_its_own_way(
    store_path: str, tmp_path: Path, rng: random.Random
) -> None:
    copy = tmp_path / "copy"
    model: dict[bytes, bytes] = {}
    with lsmkit.open(store_path, **TINY) as db:
        for i in range(500):
            model[b"%03d" % rng.randrange(200)] = b"%d" % i
            db.put(*list(model.items())[-1])
        for key, value in model.items():
            db.put(key, value)
        db.delete(b"000")
        model.pop(b"000", None)
        assert db.checkpoint(copy) is None
        db.clear()
        db.compact()
        assert contents(copy, read_only=True) == model
        assert contents(copy) == model
    with lsmkit.open(copy) as db:
        db.put(b"own", b"way")
        db.compact()
    assert contents(copy) == {**model, b"own": b"way"}
    assert contents(store_path) == {}


def test_tables_are_linked_and_the_log_is_not(store_path: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many([b"%04d" % i for i in range(1000)], [b"x" * 20] * 1000)
        db.checkpoint(copy)
        db.put(b"later", b"")
        tables = files(copy, ".sst")
        assert tables
        for name in tables:
            assert os.stat(copy / name).st_nlink == 2
        for name in files(store_path, ".log"):
            assert os.stat(os.path.join(store_path, name)).st_nlink == 1
        assert not files(copy, ".log")


def test_older_checkpoint_gets_what_is_new_and_loses_what_is_gone(
    store_path: str, tmp_path: Path, rng: random.Random
) -> None:
    copy = tmp_path / "copy"
    model: dict[bytes, bytes] = {}
    with lsmkit.open(store_path, **TINY) as db:
        for turn in range(8):
            for i in range(120):
                key = b"%03d" % rng.randrange(300)
                model[key] = b"%d.%d" % (turn, i)
                db.put(key, model[key])
            if turn % 3 == 2:
                db.compact()
            before = (
                {name: os.stat(copy / name).st_ino for name in files(copy, ".sst")} if turn else {}
            )
            db.checkpoint(copy)
            after = {name: os.stat(copy / name).st_ino for name in files(copy, ".sst")}
            assert all(after[name] == before[name] for name in after.keys() & before.keys())
            assert contents(copy, read_only=True) == model
    with lsmkit.open(copy, read_only=True) as made:
        named = sum(level.tables for level in made.stats().levels)
    assert len(files(copy, ".sst")) == named
    assert len(files(copy, "")) == named + 3, (
        "CURRENT, LOCK and one manifest are all there is beside"
    )


def test_reader_of_a_checkpoint_keeps_its_state_while_it_is_brought_up_to_date(
    store_path: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many([b"%04d" % i for i in range(500)], [b"old"] * 500)
        db.checkpoint(copy)
        with lsmkit.open(copy, read_only=True) as reader:
            db.put_many([b"%04d" % i for i in range(500)], [b"new"] * 500)
            db.compact()
            db.checkpoint(copy)
            assert set(reader.values()) == {b"old"}
        assert set(contents(copy, read_only=True).values()) == {b"new"}


def test_anything_else_at_the_place_is_refused_and_left_as_it_is(
    store_path: str, tmp_path: Path
) -> None:
    other, foreign, file = tmp_path / "other", tmp_path / "foreign", tmp_path / "file"
    with lsmkit.open(other) as db:
        db.put(b"other", b"store")
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    file.write_text("mine")
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
        for place in (other, foreign, file):
            with pytest.raises(lsmkit.Error) as caught:
                db.checkpoint(place)
            assert isinstance(caught.value, FileExistsError)
            assert str(place) in str(caught.value)
    assert contents(other) == {b"other": b"store"}
    assert os.listdir(foreign) == ["notes.txt"]
    assert file.read_text() == "mine"
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".making")]


def test_checkpoint_that_is_open_is_locked(store_path: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
        db.checkpoint(copy)
        with lsmkit.open(copy), pytest.raises(lsmkit.LockedError) as caught:
            db.checkpoint(copy)
        assert caught.value.pid == os.getpid()
        with pytest.raises(lsmkit.LockedError):
            db.checkpoint(store_path)


def test_checkpoint_that_was_written_to_is_no_checkpoint_any_more(
    store_path: str, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
        db.checkpoint(copy)
        with lsmkit.open(copy) as own:
            own.put(b"b", b"2")
        with pytest.raises(FileExistsError, match="another store"):
            db.checkpoint(copy)
        assert contents(copy) == {b"a": b"1", b"b": b"2"}


def test_read_only_handle_makes_no_checkpoint(store_path: str, tmp_path: Path) -> None:
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
    with (
        lsmkit.open(store_path, read_only=True) as reader,
        pytest.raises(lsmkit.ReadOnlyError),
    ):
        reader.checkpoint(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_closed_store_and_wrong_paths_are_told(store_path: str, tmp_path: Path) -> None:
    db = lsmkit.open(store_path)
    for wrong in ("", "a\0b"):
        with pytest.raises(ValueError, match="path"):
            db.checkpoint(wrong)
    with pytest.raises(FileNotFoundError):
        db.checkpoint(tmp_path / "no" / "such" / "place")
    db.close()
    with pytest.raises(lsmkit.ClosedError):
        db.checkpoint(tmp_path / "copy")


def test_checkpoints_beside_writers_hold_a_moment_of_each(store_path: str, tmp_path: Path) -> None:
    """Two keys are written together; a checkpoint between the two would show them differ."""
    done = threading.Event()
    with lsmkit.open(store_path, **TINY) as db:

        def write() -> None:
            i = 0
            while not done.is_set():
                i += 1
                db.put_many([b"left", b"right", b"%d" % (i % 50)], [b"%d" % i] * 3)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            last = 0
            for turn in range(6):
                copy = tmp_path / str(turn % 2)
                acknowledged = int(db.get(b"left", b"0"))
                db.checkpoint(copy)
                found = contents(copy, read_only=True)
                assert found.get(b"left") == found.get(b"right")
                assert int(found.get(b"left", b"0")) >= max(acknowledged, last)
                last = acknowledged
        finally:
            done.set()
            writer.join()


def test_store_in_memory_is_brought_to_the_disk_by_a_checkpoint(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    with lsmkit.open(":memory:", **TINY) as db:
        for turn in range(2):
            db.put_many([b"%04d" % i for i in range(1000)], [b"%d" % turn] * 1000)
            db.checkpoint(copy)
            assert set(contents(copy, read_only=True).values()) == {b"%d" % turn}
    assert len(contents(copy)) == 1000


def test_command_makes_and_renews_a_checkpoint(
    store_path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("click")
    from lsmkit.cli import main

    copy = str(tmp_path / "copy")
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
    assert main(["checkpoint", store_path, copy, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == copy
    assert report["tables"] == 1
    assert report["bytes"] > 0
    assert main(["checkpoint", store_path, copy]) == 0
    assert capsys.readouterr().out.startswith(f"{copy}: 1 tables, ")
    assert contents(copy) == {b"a": b"1"}
    assert main(["checkpoint", store_path, str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
