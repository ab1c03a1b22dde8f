"""Claim: values that are longer than `blob_bytes` stand apart from their tables: every way of
reading gives them, compaction does not write them again, and what nothing refers to goes.

Method: stores with small segments and a `blob_bytes` of some tens of bytes, next to a dict; the
files of the directory, counted; one file after the other damaged.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit import merge
from lsmkit._core.core import dump_blob
from lsmkit.compaction import LazyLeveled
from lsmkit.testing import FaultyDisk
from lsmkit.version import Tree

TINY: dict[str, Any] = {
    "segment_bytes": 16384,
    "table_bytes": 16384,
    "block_bytes": 256,
    "blob_bytes": 40,
}


def blobs(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if name.endswith(".blob"))


def random_pairs(count: int, seed: int = 1) -> dict[bytes, bytes]:
    """Values around the limit, and longer ones that do not compress."""
    rng = random.Random(seed)
    sizes = (0, 39, 40, 41, 100, 500, 3000)
    return {b"key-%05d" % i: rng.randbytes(rng.choice(sizes)) for i in range(count)}


def flushed(db: lsmkit.DB, pairs: dict[bytes, bytes]) -> None:
    for key, value in pairs.items():
        db[key] = value
    db.flush()


def test_every_way_of_reading_gives_them(store_path: str) -> None:
    pairs = random_pairs(500)
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
        assert blobs(store_path)
        keys = [*pairs, b"absent"]
        assert [db.get(key) for key in keys] == [*pairs.values(), None]
        assert db.get_many(keys) == [*pairs.values(), None]
        assert list(db.items()) == list(pairs.items())
        assert list(db.scan(reverse=True)) == list(reversed(pairs.items()))
        columns = list(db.scan_columns(rows=64))
        assert [v for part in columns for v in part.values] == list(pairs.values())
        assert len(db) == len(pairs)
        assert all(key in db for key in pairs)
        with db.snapshot() as before:
            for key in pairs:
                db[key] = b"new"
            db.compact()
            assert dict(before.items()) == pairs
        assert set(db.values()) == {b"new"}


def test_they_are_there_when_the_store_is_opened_again(store_path: str) -> None:
    pairs = random_pairs(500)
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
        names = blobs(store_path)
    Path(store_path, "999999.blob").write_bytes(b"what a crash has left")
    with lsmkit.open(store_path) as db:
        assert db.options.blob_bytes == 40
        assert dict(db.items()) == pairs
        assert blobs(store_path) == names


def test_zero_keeps_all_values_in_their_tables(store_path: str) -> None:
    pairs = random_pairs(100)
    with lsmkit.open(store_path, **{**TINY, "blob_bytes": 0}) as db:
        flushed(db, pairs)
        assert db.stats().blobs.files == 0
        assert not blobs(store_path)
        assert dict(db.items()) == pairs


def test_the_limit_may_change_with_each_opening(store_path: str) -> None:
    pairs = random_pairs(200)
    for limit in (40, 0, 1000, 1):
        with lsmkit.open(store_path, **{**TINY, "blob_bytes": limit}) as db:
            flushed(db, dict(random.Random(limit).sample(sorted(pairs.items()), 100)))
            db.compact()
    with lsmkit.open(store_path) as db:
        assert dict(db.items()).items() <= pairs.items()
        assert db.verify()


def test_compaction_does_not_write_them_again(store_path: str) -> None:
    value = os.urandom(3000)
    with lsmkit.open(store_path, **TINY) as db:
        for round_ in range(20):
            for i in range(25):
                db[b"%05d" % (i * 20 + round_)] = value
        db.compact()
        stats = db.stats()
        assert stats.compactions.merges > 0
        assert stats.blobs.live_bytes > 20 * 25 * 3000
        user = 20 * 25 * 3005
        assert stats.flushes.bytes + stats.compactions.bytes_out < 1.2 * user


def test_what_is_overwritten_gives_its_space_back(store_path: str) -> None:
    pairs = random_pairs(100)
    with lsmkit.open(store_path, **TINY) as db:
        for seed in range(30):
            for key, value in random_pairs(100, seed).items():
                db[key] = value
                pairs[key] = value
        db.compact()
        db.wait_idle()
        assert dict(db.items()) == pairs
        stats = db.stats().blobs
    # Files go once no view has them: when the store is closed, all have gone.
    live = sum(len(value) for value in pairs.values() if len(value) > 40)
    on_disk = sum(os.path.getsize(Path(store_path, name)) for name in blobs(store_path))
    assert (stats.files, stats.bytes) == (len(blobs(store_path)), on_disk)
    assert live < on_disk < 2.5 * live, "at most half of each file is dead"
    with lsmkit.open(store_path) as db:
        for key in list(db):
            del db[key]
        db.compact()
        db.wait_idle()
    assert blobs(store_path) == []


def test_a_file_of_which_most_is_dead_is_left_by_the_rest(store_path: str) -> None:
    """Nothing else is there to be merged: the table is written anew for the sake of the file."""
    rng = random.Random(5)
    with lsmkit.open(store_path, **{**TINY, "max_garbage": 0.3}) as db:
        pairs = {b"%03d" % i: rng.randbytes(1000) for i in range(12)}
        flushed(db, pairs)
        db.compact()
        db.wait_idle()
        first = blobs(store_path)
        flushed(db, dict.fromkeys(list(pairs)[:6], b"short"))
        db.compact()
        db.wait_idle()
        assert dict(db.items()) == {**pairs, **dict.fromkeys(list(pairs)[:6], b"short")}
        assert db.stats().blobs.live_bytes < 7 * 1100
    assert blobs(store_path)
    assert not set(first) & set(blobs(store_path))


def test_deadlines_and_operands_meet_them(store_path: str) -> None:
    large = b"x" * 100
    with lsmkit.open(store_path, merge_operator=merge.Append, **TINY) as db:
        db.put(b"alive", large, ttl=1000)
        db.put(b"over", large, ttl=0)
        db.put(b"list", large)
        db.flush()
        db.merge(b"list", b"more")
        joined = db[b"list"]
        assert dict(db.items()) == {b"alive": large, b"list": joined}
        assert joined == large + b"more"
        db.flush()
        db.compact()
        assert db[b"list"] == joined
        assert db[b"alive"] == large
        assert b"over" not in db
        assert db.verify()


def test_ingested_values_stand_apart_too(store_path: str) -> None:
    pairs = random_pairs(300)
    with lsmkit.open(store_path, **TINY) as db:
        db.ingest(list(pairs), list(pairs.values()))
        assert db.stats().blobs.files > 0
        assert dict(db.items()) == pairs
        db.compact()
        assert dict(db.items()) == pairs
        assert db.verify()


def test_a_checkpoint_has_them(store_path: str, tmp_path: Path) -> None:
    pairs = random_pairs(300)
    copy = str(tmp_path / "copy")
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
        db.checkpoint(copy)
        for key in pairs:
            db[key] = os.urandom(100)
        db.compact()
        db.checkpoint(str(tmp_path / "second"))
        now = dict(db.items())
    with lsmkit.open(copy) as old:
        assert dict(old.items()) == pairs
        assert old.verify()
    with lsmkit.open(tmp_path / "second") as new:
        assert dict(new.items()) == now
        assert new.verify()


def test_a_checkpoint_that_is_renewed_leaves_those_behind_that_went(
    store_path: str, tmp_path: Path
) -> None:
    copy = str(tmp_path / "copy")
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, random_pairs(100))
        db.checkpoint(copy)
        for key in random_pairs(100):
            db[key] = os.urandom(100)
        db.compact()
        db.wait_idle()
        db.checkpoint(copy)
        now = dict(db.items())
    assert blobs(copy) == blobs(store_path)
    with lsmkit.open(copy, read_only=True) as new:
        assert dict(new.items()) == now


def test_a_reader_keeps_those_that_it_reads(store_path: str) -> None:
    pairs = random_pairs(200)
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
        with lsmkit.open(store_path, read_only=True) as reader:
            for key in pairs:
                db[key] = b"gone"
            db.compact()
            db.wait_idle()
            assert dict(reader.items()) == pairs


def test_destroy_removes_them(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, random_pairs(100))
    assert blobs(store_path)
    lsmkit.destroy(store_path)
    assert not os.path.exists(store_path)


def damage(path: str, name: str, at: int) -> None:
    with open(Path(path, name), "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def one_value_apart(path: str) -> None:
    with lsmkit.open(path, **TINY) as db:
        flushed(db, {b"a": b"short", b"b": os.urandom(100), b"c": b"short"})


@pytest.mark.parametrize("at", [0, 20, 40, 50, 60, 75, 171])
def test_damage_is_an_error_where_it_is_met_and_in_the_report(store_path: str, at: int) -> None:
    one_value_apart(store_path)
    (name,) = blobs(store_path)
    damage(store_path, name, at)
    with lsmkit.open(store_path) as db:
        assert db[b"a"] == b"short"
        with pytest.raises(lsmkit.CorruptionError) as caught:
            db.get(b"b")
        assert caught.value.file.endswith(name)
        with pytest.raises(lsmkit.CorruptionError):
            list(db.items())
        report = db.verify()
        assert not report
        assert any(str(error.file).endswith(name) for error in report.errors)
    with pytest.raises(lsmkit.CorruptionError):
        dump_blob(os.fsencode(Path(store_path, name)))


def test_a_file_that_is_missing_is_named(store_path: str) -> None:
    one_value_apart(store_path)
    (name,) = blobs(store_path)
    os.unlink(Path(store_path, name))
    with lsmkit.open(store_path) as db:
        with pytest.raises(lsmkit.CorruptionError, match=f"{name}: is missing"):
            db.get(b"b")
        assert not db.verify()


@pytest.mark.parametrize("lose", ["damage", "file"])
def test_repair_keeps_all_other_rows(store_path: str, lose: str) -> None:
    pairs = random_pairs(30)
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
    name = blobs(store_path)[0]
    if lose == "damage":
        damage(store_path, name, 80)
    else:
        os.unlink(Path(store_path, name))
    report = lsmkit.repair(store_path)
    assert report.values_lost > 0
    assert not report.ok
    assert not lsmkit.repair(store_path).changed
    with lsmkit.open(store_path) as db:
        assert db.verify()
        assert dict(db.items()).items() <= pairs.items()
        assert len(db) == len(pairs) - report.values_lost


def test_repair_without_a_manifest_finds_them(store_path: str) -> None:
    pairs = random_pairs(200)
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
    for name in os.listdir(store_path):
        if name.startswith("MANIFEST"):
            os.unlink(Path(store_path, name))
    assert lsmkit.repair(store_path).rebuilt
    with lsmkit.open(store_path) as db:
        assert dict(db.items()) == pairs
        assert db.verify()


@pytest.mark.parametrize("call", ["open", "pwrite", "fsync"])
def test_a_flush_that_fails_at_them_is_made_again(call: str) -> None:
    disk = FaultyDisk()
    pairs = random_pairs(12)
    with lsmkit.open("s", disk=disk, **TINY) as db:
        for key, value in pairs.items():
            db[key] = value
        disk.fail(call, path=".blob", sticky=True)
        with pytest.raises(lsmkit.StorageError):
            db.flush()
        assert dict(db.items()) == pairs
        disk.heal()
        db.flush()
        assert dict(db.items()) == pairs
        assert db.verify()
        assert db.stats().blobs.files == 1


@pytest.mark.parametrize("keep", ["all", "synced", "random"])
def test_what_was_promised_is_there_after_a_power_cut(keep: str) -> None:
    disk = FaultyDisk(seed=3)
    pairs: dict[bytes, bytes] = {}
    for seed in range(6):
        db = lsmkit.open("s", disk=disk, durability="sync", **TINY)
        assert dict(db.items()) == pairs
        for key, value in random_pairs(30, seed).items():
            db[key] = value
            pairs[key] = value
        if seed % 2:
            db.compact()
        disk.power_cut(keep)
    with lsmkit.open("s", disk=disk) as db:
        assert dict(db.items()) == pairs
        assert db.verify()


def test_dump_shows_where_values_stand(store_path: str) -> None:
    one_value_apart(store_path)
    (name,) = blobs(store_path)
    lines = dump_blob(os.fsencode(Path(store_path, name)))
    assert lines[0].startswith(f"values {name[:6]}, format 1, 176 bytes")
    assert lines[1].startswith("  at 40: 100 bytes, stored in 100")
    with pytest.raises(lsmkit.CorruptionError):
        dump_blob(os.fsencode(Path(store_path, "CURRENT")))


def test_a_large_value_compresses(store_path: str) -> None:
    with lsmkit.open(store_path, compression="lz4") as db:
        flushed(db, {b"k": b"same " * 100_000})
        assert db[b"k"] == b"same " * 100_000
        assert db.stats().blobs.bytes < 10_000


def test_approximate_size_counts_them(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, {b"%04d" % i: os.urandom(1000) for i in range(100)})
        assert db.approximate_size() > 100_000
        half = db.approximate_size(b"0000", b"0050")
        assert 30_000 < half < 70_000


def test_scans_hold_few_large_values_at_a_time(store_path: str) -> None:
    """Also a scan that asks for all rows at once: what was read goes when it is given out."""
    value = os.urandom(1 << 20)
    with lsmkit.open(store_path) as db:
        for i in range(24):
            db[b"%02d" % i] = value[i:]
        db.flush()
        assert all(found == value[int(key) :] for key, found in db.items())
        assert [int(key) for key in db] == list(range(24))
        assert [int(key) for key, _ in db.scan(reverse=True)] == list(reversed(range(24)))


def test_a_copy_of_the_directory_is_a_store(store_path: str, tmp_path: Path) -> None:
    pairs = random_pairs(100)
    with lsmkit.open(store_path, **TINY) as db:
        flushed(db, pairs)
    shutil.copytree(store_path, tmp_path / "copy")
    with lsmkit.open(tmp_path / "copy") as db:
        assert dict(db.items()) == pairs


def test_a_table_is_written_anew_where_it_stands_for_the_sake_of_a_file() -> None:
    """A newer run may come meanwhile: the older rows must stay below it, also in level 0."""

    def table(file: int, wasted: int) -> tuple[Any, ...]:
        return (file, 1000, 10, 0, b"a", b"z", 1, 9, 0, 0, True, 0, 0, wasted)

    runs = tuple((0, file, (table(file, 500 if file == 2 else 0),)) for file in (3, 2, 1))
    tree = Tree.from_raw(0, ((b"", runs),))
    job = LazyLeveled().move_values(tree, lsmkit.Options(), ())
    assert job is not None
    assert (job.inputs, job.out_level, job.in_place) == ((2,), 0, True)
    assert LazyLeveled().move_values(tree, lsmkit.Options(), (job,)) is None, "it runs already"
