"""Claim: a damaged store can be opened again after `repair`, with all that its files prove, and
verifies; what it could not use is in lost/; a sound one is left as it is.

Method: tiny stores, damaged one file at a time and all at once, compared with a dict.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 16384,
    "block_bytes": 512,
    "table_bytes": 8192,
    "cache_bytes": 0,
}


def fill(path: str, rng: random.Random) -> dict[bytes, bytes]:
    """A store with several runs, deletes and overwrites, all in tables."""
    model: dict[bytes, bytes] = {}
    with lsmkit.open(path, **TINY) as db:
        for turn in range(6):
            for _ in range(400):
                key = b"%04d" % rng.randrange(800)
                if rng.random() < 0.2:
                    db.delete(key)
                    model.pop(key, None)
                else:
                    model[key] = b"%d/%d" % (turn, rng.randrange(1000))
                    db.put(key, model[key])
            if turn == 2:
                db.compact()
        db.wait_idle()
    return model


def crash(path: str, rng: random.Random, copy: str) -> dict[bytes, bytes]:
    """A copy of a store whose process was killed with rows in its log alone."""
    model = fill(path, rng)
    with lsmkit.open(path, **{**TINY, "segment_bytes": 1 << 20}) as db:
        for i in range(300):
            model[b"%04d" % (i * 3)] = b"log %d" % i
            db.put(b"%04d" % (i * 3), model[b"%04d" % (i * 3)])
        assert db.wait_idle(60)
        os.mkdir(copy)
        for name in os.listdir(path):
            with suppress(FileNotFoundError):  # log files that wait for their next use come and go
                shutil.copyfile(os.path.join(path, name), os.path.join(copy, name))
    return model


def named(path: str, ending: str) -> list[Path]:
    return sorted(p for p in Path(path).iterdir() if p.name.endswith(ending))


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x55
    file.write_bytes(data)


def contents(path: str) -> dict[bytes, bytes]:
    with lsmkit.open(path, create_if_missing=False) as db:
        report = db.verify()
        assert report.ok, report.errors
        found = dict(db.items())
        db.put(b"goes", b"on")
        del db[b"goes"]
        db.compact()
        assert dict(db.items()) == found
    return found


def test_sound_store_is_left_as_it_is(store_path: str, rng: random.Random) -> None:
    model = fill(store_path, rng)
    before = {p.name: p.read_bytes() for p in Path(store_path).iterdir() if p.name != "LOCK"}
    report = lsmkit.repair(store_path)
    assert report
    assert not report.changed
    assert str(report) == "nothing is wrong"
    after = {p.name: p.read_bytes() for p in Path(store_path).iterdir() if p.name != "LOCK"}
    assert after == before
    assert contents(store_path) == model


@pytest.mark.parametrize("damage", ["missing", "empty", "wrong"])
def test_lost_current_costs_nothing(store_path: str, rng: random.Random, damage: str) -> None:
    model = fill(store_path, rng)
    current = Path(store_path, "CURRENT")
    if damage == "missing":
        current.unlink()
    else:
        current.write_text("" if damage == "empty" else "MANIFEST-999999 0000000000000000\n")
    with pytest.raises(lsmkit.CorruptionError):
        lsmkit.open(store_path)
    report = lsmkit.repair(store_path)
    assert report.changed
    assert not report.rebuilt
    assert contents(store_path) == model


def test_damaged_block_costs_its_rows_alone(store_path: str, rng: random.Random) -> None:
    model = fill(store_path, rng)
    table = max(named(store_path, ".sst"), key=lambda p: p.stat().st_size)
    flip(table, table.stat().st_size // 3)
    report = lsmkit.repair(store_path)
    assert not report
    assert (report.salvaged, report.blocks_lost, report.lost) == (1, 1, 0)
    assert report.rows_kept > 0
    assert table.name in str(report)
    assert Path(store_path, "lost", table.name).exists()
    found = contents(store_path)
    # What an older table says of the rows that are lost, or nothing; all others are right.
    wrong = [key for key in found.keys() | model.keys() if found.get(key) != model.get(key)]
    assert len(wrong) <= TINY["block_bytes"] // len(b"0000")
    assert lsmkit.repair(store_path).changed is False


@pytest.mark.parametrize("part", ["index", "footer", "both"])
def test_damaged_end_of_a_table_costs_nothing(
    store_path: str, rng: random.Random, part: str
) -> None:
    model = fill(store_path, rng)
    table = max(named(store_path, ".sst"), key=lambda p: p.stat().st_size)
    size = table.stat().st_size
    if part != "footer":
        footer = table.read_bytes()[-128:]
        flip(table, int.from_bytes(footer[56:64], "little") + 70)
    if part != "index":
        flip(table, size - 100)
    report = lsmkit.repair(store_path)
    assert (report.salvaged, report.blocks_lost, report.lost) == (1, 0, 0)
    assert contents(store_path) == model


def test_missing_table_is_told_and_the_rest_is_there(store_path: str, rng: random.Random) -> None:
    fill(store_path, rng)
    table = max(named(store_path, ".sst"), key=lambda p: p.stat().st_size)
    table.unlink()
    report = lsmkit.repair(store_path)
    assert report.lost == 1
    assert "is missing" in str(report)
    assert contents(store_path)


@pytest.mark.parametrize("log", [False, True])
def test_store_without_any_manifest_is_put_together(
    store_path: str, tmp_path: Path, rng: random.Random, log: bool
) -> None:
    if log:
        copy = str(tmp_path / "copy")
        model = crash(store_path, rng, copy)
        store_path = copy
    else:
        model = fill(store_path, rng)
    for file in [Path(store_path, "CURRENT"), *Path(store_path).glob("MANIFEST-*")]:
        file.unlink()
    report = lsmkit.repair(store_path)
    assert report.rebuilt
    assert "older values may have come back" in str(report)
    assert (report.records > 0) == log
    found = contents(store_path)
    # Beside a store that was killed lie tables that compaction had replaced: their rows have
    # sequences, those of the last level none, so that they count as newer.
    sure = {key: value for key, value in model.items() if not log or value.startswith(b"log")}
    assert {key: found.get(key) for key in sure} == sure
    assert log or len(found) - len(model) < 100


def test_damaged_manifest_still_tells_properties(store_path: str, rng: random.Random) -> None:
    model = fill(store_path, rng)
    with lsmkit.open(store_path) as db:
        options = db.options
        db.put(b"new", b"row")
    (manifest,) = Path(store_path).glob("MANIFEST-*")
    lines = manifest.read_bytes().split(b"\n")
    lines[len(lines) // 2] = lines[len(lines) // 2].replace(b'"', b"'", 1)
    manifest.write_bytes(b"\n".join(lines))
    report = lsmkit.repair(store_path)
    assert report.rebuilt
    assert Path(store_path, "lost", manifest.name).exists()
    with lsmkit.open(store_path) as db:
        assert db.options == options
    found = contents(store_path)
    assert all(found[key] == value for key, value in model.items())


def test_damaged_log_gives_its_whole_frames(
    store_path: str, tmp_path: Path, rng: random.Random
) -> None:
    copy = str(tmp_path / "copy")
    model = crash(store_path, rng, copy)
    log = max(named(copy, ".log"), key=lambda p: p.read_bytes().count(b"log "))
    flip(log, log.read_bytes().index(b"log 100"))
    with pytest.raises(lsmkit.CorruptionError), lsmkit.open(copy) as db:
        db.flush()
    report = lsmkit.repair(copy)
    assert report.records == 299
    assert report.log_lost > 0
    assert not report.rebuilt
    found = contents(copy)
    wrong = [key for key in found.keys() | model.keys() if found.get(key) != model.get(key)]
    assert wrong == [b"0300"]


def test_everything_damaged_at_once_still_opens(store_path: str, rng: random.Random) -> None:
    for _ in range(5):
        fill(store_path, rng)
        for file in Path(store_path).iterdir():
            if file.name not in ("LOCK", "lost") and file.stat().st_size > 0:
                flip(file, rng.randrange(file.stat().st_size))
        lsmkit.repair(store_path)
        contents(store_path)
        lsmkit.destroy(store_path)
        assert not os.path.exists(store_path)


def test_open_and_missing_stores_are_refused(store_path: str, tmp_path: Path) -> None:
    with lsmkit.open(store_path), pytest.raises(lsmkit.LockedError):
        lsmkit.repair(store_path)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(lsmkit.StoreNotFoundError):
            lsmkit.repair(tmp_path / name)


def test_command_reports(
    store_path: str, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("click")
    from lsmkit.cli import main

    fill(store_path, rng)
    assert main(["repair", store_path]) == 0
    assert capsys.readouterr().out == "nothing is wrong\n"
    named(store_path, ".sst")[0].unlink()
    assert main(["repair", store_path, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["lost"] == 1
    assert report["ok"] is False
