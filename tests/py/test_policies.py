"""Claim: a store can be opened with any policy after any other and holds what it held; and whatever
the policy, rows that are dead leave the disk by themselves, at a bounded price.

Method: all pairs of policies, on the store without files of compaction_sim.py and on real stores of
tiny tables, against a dict. Then tables of deletes and of expired rows, counted by `stats()`.
"""

from __future__ import annotations

import importlib.util
import itertools
import random
from pathlib import Path
from typing import Any

import pytest

import lsmkit
from lsmkit import merge
from lsmkit.compaction import Fifo, LazyLeveled, Leveled, Policy, SizeTiered, TimeWindow
from lsmkit.options import Options
from lsmkit.version import Tree

FLUSH = 200  # rows
POLICIES: tuple[Policy, ...] = (
    LazyLeveled(),
    Leveled(),
    SizeTiered(),
    TimeWindow(seconds=15.0),
    Fifo(max_bytes=1 << 40),
)
PAIRS = [
    pytest.param(a, b, id=f"{a.name}-{b.name}") for a, b in itertools.permutations(POLICIES, 2)
]
EACH = [pytest.param(policy, id=policy.name) for policy in POLICIES]
TINY: dict[str, Any] = {
    "segment_bytes": 4096,
    "table_bytes": 4096,
    "level_base_bytes": 8192,
    "block_bytes": 256,
}


