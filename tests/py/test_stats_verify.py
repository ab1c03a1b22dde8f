"""Claim: stats() counts what was done and what is there, and verify() reads all of it and names
what is damaged.

Method: known amounts written, flushed, compacted, recovered; then one file after another damaged
under the feet of an open store. Names and arithmetic of Stats are test_stats.py's.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {
    "segment_bytes": 8192,
    "block_bytes": 256,
    "table_bytes": 8192,
    "cache_bytes": 1 << 20,
}


def numbered(n: int) -> list[bytes]:
    return [b"%06d" % i for i in range(n)]


def test_an_empty_store_has_done_nothing(db: lsmkit.DB) -> None:
    stats = db.stats()

    assert isinstance(stats, lsmkit.Stats)
    assert (stats.writes.records, stats.writes.frames, stats.writes.bytes) == (0, 0, 0)
    assert (stats.flushes.count, stats.compactions.merges, stats.recovery.records) == (0, 0, 0)
    assert (stats.levels, stats.table_bytes, stats.pressure) == ((), 0, 0)
    assert (stats.write_amplification, stats.space_amplification) == (0.0, 1.0)
    assert (stats.background_errors, stats.last_error) == (0, "")


def test_writes_are_counted(db: lsmkit.DB) -> None:
    db.put(b"a", b"1")
    db.delete(b"a")
    db.put_many(numbered(10), numbered(10))
    db.put_many(tuple(numbered(10)), numbered(10))
    db.delete_many(numbered(3))
    with db.batch() as batch:
        batch.put(b"a", b"x" * 1000)
        batch.delete(b"b")
    db.put(b"a", b"1", durability="sync")

    writes = db.stats().writes
    assert (writes.records, writes.frames, writes.syncs) == (1 + 1 + 10 + 10 + 3 + 2 + 1, 7, 1)
    payload = 1 + 1 + 1 + 2 * 10 * 12 + 3 * 6 + 1 + 1000 + 1 + 2
    assert payload < writes.bytes < payload + writes.records * 12 + writes.frames * 40


def test_tables_are_counted(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many(numbered(1000), [b"v" * 50] * 1000)
        db.delete_many(numbered(10))
        db.flush()
        stats = db.stats()
        assert stats.flushes.records == 1010
        assert stats.flushes.count >= 1
        assert stats.flushes.ns > 0
        assert sum(level.rows for level in stats.levels) >= 990
        assert stats.table_bytes == sum(level.bytes for level in stats.levels) > 0
        assert stats.writes.segments >= 1
        db.compact()
        db.wait_idle()
        stats = db.stats()
        assert [level.name for level in stats.levels] == ["last"]
        assert (stats.levels[0].rows, stats.levels[0].tombstones) == (990, 0)
        assert stats.compactions.merges + stats.compactions.moves > 0
        assert stats.runs_max == 1
        assert stats.space_amplification == 1.0
        assert stats.write_amplification > 1
        on_disk = 0
        for name in glob.glob(store_path + "/*.sst"):
            with contextlib.suppress(FileNotFoundError):  # tables that were replaced are just going
                on_disk += os.path.getsize(name)
        assert on_disk >= stats.table_bytes


def test_the_cache_is_counted(store_path: str) -> None:
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many(numbered(1000), [os.urandom(50) for _ in range(1000)])
        db.compact()
        before = db.stats().cache
        assert before.capacity_bytes == TINY["cache_bytes"]
        for key in numbered(1000):
            assert key in db
        once = db.stats().cache
        assert once.fills > before.fills + 100
        for key in numbered(1000):
            assert key in db
        again = db.stats().cache
        assert again.fills == once.fills, "all of it is in memory now"
        assert 0 < again.used_bytes <= again.capacity_bytes
        assert again.fixed_bytes > 0
        memory = db.stats().memory
        parts = (memory.segments, memory.pinned, memory.cache, memory.tables, memory.background)
        assert memory.total == sum(parts)
        assert memory.limit == 1 << 30


def test_memory_of_segments_is_counted_while_they_are_there(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=1 << 20) as db:
        idle = db.stats().memory.segments
        db.put_many(numbered(1000), [b"v" * 500] * 1000)
        written = db.stats().memory.segments
        assert written - idle >= 1000 * 500
        list(db.scan_keys())
        assert db.stats().memory.segments - written >= 1000 * 16, "the order of a scan is counted"


def test_recovery_is_counted(store_path: str) -> None:
    program = (
        "import os, sys, lsmkit\n"
        "db = lsmkit.open(sys.argv[1])\n"
        "db.put_many([b'%d' % i for i in range(100)], [b'v'] * 100)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, store_path], check=True)
    with lsmkit.open(store_path) as db:
        recovery = db.stats().recovery
        assert (recovery.records, recovery.lost_bytes) == (100, 0)
        assert recovery.bytes > 300
    with lsmkit.open(store_path) as db:
        assert db.stats().recovery.records == 0


def test_writers_that_are_slowed_are_counted(store_path: str) -> None:
    """Compaction that may write next to nothing falls behind."""
    with lsmkit.open(store_path, rate_limit=4096, background_threads=1, **TINY) as db:
        refused = 0
        for i in range(400):
            try:
                db.put_many(numbered(100), [b"%d" % i * 10] * 100, timeout=0.01)
            except lsmkit.Busy as busy:
                refused += busy.retry_after > 0
                if refused > 3:
                    break
        stats = db.stats()
        assert stats.stalls.slowed + stats.stalls.stopped > 0
        assert stats.stalls.slowed_ns + stats.stalls.stopped_ns > 0
        assert 0 <= db.pressure <= 1
        frames = stats.writes.frames
        assert frames + refused == i + 1, "what was refused was not written"


def test_it_prints_and_goes_to_json(db: lsmkit.DB) -> None:
    db.put_many(numbered(100), numbered(100))
    db.flush()
    assert "100 records in 1 frames" in str(db.stats())
    assert json.loads(json.dumps(db.stats().to_dict()))["writes"]["records"] == 100


# --- approximate_size ------------------------------------------------------------------------


def test_approximate_size_is_that_of_tables_to_the_block(store_path: str) -> None:
    with lsmkit.open(store_path, compression="none", **TINY) as db:
        keys = numbered(2000)
        db.put_many(keys, [os.urandom(50) for _ in keys])
        assert db.approximate_size() == 0, "the log is not counted"
        db.compact()
        whole = db.approximate_size()
        assert 2000 * 50 < whole <= db.stats().table_bytes
        half = db.approximate_size(None, keys[1000])
        assert abs(half - whole / 2) < 1500
        assert half + db.approximate_size(keys[1000]) == whole
        assert db.approximate_size(b"x", b"z") == 0
        assert db.approximate_size(keys[500], keys[400]) == 0
        assert db.approximate_size(keys[500], keys[500]) == 0
        assert 0 < db.approximate_size(bytearray(keys[500]), memoryview(keys[600])) < whole / 10
        with db.snapshot() as snapshot:
            assert snapshot.approximate_size() == whole


# --- verify ----------------------------------------------------------------------------------


@pytest.fixture
def store(store_path: str) -> str:
    """A closed store of some tables."""
    with lsmkit.open(store_path, **TINY) as db:
        db.put_many(numbered(1000), [b"%d" % i * 5 for i in range(1000)])
        db.compact()
        db.put_many(numbered(300), [b"newer"] * 300)
    return store_path


def damage(path: Path) -> bytes:
    """Changes a byte in the middle, in place, as a bad disk does; returns what was there."""
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(len(data) // 2)
        file.write(bytes([data[len(data) // 2] ^ 0x40]))
    return data


def test_a_good_store_is_ok(store: str) -> None:
    with lsmkit.open(store) as db:
        db[b"in the log"] = b"1"
        report = db.verify()
        assert isinstance(report, lsmkit.Verification)
        assert report
        assert report.ok is True
        assert report.errors == ()
        tables = sum(level.tables for level in db.stats().levels)
        assert report.files == tables + 2
        assert report.rows == 1301
        assert report.blocks > 10
        assert report.bytes >= db.stats().table_bytes
        assert json.loads(json.dumps(report.to_dict()))["ok"] is True


def test_an_empty_store_is_ok(db: lsmkit.DB) -> None:
    report = db.verify()
    assert report
    assert (report.rows, report.blocks, report.files) == (0, 0, 1)


def test_every_damaged_table_is_named(store: str) -> None:
    tables = sorted(Path(store).glob("*.sst"))
    assert len(tables) >= 2
    with lsmkit.open(store) as db:
        for table in tables:
            damage(table)
        report = db.verify()
        assert not report
        assert report.ok is False
        assert len(report.errors) == len(tables)
        assert {error.file for error in report.errors} == {str(table) for table in tables}  # type: ignore[attr-defined]
        for error in report.errors:
            assert isinstance(error, lsmkit.CorruptionError)
            assert 0 < error.offset < Path(error.file).stat().st_size
            assert error.found is not None
            assert Path(error.file).name in str(error)
        plain = json.loads(json.dumps(report.to_dict()))
        assert plain["ok"] is False
        assert {entry["file"] for entry in plain["errors"]} == {str(table) for table in tables}
        assert db.verify().errors, "and again: nothing is remembered as good"


def test_damage_is_found_where_it_is_read_and_not_elsewhere(store: str) -> None:
    first = sorted(Path(store).glob("*.sst"))[0]
    with lsmkit.open(store, cache_bytes=0) as db:
        whole = dict(db)
        damage(first)
        good = wrong = 0
        for key in numbered(1000):
            try:
                assert db[key] == whole[key]
                good += 1
            except lsmkit.CorruptionError as error:
                wrong += error.file == str(first)
        assert good > 500
        assert wrong == 1000 - good
        with pytest.raises(lsmkit.CorruptionError):
            list(db.scan())
        with pytest.raises(lsmkit.CorruptionError):
            list(db.scan_columns())
        with pytest.raises(lsmkit.CorruptionError):
            db.get_many(numbered(1000))
        np = pytest.importorskip("numpy")
        with pytest.raises(lsmkit.CorruptionError):
            db.get_many(np.array(numbered(1000)))


def test_a_missing_table_is_damage(store: str) -> None:
    first, *_ = sorted(Path(store).glob("*.sst"))
    with lsmkit.open(store) as db:
        first.unlink()
        [error] = db.verify().errors
        assert isinstance(error, lsmkit.CorruptionError)
        assert error.file == str(first)


def test_a_log_that_is_damaged_after_its_writing_harms_no_reader(store_path: str) -> None:
    with lsmkit.open(store_path, log_io="written", **TINY) as db:
        db.put_many(numbered(50), numbered(50))
        assert db.verify()
        [log] = [p for p in Path(store_path).glob("*.log") if any(p.read_bytes()[:64])]
        before = log.read_bytes()
        with log.open("r+b") as file:
            file.seek(200)
            file.write(bytes([before[200] ^ 1]))
        # While the store is open, what counts is what it has in memory.
        assert dict(db) == dict(zip(numbered(50), numbered(50), strict=True))


def test_a_damaged_manifest_is_named(store: str) -> None:
    with lsmkit.open(store) as db:
        [manifest] = Path(store).glob("MANIFEST-*")
        damage(manifest)
        [error] = db.verify().errors
        assert isinstance(error, lsmkit.CorruptionError)
        assert error.file == str(manifest)


def test_compaction_that_meets_damage_says_so_and_changes_nothing(store: str) -> None:
    with lsmkit.open(store, cache_bytes=0) as db:
        for table in Path(store).glob("*.sst"):
            damage(table)
        before = sorted(Path(store).glob("*.sst"))
        with pytest.raises(lsmkit.Error, match=r"background work failed.*sst"):
            db.compact()
        assert sorted(Path(store).glob("*.sst")) == before
        stats = db.stats()
        assert stats.background_errors > 0
        assert ".sst" in stats.last_error
        assert "errors" in str(stats)
        db[b"still"] = b"writable"
        assert db[b"still"] == b"writable"
