"""Claim: whatever is done to a B-tree, it holds what a sorted dict would hold, and after a fault
what its durability promises.

Method: a Hypothesis state machine over a tree on a disk that is killed and loses power; tiny memory
and log, so that pages leave memory and checkpoints happen in the middle of everything.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

import lsmkit
from lsmkit.testing import FaultyDisk

KEYS = st.one_of(
    st.binary(max_size=3),
    st.integers(0, 400).map(lambda i: b"key%06d" % i),
    st.integers(0, 20).map(lambda i: b"long" * (120 + i) + b"%d" % i),
)
VALUES = st.one_of(
    st.binary(max_size=20),
    st.integers(0, 1500).map(lambda n: b"v" * n),
    st.integers(2000, 20_000).map(lambda n: b"w" * n),
)
DURABILITIES = st.sampled_from([None, "process", "periodic", "sync"])


class BTreeMachine(RuleBasedStateMachine):
    """A tree, and what it should hold: as far as the process keeps it, and as power does."""

    @initialize(page_bytes=st.sampled_from([4096, 8192]), seed=st.integers(0, 1000))
    def begin(self, page_bytes: int, seed: int) -> None:
        self.disk = FaultyDisk(seed=seed)
        self.page_bytes = page_bytes
        self.rows: dict[bytes, bytes] = {}
        self.synced: dict[bytes, bytes] = {}
        self.open()

    def open(self) -> None:
        self.tree = lsmkit.open_btree(
            "tree",
            disk=self.disk,
            page_bytes=self.page_bytes,
            cache_bytes=64 * self.page_bytes,
            log_bytes=64 << 10,
        )

    def wrote(self, durability: str | None) -> None:
        if durability == "sync":
            self.synced = dict(self.rows)

    @rule(key=KEYS, value=VALUES, durability=DURABILITIES)
    def put(self, key: bytes, value: bytes, durability: str | None) -> None:
        self.tree.put(key, value, durability=durability)
        self.rows[key] = value
        self.wrote(durability)

    @rule(key=KEYS, durability=DURABILITIES)
    def delete(self, key: bytes, durability: str | None) -> None:
        self.tree.delete(key, durability=durability)
        self.rows.pop(key, None)
        self.wrote(durability)

    @rule(rows=st.lists(st.tuples(KEYS, VALUES), max_size=60), durability=DURABILITIES)
    def put_many(self, rows: list[tuple[bytes, bytes]], durability: str | None) -> None:
        self.tree.put_many([k for k, _ in rows], [v for _, v in rows], durability=durability)
        self.rows.update(rows)
        if rows:
            self.wrote(durability)

    @rule(first=st.integers(0, 400), count=st.integers(1, 300), size=st.integers(0, 150))
    def load(self, first: int, count: int, size: int) -> None:
        keys = [b"key%06d" % i for i in range(first, first + count)]
        self.tree.put_many(keys, [b"l" * size] * count)
        self.rows.update(dict.fromkeys(keys, b"l" * size))

    @rule(keys=st.lists(KEYS, max_size=30))
    def delete_many(self, keys: list[bytes]) -> None:
        self.tree.delete_many(keys)
        for key in keys:
            self.rows.pop(key, None)

    @rule(start=KEYS, stop=KEYS)
    def delete_range(self, start: bytes, stop: bytes) -> None:
        self.tree.delete_range(start, stop)
        self.rows = {k: v for k, v in self.rows.items() if not start <= k < stop}

    @rule(key=KEYS, value=VALUES)
    def exchange(self, key: bytes, value: bytes) -> None:
        assert self.tree.setdefault(key, value) == self.rows.setdefault(key, value)
        if value:
            assert self.tree.pop(key) == self.rows.pop(key)

    @rule(keys=st.lists(KEYS, max_size=20))
    def get_many(self, keys: list[bytes]) -> None:
        assert self.tree.get_many(keys) == [self.rows.get(key) for key in keys]

    @rule(start=KEYS, stop=KEYS, reverse=st.booleans())
    def scan(self, start: bytes, stop: bytes, reverse: bool) -> None:
        want = sorted((k, v) for k, v in self.rows.items() if start <= k < stop)
        assert list(self.tree.scan(start, stop, reverse=reverse)) == want[:: -1 if reverse else 1]

    @rule(key=KEYS, steps=st.lists(st.booleans(), max_size=20))
    def walk(self, key: bytes, steps: list[bool]) -> None:
        keys = sorted(self.rows)
        at = sum(k < key for k in keys)
        cursor = self.tree.cursor()
        assert cursor.seek(key) == (at < len(keys))
        for back in steps:
            if not 0 <= at < len(keys):
                break
            assert (cursor.key, cursor.value) == (keys[at], self.rows[keys[at]])
            at += -1 if back else 1
            assert (cursor.prev() if back else cursor.next()) == (0 <= at < len(keys))

    @rule()
    def sync(self) -> None:
        self.tree.sync()
        self.synced = dict(self.rows)

    @rule()
    def reopen(self) -> None:
        self.tree.close()
        self.synced = dict(self.rows)
        self.open()

    @rule()
    def kill(self) -> None:
        self.disk.kill()
        self.open()

    @rule()
    def power_cut(self) -> None:
        """Only where all that was written was synced is it known what is there afterwards."""
        if self.rows != self.synced:
            self.tree.sync()
        self.disk.power_cut()
        self.synced = dict(self.rows)
        self.open()

    @invariant()
    def it_holds_the_rows(self) -> None:
        if hasattr(self, "tree"):
            assert len(self.tree) == len(self.rows)

    def teardown(self) -> None:
        if hasattr(self, "tree"):
            assert dict(self.tree) == dict(sorted(self.rows.items()))
            report = self.tree.verify()
            assert report, report.errors
            self.tree.close()


@pytest.mark.timeout(0 if settings.default.max_examples > 1000 else 300)
def test_a_b_tree_is_a_sorted_dict() -> None:
    run_state_machine_as_test(
        BTreeMachine,
        settings=settings(
            max_examples=settings.default.max_examples,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