def load_sim() -> Any:
    path = Path(__file__).with_name("compaction_sim.py")
    spec = importlib.util.spec_from_file_location("compaction_sim", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sim = load_sim()


# ---- one after the other


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_any_policy_goes_on_with_what_another_left(first: Policy, second: Policy) -> None:
    options = Options(table_bytes=FLUSH * sim.ROW_BYTES, level_base_bytes=4 * FLUSH * sim.ROW_BYTES)
    store = sim.SimStore(first, options)
    load = sim.Uniform(FLUSH, 12, seed=8)
    for number in range(150):
        store.clock = number * 1_000_000
        store.policy = (first, second, first)[number // 50]
        store.flush(load.next(), FLUSH)
        store.settle()
    store.check(load.rng, samples=FLUSH * 12)
    for job in store.policy.full_jobs(store.tree(), options, None, None):
        store.apply(job)
    store.check(load.rng, samples=FLUSH * 12)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_a_store_changes_its_policy_and_not_its_content(
    tmp_path: Path, first: Policy, second: Policy
) -> None:
    rng = random.Random(9)
    model: dict[bytes, bytes] = {}
    for policy in (first, second, first):
        with lsmkit.open(tmp_path / "s", compaction=policy, **TINY) as db:
            assert db.options.compaction == policy
            for _ in range(1500):
                key = b"%03d" % rng.randrange(500)
                if rng.random() < 0.2:
                    db.delete(key)
                    model.pop(key, None)
                else:
                    model[key] = db[key] = rng.randbytes(20)
            low = b"%03d" % rng.randrange(400)
            high = b"%03d" % (int(low) + 50)
            db.delete_range(low, high)
            model = {key: value for key, value in model.items() if not low <= key < high}
            db.flush()
            db.wait_idle()
            assert dict(db.scan()) == model
            assert all(db.get(b"%03d" % n) == model.get(b"%03d" % n) for n in range(500))
            db.compact()
            assert dict(db.scan()) == model
            assert db.stats().background_errors == 0, db.stats().last_error
            assert db.verify()


@pytest.mark.parametrize("policy", EACH)
def test_every_policy_comes_back_from_its_text(policy: Policy) -> None:
    assert Policy.from_text(policy.to_text()) == policy
    assert Policy.from_text(policy.to_text()).to_text() == policy.to_text()


# ---- dead rows


@pytest.mark.parametrize("policy", [LazyLeveled(), Leveled(), SizeTiered()])
def test_deletes_leave_with_what_they_end(tmp_path: Path, policy: Policy) -> None:
    with lsmkit.open(tmp_path / "s", compaction=policy, **TINY) as db:
        for n in range(1000):
            db.put(b"%04d" % n, b"v" * 30)
        db.flush()
        db.wait_idle()
        db.delete_many([b"%04d" % n for n in range(1000) if n % 10])  # they are flushed as one
        db.flush()
        db.wait_idle()
        rows = sum(level.rows for level in db.stats().levels)
        assert rows < 500, "more than half is dead"
        assert len(db) == 100


@pytest.mark.parametrize("policy", EACH)
def test_expired_tables_leave_by_themselves_unread(tmp_path: Path, policy: Policy) -> None:
    """Nothing wakes the store: it knows when to look."""
    with lsmkit.open(tmp_path / "s", compaction=policy, **TINY) as db:
        for n in range(200):
            db.put(b"%04d" % n, b"v" * 30, ttl=0.3)
        db.flush()
        while db.stats().table_bytes:
            pass
        assert len(db) == 0
        assert db.stats().background_errors == 0


@pytest.mark.parametrize("policy", EACH)
def test_rows_that_expire_one_after_another_are_written_anew_once_each(
    tmp_path: Path, policy: Policy
) -> None:
    """At each rewriting half of the rows have gone, so all of them together read twice as many."""
    with lsmkit.open(tmp_path / "s", compaction=policy, **TINY) as db:
        with db.batch() as batch:
            for n in range(64):
                batch.put(b"%04d" % n, b"v" * 40, ttl=0.1 + n * 0.005)
        db.flush()
        while db.stats().table_bytes:
            pass
        assert db.stats().compactions.rows <= 130
        for _ in range(5):
            db.wait_idle()
        assert db.stats().compactions.rows <= 130
        assert len(db) == 0


def test_expired_operands_that_cannot_go_are_not_looked_at_again_and_again(tmp_path: Path) -> None:
    """A newer operand renewed them: the sum is alive, and the old table has to stay as it is."""
    made: dict[str, Any] = {"compaction": TimeWindow(seconds=1e-3), **TINY}
    one = (1).to_bytes(8, "little")
    keys = [b"%03d" % n for n in range(50)]
    with lsmkit.open(tmp_path / "s", merge_operator=merge.AddInt64(), ttl=0.5, **made) as db:
        db.merge_many(keys, [one] * 50)
        db.put(b"clock", one)
    with lsmkit.open(tmp_path / "s", ttl=3600, **made) as db:
        db.merge_many(keys, [one] * 50)
        assert db.get(b"049") == (2).to_bytes(8, "little")
        db.flush()
        while db.get(b"clock") is not None:
            pass
        db.wait_idle()
        merges = db.stats().compactions.merges
        for _ in range(20):
            db.wait_idle()
        assert db.stats().compactions.merges == merges
        assert db.get_many(keys) == [(2).to_bytes(8, "little")] * 50
        db.compact()
        assert db.get_many(keys) == [(2).to_bytes(8, "little")] * 50


def table(file: int, rows: int, dead: int, is_seen: bool = True) -> tuple[Any, ...]:
    return (file, 100 * rows, rows, dead, b"a", b"z", 1, 9, 0, 0, is_seen, 0, 0, 0)


def reclaim(*tables: tuple[Any, ...], **options: Any) -> Any:
    runs = tuple((0, t[0], (t,)) for t in tables)
    return SizeTiered().reclaim(Tree.from_raw(0, ((b"", runs),)), Options(**options), ())


def test_a_reclaim_costs_no_more_than_it_gives() -> None:
    made = {"table_bytes": 100_000}
    job = reclaim(table(2, 1000, 600), table(1, 800, 0), **made)
    assert job is not None
    assert sorted(job.inputs) == [1, 2]
    assert reclaim(table(2, 1000, 600), table(1, 900, 0), **made) is None, "a third would go"
    assert reclaim(table(2, 1000, 400), table(1, 100, 0), **made) is None
    assert reclaim(table(2, 1000, 400), table(1, 100, 0), max_garbage=0.4, **made) is not None
    assert reclaim(table(2, 100, 60), table(1, 10, 0), **made) is None, "too small to matter"


def test_deletes_that_a_snapshot_needs_start_nothing() -> None:
    made = {"table_bytes": 100_000}
    assert reclaim(table(2, 1000, 600, is_seen=False), table(1, 800, 0), **made) is None


def test_a_snapshot_does_not_make_a_store_busy_for_ever(tmp_path: Path) -> None:
    with lsmkit.open(tmp_path / "s", compaction=SizeTiered(), **TINY) as db:
        for n in range(300):
            db.put(b"%04d" % n, b"v" * 30)
        snapshot = db.snapshot()
        for n in range(300):
            db.delete(b"%04d" % n)
        db.flush()
        db.wait_idle()
        assert len(snapshot) == 300
        snapshot.close()
        db.wait_idle()
        assert db.stats().table_bytes == 0
