"""Four mixes of YCSB over a million rows: A (half updates), B (5 % updates), F (half of the
operations read, change and write back), all with the skew of YCSB; D reads what is newest while
5 % of the operations insert."""

from __future__ import annotations

import numpy as np
import pytest

from bench import workloads as w
from bench.race import ROUNDS

OPERATIONS = w.rows(200_000, multiple=10_000)
SECONDS_MAX = w.seconds(0.7)
CHUNK = 10_000


def operations(count, writes, seed=0):
    """Pieces of (key, value), where a value of None is a read."""
    rng = np.random.default_rng([w.SEED, 4, seed])
    places = rng.permutation(count)[w.zipfian(OPERATIONS, count, seed)]
    keys = w.drawn(w.key_array(count), places)
    return in_pieces(keys, rng.random(OPERATIONS) < writes)


def latest(count, inserts, seed):
    """The same for mix D: reads prefer what was inserted last."""
    rng = np.random.default_rng([w.SEED, 5, seed])
    is_insert = rng.random(OPERATIONS) < inserts
    new = w.key_array(int(is_insert.sum()), 100 + seed)
    known = np.concatenate([w.key_array(count), new])
    there = count + np.cumsum(is_insert)
    places = np.where(is_insert, there - 1, there - 1 - w.zipfian(OPERATIONS, count, seed))
    return in_pieces(w.drawn(known, places), is_insert)


def in_pieces(keys, is_write):
    values = w.values(OPERATIONS, 1)
    mixed = [
        (key, value if write else None)
        for key, value, write in zip(keys, values, is_write.tolist(), strict=True)
    ]
    return [mixed[i : i + CHUNK] for i in range(0, len(mixed), CHUNK)]


def mix(store):
    """Reads and blind writes."""
    get, put = store.get, store.put

    def work(piece):
        for key, value in piece:
            if value is None:
                get(key)
            else:
                put(key, value)

    return work


def mix_with_changes(store):
    get, put = store.get, store.put

    def work(piece):
        for key, value in piece:
            old = get(key)
            if value is not None:
                put(key, value[:50] + old[50:])

    return work


@pytest.mark.parametrize(
    ("name", "writes", "work", "target"),
    [("A", 0.5, mix, 3), ("B", 0.05, mix, 1.8), ("F", 0.5, mix_with_changes, 3)],
)
def test_ycsb(compete, changing, report, name, writes, work, target):
    pieces = operations(len(changing.keys), writes)
    samples = compete(changing.turns(lambda store: w.rate(work(store), pieces, SECONDS_MAX, CHUNK)))
    report.race(f"YCSB {name}", samples, target)


def test_ycsb_d(compete, changing, report):
    count = len(changing.keys)
    rounds = [latest(count, 0.05, seed) for seed in range(ROUNDS)]
    turn = dict.fromkeys(changing.stores, 0)

    def work(store):
        pieces = rounds[turn[store.name]]
        turn[store.name] += 1
        return w.rate(mix(store), pieces, SECONDS_MAX, CHUNK)

    samples = compete(changing.turns(work))
    report.race("YCSB D", samples, 3)
