"""Claim: `hot_keys` names the keys that were written most often lately, with their share of the
writes, too high by no more than the error that it gives.

Method: streams of known distributions, counted exactly beside it.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

import lsmkit

SMALL: dict[str, Any] = {"segment_bytes": 1 << 18, "merge_operator": lsmkit.merge.AddInt64()}


def zipf(rng: random.Random, keys: int, writes: int, skew: float) -> list[bytes]:
    weights = [1 / (i + 1) ** skew for i in range(keys)]
    drawn = rng.choices(range(keys), weights, k=writes)
    return [b"key%05d" % i for i in drawn]


def check(found: list[tuple[bytes, float, float]], counts: Counter[bytes], n: int) -> None:
    total = counts.total()
    assert len(found) == min(n, len(counts))
    assert len({key for key, _, _ in found}) == len(found)
    shares = [share for _, share, _ in found]
    assert shares == sorted(shares, reverse=True)
    for key, share, error in found:
        assert share - error - 1e-9 <= counts[key] / total <= share + 1e-9


@pytest.mark.parametrize("skew", [0.8, 1.0, 1.2])
@pytest.mark.parametrize("by", ["put", "put_many", "merge", "batch"])
def test_zipf_streams(store_path: str, rng: random.Random, skew: float, by: str) -> None:
    counts: Counter[bytes] = Counter()
    one = (1).to_bytes(8, "little")
    with lsmkit.open(store_path, **SMALL) as db:
        for _ in range(3):
            drawn = zipf(rng, 10_000, 5000, skew)
            counts.update(drawn)
            if by == "put":
                for key in drawn:
                    db.put(key, one)
            elif by == "merge":
                for key in drawn:
                    db.merge(key, one)
            elif by == "put_many":
                db.put_many(drawn, [one] * len(drawn))
            else:
                with db.batch() as batch:
                    for key in drawn:
                        batch.put(key, one)
        found = db.hot_keys(10)
        check(found, counts, 10)
        # The heaviest three are far enough apart from the rest to be named for sure.
        assert {key for key, _ in counts.most_common(3)} <= {key for key, _, _ in found}
        assert max(error for _, _, error in found) < 0.005


def test_hot_keys_stand_out_before_and_after_a_flush(db: lsmkit.DB) -> None:
    for i in range(1000):
        db.put(b"cold%d" % i, b"")
        db.put(b"hot", b"%d" % i)
    assert db.hot_keys(1) == [(b"hot", 0.5, 0.0)]
    db.flush()
    ((key, share, error),) = db.hot_keys(1)
    assert (key, share) == (b"hot", 0.5)
    assert error == 0
    for _ in range(2000):
        db.delete(b"gone")
    assert [key for key, _, _ in db.hot_keys(2)] == [b"gone", b"hot"]


def test_what_was_written_long_ago_is_forgotten(store_path: str) -> None:
    with lsmkit.open(store_path, segment_bytes=4096) as db:
        for _ in range(500):
            db.put(b"before", b"x" * 20)
        for i in range(2000):
            db.put(b"now%d" % (i % 3), b"x" * 20)
        db.flush()
        assert {key for key, _, _ in db.hot_keys(10)} == {b"now0", b"now1", b"now2"}


def test_nothing_written_and_nothing_asked_for(db: lsmkit.DB) -> None:
    assert db.hot_keys(5) == []
    db.put(b"a", b"1")
    assert db.hot_keys(0) == []
    assert db.hot_keys(5) == [(b"a", 1.0, 0.0)]
    with pytest.raises(ValueError, match="n is -1"):
        db.hot_keys(-1)
    with pytest.raises(TypeError):
        db.hot_keys("many")  # type: ignore[arg-type]
    db.close()
    with pytest.raises(lsmkit.ClosedError):
        db.hot_keys(1)
