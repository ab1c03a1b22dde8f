"""Claim: of what a source sends, each sequence number is applied once, whatever is repeated,
however many writers repeat it, and whenever the process dies; and `position` says where to go on.

Method: streams that are sent again from earlier on, by one writer, by many threads, and by
processes that are killed; what each number has written is compared with what it should be once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import lsmkit

TINY: dict[str, Any] = {"segment_bytes": 4096, "block_bytes": 256, "table_bytes": 4096}
MAX = 2**63 - 1


def test_a_repeat_applies_nothing_and_returns_false(db: lsmkit.DB) -> None:
    assert db.position("s") is None
    assert db.put_many([b"a"], [b"1"], source="s", seq=0) is True
    assert db.put_many([b"a"], [b"2"], source="s", seq=0) is False
    assert db.delete_many([b"a"], source="s", seq=0) is False
    assert (db[b"a"], db.position("s")) == (b"1", 0)

    batch = lsmkit.WriteBatch()
    batch.put(b"b", b"1")
    batch.delete(b"a")
    assert db.write(batch, source="s", seq=7) is True
    assert db.write(batch, source="s", seq=7) is False
    assert db.write(batch, source="s", seq=3) is False, "what is behind the position is a repeat"
    assert (dict(db), db.position("s")) == ({b"b": b"1"}, 7)

    assert db.delete_many([b"b"], source="s", seq=8) is True
    assert (dict(db), db.position("s")) == ({}, 8)


def test_a_batch_says_whether_it_was_applied(db: lsmkit.DB) -> None:
    with db.batch(source="s", seq=1) as batch:
        batch.put(b"a", b"1")
        assert batch.applied is None
    assert batch.applied is True
    with db.batch(source="s", seq=1) as batch:
        batch.put(b"a", b"2")
    assert batch.applied is False
    with pytest.raises(ZeroDivisionError), db.batch(source="s", seq=2) as batch:  # noqa: PT012
        batch.put(b"a", b"3")
        1 / 0  # noqa: B018
    assert batch.applied is None
    assert (db[b"a"], db.position("s")) == (b"1", 1)


def test_writes_without_a_source_are_applied_each_time(db: lsmkit.DB) -> None:
    assert db.put_many([b"a"], [b"1"]) is True
    assert db.put_many([], []) is True
    assert db.delete_many([b"a"]) is True
    assert db.write(lsmkit.WriteBatch()) is True
    with db.batch() as batch:
        batch.put(b"a", b"1")
    assert batch.applied is True


def test_an_empty_write_moves_the_position(db: lsmkit.DB) -> None:
    """As of a source whose messages are all filtered out."""
    with db.batch(source="s", seq=4):
        pass
    assert db.position("s") == 4
    assert db.put_many([], [], source="s", seq=5) is True
    assert db.put_many([], [], source="s", seq=5) is False
    assert db.position("s") == 5
    assert len(db) == 0


def test_sources_do_not_meet_and_are_not_seen(db: lsmkit.DB) -> None:
    names = ["a", "b", "\u00e9", "x" * 255]
    for number, name in enumerate(names):
        db.put_many([b"k"], [b"%d" % number], source=name, seq=number)
    assert [db.position(name) for name in names] == [0, 1, 2, 3]
    assert dict(db) == {b"k": b"3"}
    db.flush()
    db.compact()
    assert dict(db) == {b"k": b"3"}
    assert [db.position(name) for name in names] == [0, 1, 2, 3]
    db.clear()
    assert [db.position(name) for name in names] == [0, 1, 2, 3]


@pytest.mark.parametrize("durability", ["process", "periodic", "sync"])
@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_positions_survive(store_path: str, durability: str, log_io: str) -> None:
    with lsmkit.open(store_path, log_io=log_io, durability=durability, **TINY) as db:
        for seq in range(0, 200, 2):
            assert db.put_many([b"%d" % seq], [bytes(100)], source="s", seq=seq)
            assert not db.put_many([b"x"], [b""], source="s", seq=seq)
        db.put_many([b"last"], [b""], source="t", seq=MAX)
    with lsmkit.open(store_path) as db:
        assert (db.position("s"), db.position("t")) == (198, MAX)
        assert not db.put_many([b"x"], [b""], source="s", seq=198, durability="sync")
        assert len(db) == 101
    with lsmkit.open(store_path, read_only=True) as db:
        assert db.position("s") == 198
        with pytest.raises(lsmkit.ReadOnlyError):
            db.put_many([b"x"], [b""], source="s", seq=199)


def test_wrong_arguments_are_named(db: lsmkit.DB) -> None:
    write: Any = lambda **given: db.put_many([b"a"], [b"1"], **given)  # noqa: E731
    for given in ({"source": "s"}, {"seq": 1}):
        with pytest.raises(TypeError, match="source and seq belong together"):
            write(**given)
        with pytest.raises(TypeError, match="source and seq belong together"):
            db.batch(**given)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="source must be a str"):
        write(source=b"s", seq=1)
    with pytest.raises(TypeError):
        write(source="s", seq=1.5)
    with pytest.raises(TypeError, match="source must be a str"):
        db.position(b"s")  # type: ignore[arg-type]
    for source in ("", "x" * 256, "\u00e9" * 128):
        with pytest.raises(ValueError, match="1 to 255"):
            write(source=source, seq=1)
    for seq in (-1, MAX + 1):
        with pytest.raises(ValueError, match="seq is"):
            write(source="s", seq=seq)
    assert len(db) == 0


def test_of_many_writers_of_a_source_one_applies_each_number(store_path: str) -> None:
    """Each number adds a row of its own and one to a count: every count is one."""
    with lsmkit.open(store_path, **TINY) as db:
        applied: list[int] = []

        def send() -> None:
            for seq in range(400):
                if db.put_many([b"%04d" % seq], [bytes(40)], source="s", seq=seq):
                    applied.append(seq)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(applied) == list(range(400))
        assert db.position("s") == 399
        assert len(db) == 400


# --- Killed ----------------------------------------------------------------------------------

SENDER = """
import os, sys, lsmkit
db = lsmkit.open(sys.argv[1], segment_bytes=8192, block_bytes=256, table_bytes=8192)
at = db.position("stream")
os.write(1, b"%d\\n" % (-1 if at is None else at))
# It does not trust the position, and sends some again.
seq = max(0, (-1 if at is None else at) - 5)
while True:
    before = int(db.get(b"count", b"0"))
    with db.batch(source="stream", seq=seq) as batch:
        batch.put(b"count", b"%d" % (before + 1))
        batch.put(b"%06d" % seq, bytes(50))
    seq += 1
"""


def test_a_sender_that_is_killed_counts_each_message_once(
    store_path: str, rng: random.Random
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(lsmkit.__file__).parents[1])}
    for _ in range(6):
        child = subprocess.Popen(
            [sys.executable, "-c", SENDER, store_path], stdout=subprocess.PIPE, env=environment
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                child.wait(rng.uniform(0.01, 0.15))
            except subprocess.TimeoutExpired:
                child.kill()
        assert child.returncode == -signal.SIGKILL
        with lsmkit.open(store_path) as db:
            position = db.position("stream")
            count = int(db.get(b"count", b"0"))
            assert count == (0 if position is None else position + 1)
            assert [*db.scan_keys(prefix=b"0")] == [b"%06d" % seq for seq in range(count)]
    assert count > 0
