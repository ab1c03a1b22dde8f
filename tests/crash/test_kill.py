"""Claim: what was acknowledged survives `kill -9` at any moment, every batch is whole, and the
state is that of a prefix of the commit order.

Method: kill_writer.py writes a stream of operations into a store with tiny segments, acknowledging
each through a pipe, and is killed at a random moment: while opening, recovering, flushing,
compacting or writing. The state must be the one behind the last acknowledged operation, or behind
the one that was under way. Then the same store is written and killed again.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

import lsmkit

WRITER = Path(__file__).with_name("kill_writer.py")
SOAK = os.environ.get("LSMKIT_SOAK", "0") not in ("", "0")
ROUNDS = 60 if SOAK else 5


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kill_writer", WRITER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kill_writer = _load()


class Writer:
    """A stream of operations that goes on from process to process, and the state that it makes."""

    def __init__(self, path: str, seed: int, durability: str, log_io: str, threads: int) -> None:
        self.path = path
        self.seed = seed
        self.arguments = [path, str(seed), durability, log_io]
        self.next = [0] * threads
        self.states: list[dict[bytes, bytes]] = [{} for _ in range(threads)]

    def run(self, acknowledged: int, seconds: float) -> None:
        """Runs a process, and kills it `seconds` after so many operations; 0: after it began to
        open the store."""
        command = [sys.executable, str(WRITER), *self.arguments, *map(str, self.next)]
        source = str(Path(lsmkit.__file__).parents[1])
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": source}
        )
        assert child.stdout is not None
        with child:
            size = kill_writer.ACK.size
            acks = child.stdout.read(size * (1 + acknowledged))
            time.sleep(seconds)
            child.kill()
            acks += child.stdout.read()
        assert child.returncode == -signal.SIGKILL, "the writer ended before it was killed"
        for thread, number in kill_writer.ACK.iter_unpack(acks[size:]):
            assert number == self.next[thread]
            kill_writer.apply(self.seed, thread, number, self.states[thread])
            self.next[thread] += 1

    def check(self, db: lsmkit.DB) -> None:
        """The store holds what was acknowledged, and perhaps the operation that was under way."""
        for thread, state in enumerate(self.states):
            found = dict(db.scan(prefix=b"%c" % (97 + thread)))
            if found == state:
                continue
            kill_writer.apply(self.seed, thread, self.next[thread], state)
            self.next[thread] += 1
            assert found == state, f"thread {thread}, operation {self.next[thread] - 1}"
        together = {key: value for state in self.states for key, value in state.items()}
        assert [(key, db.get(key)) for key in together] == list(together.items())
        assert len(db) == len(together)
        report = db.verify()
        assert report.ok, report.errors


KINDS = [
    ("process", "mapped", 1),
    ("process", "written", 1),
    ("process", "mapped", 4),
    ("periodic", "written", 3),
    ("sync", "mapped", 2),
]


@pytest.mark.parametrize(("durability", "log_io", "threads"), KINDS)
def test_nothing_acknowledged_is_lost_and_batches_are_whole(
    store_path: str, rng: random.Random, durability: str, log_io: str, threads: int
) -> None:
    writer = Writer(store_path, rng.getrandbits(32), durability, log_io, threads)
    for _ in range(ROUNDS):
        writer.run(rng.randrange(50 if durability == "sync" else 300), rng.uniform(0, 0.01))
        # An owner that only looks leaves the log as it was to the next writer, or to the next look.
        if rng.random() < 0.5:
            with lsmkit.open(store_path, read_only=True) as db:
                writer.check(db)
        if rng.random() < 0.5:
            with lsmkit.open(store_path, **kill_writer.TINY) as db:
                writer.check(db)
    with lsmkit.open(store_path, **kill_writer.TINY) as db:
        writer.check(db)
        db.compact()
        writer.check(db)


@pytest.mark.parametrize("log_io", ["mapped", "written"])
def test_killed_again_and_again_while_recovering(
    store_path: str, rng: random.Random, log_io: str
) -> None:
    writer = Writer(store_path, rng.getrandbits(32), "process", log_io, 1)
    writer.run(300, 0)
    for _ in range(ROUNDS):
        writer.run(0, rng.uniform(0, 0.02))
        with lsmkit.open(store_path, read_only=True) as db:
            writer.check(db)
    with lsmkit.open(store_path, **kill_writer.TINY) as db:
        writer.check(db)
