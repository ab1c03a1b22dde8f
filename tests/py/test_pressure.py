"""Writers are slowed before they must stop, `db.pressure` says by how much; waits are bounded.

The background is made slow by `rate_limit`, never by sleeping: a flush then takes longer than the
test, and what a writer meets follows from what it has written.
"""

from __future__ import annotations

from typing import Any

import pytest

import lsmkit

SLOW: dict[str, Any] = {
    "segment_bytes": 256 << 10,
    "block_bytes": 1024,
    "compression": "none",
    "rate_limit": 64 << 10,
}


def fill(db: lsmkit.DB, first: int, timeout: float = 0.0) -> tuple[int, list[float], lsmkit.Busy]:
    """Puts until one is refused: its number, the pressure every ten puts, and what it was told."""
    seen = []
    i = first
    try:
        while True:
            db.put(b"%08d" % i, bytes(1000), timeout=timeout)
            i += 1
            if i % 10 == 0:
                seen.append(db.pressure)
    except lsmkit.Busy as busy:
        return i, seen, busy


@pytest.fixture
def db(store_path: str) -> Any:
    with lsmkit.open(store_path, **SLOW) as db:
        yield db


def test_pressure_is_zero_until_a_segment_waits_and_rises_before_a_write_is_refused(
    db: lsmkit.DB,
) -> None:
    assert db.pressure == 0
    _, seen, _ = fill(db, 0, 0.05)  # one that is only slowed goes on
    assert seen[:20] == [0] * 20, "the first segment is not full yet"
    assert max(seen[:-1]) > 0
    assert 0 < db.pressure <= 1
    assert db.stats().pressure > 0


def test_a_refused_write_is_not_applied_and_says_when_to_come_again(db: lsmkit.DB) -> None:
    first, _, busy = fill(db, 0)
    assert 0 < busy.retry_after < 60
    assert b"%08d" % first not in db
    assert len(list(db.scan_keys())) == first
    assert db.stats().writes.records == first


@pytest.mark.parametrize(
    "write",
    [
        lambda db: db.put(b"k", b"v", timeout=0),
        lambda db: db.delete(b"k", timeout=0),
        lambda db: db.delete_range(b"a", b"b", timeout=0),
        lambda db: db.put_many([b"k"], [b"v"], timeout=0),
        lambda db: db.delete_many([b"k"], timeout=0),
        lambda db: db.write(written(), timeout=0),
    ],
    ids=["put", "delete", "delete_range", "put_many", "delete_many", "write"],
)
def test_every_writer_is_refused_where_it_would_have_to_wait(db: lsmkit.DB, write: Any) -> None:
    refused: lsmkit.Busy | None = None
    number = 0
    while refused is None:
        number, _, _ = fill(db, number)
        try:
            write(db)
        except lsmkit.Busy as busy:
            refused = busy
    assert refused.retry_after > 0


def written() -> lsmkit.WriteBatch:
    batch = lsmkit.WriteBatch()
    batch.put(b"k", b"v")
    return batch


def test_a_writer_that_waits_is_let_in_by_the_flush_and_pressure_falls(store_path: str) -> None:
    with lsmkit.open(store_path, **{**SLOW, "rate_limit": 4 << 20}) as db:
        count, _, _ = fill(db, 0)
        db.put(b"patient", b"")
        assert b"patient" in db
        db.compact()
        assert db.pressure == 0
        stalls = db.stats().stalls
        assert stalls.slowed + stalls.stopped > 0
        assert len(db) == count + 1
