"""Claim: `lsmkit.destroy` removes a store, and nothing that is not lsmkit's.

What a crash in between leaves is shown on a simulated disk, in C.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import lsmkit


@pytest.fixture
def made(store_path: str) -> str:
    with lsmkit.open(store_path) as db:
        db.put(b"a", b"1")
    return store_path


def test_destroyed_store_is_gone_and_can_be_made_anew(made: str) -> None:
    lsmkit.destroy(made)
    assert not os.path.exists(made)
    with lsmkit.open(made, error_if_exists=True) as db:
        assert dict(db) == {}


def test_files_of_others_stay_and_keep_the_directory(made: str) -> None:
    (Path(made) / "notes.txt").write_text("mine")
    lsmkit.destroy(Path(made))
    assert os.listdir(made) == ["notes.txt"]


def test_open_store_is_locked_and_stays(made: str) -> None:
    with lsmkit.open(made) as db:
        with pytest.raises(lsmkit.LockedError):
            lsmkit.destroy(made)
        db.put(b"b", b"2")
        assert dict(db.verify().to_dict())["ok"]
    with lsmkit.open(made) as db:
        assert dict(db) == {b"a": b"1", b"b": b"2"}


def test_where_there_is_no_store_it_is_said_as_open_says_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("missing", "empty", "file"):
        with pytest.raises(lsmkit.StoreNotFoundError) as caught:
            lsmkit.destroy(tmp_path / name)
        assert isinstance(caught.value, FileNotFoundError)
        assert caught.value.filename == str(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["empty", "file"]
    with pytest.raises(ValueError, match="path"):
        lsmkit.destroy("")


def test_checkpoint_outlives_its_source_and_the_source_its_checkpoint(
    made: str, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        with lsmkit.open(made) as db:
            db.checkpoint(tmp_path / name)
    lsmkit.destroy(tmp_path / "first")
    with lsmkit.open(made) as db:
        assert dict(db) == {b"a": b"1"}
    lsmkit.destroy(made)
    with lsmkit.open(tmp_path / "second") as db:
        assert dict(db) == {b"a": b"1"}
